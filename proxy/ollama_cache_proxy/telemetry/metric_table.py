"""The table of metrics: one row each, with name, kind, labels and help text. metrics.py counts them.

The name of a metric is PREFIX and the name of its row; a counter is exposed with `_total` at its end. Names and units
follow the Prometheus naming rules. docs/metrics.md is generated from this table.
"""

# No `from __future__ import annotations` here: the annotations of the table are read at run time.

from collections.abc import Iterator, Sequence
from inspect import get_annotations
from typing import Annotated, Final, get_args

from ollama_cache_proxy.policy.sums import Across
from ollama_cache_proxy.telemetry.metric_families import Counter, Family, Gauge, Histogram

PREFIX: Final = "ollama_cache_proxy_"

TIMES: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)
"""Seconds: from a hit to a cold load with a long response."""
STORE_TIMES: Final = (0.0001, *(time for time in TIMES if time <= 2.5))  # noqa: PLR2004 - no operation may take longer
TOKEN_TIMES: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5),
)
"""Seconds per token: 1000 to 0.4 tokens per second."""
LAG_TIMES: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
LOAD_TIMES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)


POSITIONS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


_HOW: Final = ("endpoint", "cache")
_WORK: Final = ("endpoint", "model")


class Row:
    """One row: the help text of a metric, and the names of its labels.

    `bounds` are the buckets of a histogram. `across` says how the values of several processes are combined; by default
    gauges are added up, and all else is a total that outlives its process.
    """

    def __init__(
        self, text: str, labels: tuple[str, ...] = (), *, bounds: Sequence[float] = (), across: Across | None = None
    ) -> None:
        self.text = text
        self.labels = labels
        self.bounds = bounds
        self.across = across


class Families:
    """Every metric of the proxy, in the order of the exposition."""

    # Exchanges.

    requests: Annotated[
        Counter,
        Row(
            "Requests by endpoint, model, result of the cache, and status.",
            ("endpoint", "model", "cache", "status"),
        ),
    ]
    request_duration_seconds: Annotated[Histogram, Row("Time to the last byte of a response.", _HOW, bounds=TIMES)]
    first_byte_seconds: Annotated[Histogram, Row("Time to the first byte of a response.", _HOW, bounds=TIMES)]
    time_to_first_token_seconds: Annotated[
        Histogram,
        Row("Time to the first chunk of a stream that contains output of the model.", _HOW, bounds=TIMES),
    ]
    hits: Annotated[Counter, Row("Requests served from the store or from another request's flight.", ("endpoint",))]
    misses: Annotated[Counter, Row("Candidates for which Ollama was asked, or tried.", ("endpoint",))]
    lookups: Annotated[
        Counter,
        Row(
            "Hits and misses by the request's category (empty: none; at most 32, then `other`).",
            ("endpoint", "category", "cache"),
        ),
    ]
    hit_ratio: Annotated[Gauge, Row("Hits divided by hits and misses since the start, 0 to 1.")]
    collapsed: Annotated[Counter, Row("Hits that were collapsed: served from another request's flight.", ("endpoint",))]
    bypasses: Annotated[Counter, Row("Requests that bypassed the cache, by reason.", ("endpoint", "detail"))]
    unkept: Annotated[
        Counter,
        Row("Misses whose response was not stored, by reason; also where that showed later.", ("endpoint", "detail")),
    ]
    items: Annotated[Counter, Row("Texts in lists to embed, by whether their vectors were in the store.", _HOW)]
    errors: Annotated[Counter, Row("Exchanges that failed, by the side that failed.", ("source",))]
    own_refusals: Annotated[
        Counter,
        Row("Requests for the proxy's own routes with a wrong admin token, by how they were refused.", ("detail",)),
    ]
    saved_seconds: Annotated[Counter, Row("Seconds of work that the cache saved Ollama.", ("endpoint",))]
    saved_prompt_tokens: Annotated[Counter, Row("Prompt tokens that Ollama did not have to read again.", ("endpoint",))]
    saved_output_tokens: Annotated[
        Counter, Row("Output tokens that Ollama did not have to write again.", ("endpoint",))
    ]
    requests_in_flight: Annotated[Gauge, Row("Requests in progress, without the proxy's own routes.")]
    connections: Annotated[Gauge, Row("Open connections of clients.")]
    idle_connections: Annotated[Gauge, Row("Those of them without a request in progress.")]
    connection_limit: Annotated[
        Gauge, Row("How many there may be: `max_connections`, or what the limit on open files allows.")
    ]
    closed_connections: Annotated[
        Counter,
        Row(
            "Connections that the proxy closed: idle ones for want of `places` or by `keep-alive`, and new ones because"
            " it was `full`.",
            ("reason",),
        ),
    ]
    log_lines_dropped: Annotated[Counter, Row("Lines of the log that were dropped, since nobody read the log.")]
    event_loop_lag_seconds: Annotated[
        Histogram,
        Row(
            "By how much a timer of the event loop was late, looked at ten times a second: work that holds the loop, or"
            " a processor that is not free.",
            bounds=LAG_TIMES,
        ),
    ]

    audited: Annotated[
        Counter,
        Row(
            "Hits that the audit drew, by what came of it: `same`, `wrong`, `not-reproducible`, or why they were not"
            " compared.",
            ("endpoint", "outcome"),
        ),
    ]
    audit_wrong: Annotated[
        Counter,
        Row(
            "Hits that the audit found wrong, by what differs and what that looks like; their entries are deleted.",
            ("model", "kind", "cause"),
        ),
    ]

    # Ollama's work.

    prompt_tokens: Annotated[
        Counter,
        Row("Prompt tokens, as counted by Ollama in its responses: also those from its own prompt cache.", _WORK),
    ]
    prompt_tokens_by_source: Annotated[
        Counter,
        Row(
            "Prompt tokens by source: `computed` by Ollama, from Ollama's `prompt-cache`, `saved` by this cache, or"
            " `not-told` whether computed.",
            ("endpoint", "source"),
        ),
    ]
    prompt_computed_tokens: Annotated[
        Counter, Row("Prompt tokens that Ollama computed, of responses that tell how many and how long.", _WORK)
    ]
    prompt_computed_seconds: Annotated[
        Counter, Row("Ollama's seconds for `prompt_computed_tokens`: their quotient is its speed.", _WORK)
    ]
    prompt_forecast_tokens: Annotated[
        Counter,
        Row(
            "Prompt tokens by what the fingerprints of prompts say: `reused` by Ollama from its prompt cache, or"
            " `computed`. Estimated, also where Ollama does not tell (`prompt_watch`).",
            ("endpoint", "model", "source"),
        ),
    ]
    prompt_forecast_checked_tokens: Annotated[
        Counter,
        Row(
            "Those of them that were compared with what Ollama `told`, or with the `time` that it took.",
            ("model", "by"),
        ),
    ]
    prompt_forecast_wrong_tokens: Annotated[
        Counter,
        Row(
            "By how many tokens the forecasts were wrong; divided by `prompt_forecast_checked_tokens` their error.",
            ("model", "by"),
        ),
    ]
    prompt_lost_tokens: Annotated[
        Counter,
        Row(
            "Prompt tokens that Ollama read again, estimated, by cause (docs/prompts.md) and by where in the prompt it"
            " changes: `system`, `tools`, `messages` or `prompt`.",
            ("model", "cause", "where"),
        ),
    ]
    prompt_lost_seconds: Annotated[
        Counter, Row("Ollama's seconds for those tokens, by its speed.", ("model", "cause", "where"))
    ]
    output_tokens: Annotated[Counter, Row("Output tokens, as counted by Ollama in its responses.", _WORK)]
    prompt_eval_seconds: Annotated[Counter, Row("Ollama's seconds of reading prompts, if it reports them.", _WORK)]
    eval_seconds: Annotated[Counter, Row("Ollama's seconds of writing tokens, if it reports them.", _WORK)]
    time_per_output_token_seconds: Annotated[
        Histogram, Row("Time per output token, as reported by Ollama.", ("model",), bounds=TOKEN_TIMES)
    ]
    load_duration_seconds: Annotated[
        Histogram, Row("Time to load the model, as reported by Ollama.", ("model",), bounds=LOAD_TIMES)
    ]

    # The store.

    stores: Annotated[Counter, Row("Entries written to the store.", ("endpoint",))]
    stored_bytes: Annotated[Counter, Row("Bytes of bodies written to the store.", ("endpoint",))]
    store_faults: Annotated[
        Counter,
        Row("Failed operations; entries that are damaged, of another seal key (foreign), or dropped.", ("kind",)),
    ]
    store_operation_seconds: Annotated[
        Histogram, Row("Time of an operation of Redis, as seen by the proxy.", ("operation",), bounds=STORE_TIMES)
    ]
    store_errors: Annotated[Counter, Row("Operations of Redis that failed or timed out.", ("operation",))]
    store_breaker_open: Annotated[
        Gauge,
        Row(
            "1 while the breaker is open and nothing but probes asks Redis, else 0.",
            ("breaker",),
            across=Across.MOST,
        ),
    ]
    store_entries: Annotated[Gauge, Row("Stored entries: exact in memory, the last count for Redis.", ("tier",))]
    store_bytes: Annotated[Gauge, Row("Bytes of memory that entries take; for Redis its `used_memory`.", ("tier",))]
    store_evictions: Annotated[Counter, Row("Entries evicted to free memory; for Redis its `evicted_keys`.", ("tier",))]

    # Neighbours.

    upstream_up: Annotated[
        Gauge,
        Row("Whether Ollama responds, and takes the proxy's own requests (1), or not (0).", across=Across.LEAST),
    ]
    store_up: Annotated[Gauge, Row("Whether the store responded last time (1) or not (0).", across=Across.LEAST)]
    store_writes_up: Annotated[Gauge, Row("Whether the store took the last write (1) or not (0).", across=Across.LEAST)]
    upstream_requests_in_flight: Annotated[Gauge, Row("Requests that Ollama is serving, including the proxy's own.")]
    upstream_host_up: Annotated[
        Gauge,
        Row(
            "Of several Ollamas, by name: whether it takes requests (1), or is ejected or drained (0).",
            ("upstream",),
            across=Across.LEAST,
        ),
    ]
    upstream_host_requests_in_flight: Annotated[
        Gauge, Row("Of several Ollamas: requests that it is serving, without looks.", ("upstream",))
    ]
    upstream_host_requests: Annotated[
        Counter,
        Row(
            "Of several Ollamas: requests that were sent to it, by outcome: `answered` with any status, or `failed`.",
            ("upstream", "outcome"),
        ),
    ]
    lane_wait_seconds: Annotated[
        Histogram,
        Row(
            "With `lanes`: how long requests, and parts of lists, waited for their turn at Ollama, by lane and what"
            " ended it: `sent`, `left` (the client), `lane-wait` or `lane-full` (503).",
            ("lane", "end"),
            bounds=TIMES,
        ),
    ]
    lane_ahead: Annotated[
        Histogram,
        Row(
            "With `lanes`: how many others waited when a request, or a part of a list, came that would go before it.",
            ("lane",),
            bounds=POSITIONS,
        ),
    ]
    lane_waiting: Annotated[
        Gauge,
        Row("With `lanes`: requests that wait for their turn, by Ollama (empty: the only one).", ("upstream", "lane")),
    ]
    lane_under_way: Annotated[
        Gauge,
        Row("With `lanes`: requests that Ollama is serving, by the lane that they came by.", ("upstream", "lane")),
    ]
    model_loaded: Annotated[Gauge, Row("1 for each model that Ollama has loaded.", ("model",), across=Across.MOST)]
    model_size_bytes: Annotated[Gauge, Row("Total bytes of a loaded model.", ("model",), across=Across.MOST)]
    model_vram_bytes: Annotated[
        Gauge,
        Row(
            "Bytes of a loaded model that Ollama counts as GPU memory; without a GPU these can be main memory.",
            ("model",),
            across=Across.MOST,
        ),
    ]
    build_info: Annotated[
        Gauge, Row("Always 1; the labels hold the versions.", ("version", "python"), across=Across.MOST)
    ]

    def __init__(self) -> None:
        for name, (kind, row) in _ROWS.items():
            more = (row.bounds,) if row.bounds else ()
            setattr(self, name, kind(PREFIX + name, row.text, row.labels, *more))

    def __iter__(self) -> Iterator[Family]:
        return (getattr(self, name) for name in _ROWS)


_ROWS: Final = {name: get_args(column) for name, column in get_annotations(Families).items()}
"""By name: the kind of a metric, and its row."""

ACROSS: Final = {
    PREFIX + name: row.across or (Across.SUM if kind is Gauge else Across.TOTAL) for name, (kind, row) in _ROWS.items()
}
"""By the name of a family: how its values in several processes are combined."""
