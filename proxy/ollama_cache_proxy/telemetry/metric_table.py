"""The table of metrics: each is one row of name, kind, labels and text. Counting them is metrics.py's.

The name of a row, after PREFIX, is that of the metric; a counter is written with `_total` at its end. Names and units
follow the Prometheus naming rules. docs/metrics.md is made from this.
"""

# No `from __future__ import annotations` here: the annotations of the table are what is read.

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
"""Seconds: from a hit to a cold load with a long answer."""
STORE_TIMES: Final = (0.0001, *(time for time in TIMES if time <= 2.5))  # noqa: PLR2004 - no operation may take longer
TOKEN_TIMES: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5),
)
"""Seconds: the inverse of what people call tokens per second, 1000 to 0.4."""
LOAD_TIMES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)


_HOW: Final = ("endpoint", "cache")
_WORK: Final = ("endpoint", "model")


class Row:
    """What a metric is, beside its name and kind: one line of text, and the names of its labels.

    `bounds` are the buckets of a histogram. `across` says how the values of several processes become one; without it,
    those of a gauge are added up, and all else is a total that outlives its process.
    """

    def __init__(
        self, text: str, labels: tuple[str, ...] = (), *, bounds: Sequence[float] = (), across: Across | None = None
    ) -> None:
        self.text = text
        self.labels = labels
        self.bounds = bounds
        self.across = across


class Families:
    """Every metric of the proxy's own, in the order in which they are written."""

    # Exchanges.

    requests: Annotated[
        Counter,
        Row(
            "Requests by what they asked, how the cache took part, and status.",
            ("endpoint", "model", "cache", "status"),
        ),
    ]
    request_duration_seconds: Annotated[Histogram, Row("Time to the last byte of an answer.", _HOW, bounds=TIMES)]
    first_byte_seconds: Annotated[Histogram, Row("Time to the first byte of an answer.", _HOW, bounds=TIMES)]
    time_to_first_token_seconds: Annotated[
        Histogram,
        Row("Time to the first chunk of a stream that holds something of what the model says.", _HOW, bounds=TIMES),
    ]
    hits: Annotated[Counter, Row("Requests answered from the cache or another's flight.", ("endpoint",))]
    misses: Annotated[Counter, Row("Candidates that went, or were tried, upstream.", ("endpoint",))]
    lookups: Annotated[
        Counter,
        Row(
            "Hits and misses by the category that the request named (empty: none; at most 32, then `other`).",
            ("endpoint", "category", "cache"),
        ),
    ]
    hit_ratio: Annotated[Gauge, Row("Hits by hits and misses since the start, 0 to 1.")]
    collapsed: Annotated[Counter, Row("Hits that came from another's flight.", ("endpoint",))]
    bypasses: Annotated[Counter, Row("Requests that the cache had no part in, by reason.", ("endpoint", "detail"))]
    unkept: Annotated[Counter, Row("Misses whose answer was not kept, by reason.", ("endpoint", "detail"))]
    items: Annotated[Counter, Row("Texts of lists of embeddings, by whether they were known.", _HOW)]
    errors: Annotated[Counter, Row("Exchanges that failed, by whose fault.", ("source",))]
    saved_seconds: Annotated[Counter, Row("Seconds that Ollama did not have to work again.", ("endpoint",))]
    saved_prompt_tokens: Annotated[
        Counter, Row("Tokens of prompts that Ollama did not have to read again.", ("endpoint",))
    ]
    saved_output_tokens: Annotated[Counter, Row("Tokens that Ollama did not have to write again.", ("endpoint",))]
    requests_in_flight: Annotated[Gauge, Row("Requests that are being answered, admin routes aside.")]
    connections: Annotated[Gauge, Row("Connections of clients that are open.")]

    # Ollama's work.

    prompt_tokens: Annotated[Counter, Row("Tokens of prompts, as Ollama counted them in answers that it gave.", _WORK)]
    output_tokens: Annotated[Counter, Row("Tokens written, as Ollama counted them in answers that it gave.", _WORK)]
    prompt_eval_seconds: Annotated[Counter, Row("Seconds that Ollama spent reading prompts, where it says so.", _WORK)]
    eval_seconds: Annotated[Counter, Row("Seconds that Ollama spent writing tokens, where it says so.", _WORK)]
    time_per_output_token_seconds: Annotated[
        Histogram, Row("Ollama's own time for each token of an answer.", ("model",), bounds=TOKEN_TIMES)
    ]
    load_duration_seconds: Annotated[
        Histogram, Row("Ollama's own time to load the model for an answer.", ("model",), bounds=LOAD_TIMES)
    ]

    # The store.

    stores: Annotated[Counter, Row("Entries that reached the store.", ("endpoint",))]
    stored_bytes: Annotated[Counter, Row("Bytes of bodies that reached the store.", ("endpoint",))]
    store_faults: Annotated[Counter, Row("Operations that failed, entries damaged or dropped.", ("kind",))]
    store_operation_seconds: Annotated[
        Histogram, Row("Time of an operation of Redis, as it was waited for.", ("operation",), bounds=STORE_TIMES)
    ]
    store_errors: Annotated[Counter, Row("Operations of Redis that failed or took too long.", ("operation",))]
    store_breaker_open: Annotated[
        Gauge, Row("Whether Redis is only tried once a second (1) or used (0).", ("breaker",), across=Across.MOST)
    ]
    store_entries: Annotated[Gauge, Row("Entries that are kept: exact in memory, of Redis the last count.", ("tier",))]
    store_bytes: Annotated[
        Gauge, Row("Bytes that entries take in memory; of Redis all of its `used_memory`.", ("tier",))
    ]
    store_evictions: Annotated[
        Counter, Row("Entries that left for want of room; of Redis its `evicted_keys`.", ("tier",))
    ]

    # Neighbours.

    upstream_up: Annotated[Gauge, Row("Whether Ollama answered last time (1) or not (0).", across=Across.LEAST)]
    store_up: Annotated[Gauge, Row("Whether the store answered last time (1) or not (0).", across=Across.LEAST)]
    store_writes_up: Annotated[Gauge, Row("Whether the store took the last entry (1) or not (0).", across=Across.LEAST)]
    upstream_requests_in_flight: Annotated[Gauge, Row("Requests that Ollama is answering, the proxy's own included.")]
    model_loaded: Annotated[Gauge, Row("1 for each model that Ollama has loaded.", ("model",), across=Across.MOST)]
    model_size_bytes: Annotated[Gauge, Row("Bytes that a loaded model takes in all.", ("model",), across=Across.MOST)]
    model_vram_bytes: Annotated[
        Gauge, Row("Bytes of a loaded model in the memory of GPUs.", ("model",), across=Across.MOST)
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
"""By the name of a family: how its values in several processes become one."""
