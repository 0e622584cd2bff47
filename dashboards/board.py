"""The dashboard: panels and their queries. generate.py writes it in Grafana's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.usage import uses_model

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """One query."""

    expr: str
    legend: str
    instant: bool = False
    """Whether it is evaluated only at the end of the time range."""
    form: str = "time_series"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel."""

    title: str
    text: str
    """Its description."""
    unit: str
    """Grafana's name of the unit."""
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    """Cells of Grafana's grid of 24 columns."""
    height: int = 8
    """Cells of the grid."""
    lowest: float | None = 0
    highest: float | None = None
    steps: tuple[tuple[float, str], ...] = ()
    """Thresholds with the colour of values from there on."""
    base: str = "green"
    """The colour below the first threshold."""
    stacked: bool = False
    logarithmic: bool = False
    defaults: Mapping[str, Any] | None = None
    """Field settings of this panel only."""
    overrides: tuple[Json, ...] = ()
    options: Mapping[str, Any] | None = None
    transformations: tuple[Json, ...] = ()


# Queries

_INSTANCE: Final = 'instance=~"$instance"'
_RATE: Final = "[$__rate_interval]"
_RANGE: Final = "[$__range]"
_WORK: Final = "|".join(row.operation for row in ENDPOINTS if uses_model(row))
_HITS: Final = 'cache="hit"'
_MISSES: Final = 'cache="miss"'
_QUANTILES: Final = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


def _name(metric: str, *matchers: str) -> str:
    return f"ollama_cache_proxy_{metric}{{{', '.join((_INSTANCE, *matchers))}}}"


def _by(*labels: str) -> str:
    return f"sum by ({', '.join(labels)}) " if labels else "sum"


def _rate(metric: str, *labels: str, where: str = "") -> str:
    """Return the query for a counter's rate a second, summed by labels."""
    return f"{_by(*labels)}(rate({_name(metric, *filter(None, [where]))}{_RATE}))"


def _increase(metric: str, *labels: str) -> str:
    """Return the query for the increase of a counter over the time range."""
    return f"{_by(*labels)}(increase({_name(metric)}{_RANGE}))"


def _ranking(title: str, text: str, *, metric: str, label: str) -> Panel:
    """Return a panel of the increase of a counter by a label, the largest first."""
    query = Query(f"sort_desc({_increase(metric, label)})", f"{{{{{label}}}}}", instant=True)
    return Panel(title=title, text=text, unit="short", queries=(query,), kind="bargauge")


def _quantile(part: float, metric: str, *labels: str, where: str = "") -> str:
    return f"histogram_quantile({part}, {_rate(f'{metric}_bucket', *labels, 'le', where=where)})"


def _quantiles(metric: str, *, where: str = "") -> tuple[Query, ...]:
    return tuple(Query(_quantile(part, metric, where=where), name) for part, name in _QUANTILES)


def _hit_rate(*labels: str) -> str:
    """Return the query for a hit rate in percent; there is no series of hits before the first one."""
    asked = _rate("lookups_total", *labels)
    return f"100 * ({_rate('lookups_total', *labels, where=_HITS)} or 0 * {asked}) / ({asked} > 0)"


def _gpu(metric: str) -> str:
    """Return the query for each GPU once, whichever way its exporter spells the label of the host."""
    return f'max by (hostname, gpu) (label_replace({metric}, "hostname", "$1", "Hostname", "(.+)"))'


def _with_gpu(query: str) -> str:
    """Return a query that has no answer where no GPU is known: there what Ollama counts as VRAM is main memory."""
    return f"{query} and on () count({_gpu('DCGM_FI_DEV_FB_USED')})"


def _gauge(metric: str, *labels: str) -> str:
    return f"{_by(*labels)}({_name(metric)})"


def _own(metric: str) -> str:
    """Return the query for a process metric of the proxy, without other processes that Prometheus scrapes."""
    return f"{metric} and on (job, instance) {_name('build_info')}"


_GPU_NAME: Final = "{{hostname}} GPU {{gpu}}"
_TOKENS: Final = "suffix:tok/s"
_STATES: Final = {
    "mappings": [
        {
            "type": "value",
            "options": {"0": {"text": "down", "color": "red"}, "1": {"text": "up", "color": "green"}},
        }
    ]
}
_BREAKER: Final = {
    "mappings": [
        {
            "type": "value",
            "options": {"0": {"text": "closed", "color": "green"}, "1": {"text": "open", "color": "red"}},
        }
    ]
}


def _right(name: str, unit: str) -> Json:
    """Return the override that puts a series on the right axis."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "custom.axisPlacement", "value": "right"}, {"id": "unit", "value": unit}],
    }


_DASHED: Final = {
    "matcher": {"id": "byRegexp", "options": "/total$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}},
        {"id": "custom.fillOpacity", "value": 0},
    ],
}

FIRST: Final = (
    Panel(
        title="GPU Utilization (%)",
        text="Share of time in which each GPU was busy, from dcgm-exporter or `ollama-cache-proxy gpu`.",
        unit="percent",
        queries=(Query(_gpu("DCGM_FI_DEV_GPU_UTIL"), _GPU_NAME),),
        width=4,
        highest=100,
    ),
    Panel(
        title="GPU Memory (GB)",
        text="Used memory of each GPU, and dashed its total (10^9 bytes; without what the driver reserves).",
        unit="decgbytes",
        queries=(
            Query(f"{_gpu('DCGM_FI_DEV_FB_USED')} * 0.001048576", _GPU_NAME),
            Query(f"{_gpu('DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE')} * 0.001048576", f"{_GPU_NAME} total"),
        ),
        width=4,
        overrides=(_DASHED,),
    ),
    Panel(
        title="GPU Temperature (°C)",
        text="Temperature of each GPU. Most slow down between 83 and 90 °C; the alert GpuHot fires at 85.",
        unit="celsius",
        queries=(Query(_gpu("DCGM_FI_DEV_GPU_TEMP"), _GPU_NAME),),
        width=4,
        steps=((75, "yellow"), (85, "red")),
    ),
    Panel(
        title="Inference Latency (ms)",
        text="Time to the last byte of responses from Ollama: misses and bypasses. Hits are in the row Latency.",
        unit="ms",
        queries=tuple(
            Query(
                "1000 * " + _quantile(part, "request_duration_seconds", where=f'cache!="hit", endpoint=~"{_WORK}"'),
                name,
            )
            for part, name in _QUANTILES
        ),
        width=4,
    ),
    Panel(
        title="Throughput (Tokens/sec)",
        text="Tokens a second that Ollama wrote and read, by its own count, and output tokens served from the cache."
        " `read` is without what came from Ollama's own prompt cache, and only of responses that tell how much that"
        " was.",
        unit=_TOKENS,
        queries=(
            Query(_rate("output_tokens_total"), "written"),
            Query(_rate("prompt_tokens_by_source_total", where='source="computed"'), "read"),
            Query(_rate("saved_output_tokens_total"), "written, from the cache"),
        ),
        width=4,
    ),
    Panel(
        title="Cache Hit Rate (%)",
        text="Hits divided by hits and misses, recently. Bypasses do not count. What rate is good depends on how often"
        " requests repeat.",
        unit="percent",
        queries=(Query(_hit_rate(), "hit rate"),),
        kind="stat",
        width=4,
        highest=100,
        steps=((20, "yellow"), (50, "green")),
        base="orange",
    ),
)
"""The line at the top: the most important panels."""

ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Latency",
        (
            Panel(
                title="Latency of hits",
                text="Time to the last byte. A collapsed hit waits as long as its flight, so the upper percentiles can"
                " be those of misses.",
                unit="s",
                queries=_quantiles("request_duration_seconds", where=_HITS),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Latency of misses",
                text="Time to the last byte of cacheable requests that were not stored.",
                unit="s",
                queries=_quantiles("request_duration_seconds", where=_MISSES),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Median latency",
                text="The median time to the last byte by operation, hits and misses.",
                unit="s",
                queries=(
                    Query(
                        _quantile(0.5, "request_duration_seconds", "endpoint", "cache", where='cache=~"hit|miss"'),
                        "{{endpoint}}, {{cache}}",
                    ),
                ),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Time to first token",
                text="Of streams: time to the first chunk with output of the model. `bypass` are streams that the"
                " cache does not record.",
                unit="s",
                queries=tuple(
                    Query(_quantile(part, "time_to_first_token_seconds", "cache"), f"{name}, {{{{cache}}}}")
                    for part, name in _QUANTILES[:2]
                ),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Time to first byte",
                text="95th percentile over all requests to models, streams or not.",
                unit="s",
                queries=(
                    Query(_quantile(0.95, "first_byte_seconds", "cache", where=f'endpoint=~"{_WORK}"'), "{{cache}}"),
                ),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Misses by how long they took",
                text="Each column is the misses of an interval; darker is more. Two bands are two kinds of work.",
                unit="s",
                queries=(
                    Query(
                        f"sum by (le) (increase({_name('request_duration_seconds_bucket', _MISSES)}{_RATE}))",
                        "{{le}}",
                        form="heatmap",
                    ),
                ),
                kind="heatmap",
            ),
        ),
    ),
    (
        "Hits",
        (
            Panel(
                title="Hit rate by operation",
                text="Hits divided by hits and misses, for each cached operation.",
                unit="percent",
                queries=(Query(_hit_rate("endpoint"), "{{endpoint}}"),),
                highest=100,
            ),
            Panel(
                title="Hit rate by category",
                text="By the X-Cache-Category of requests; `none` are those without one.",
                unit="percent",
                queries=(
                    Query(
                        f'label_replace({_hit_rate("category")}, "category", "none", "category", "")', "{{category}}"
                    ),
                ),
                highest=100,
            ),
            Panel(
                title="Lookups",
                text="Hits and misses a second. Collapsed hits joined the flight of an equal request.",
                unit="reqps",
                queries=(
                    Query(_rate("hits_total"), "hits"),
                    Query(_rate("collapsed_total"), "of them collapsed"),
                    Query(_rate("misses_total"), "misses"),
                ),
            ),
            Panel(
                title="Texts of lists of embeddings",
                text="Texts a second that were stored, and that were sent to Ollama.",
                unit="ops",
                queries=(Query(_rate("items_total", "cache"), "{{cache}}"),),
                stacked=True,
            ),
            _ranking(
                "Bypass reasons",
                "Bypasses by reason in the time range; docs/cache-rules.md explains each.",
                metric="bypasses_total",
                label="detail",
            ),
            _ranking(
                "Reasons for not storing a response",
                "Misses whose response was not stored, by reason, in the time range; docs/cache-rules.md explains"
                " each.",
                metric="unkept_total",
                label="detail",
            ),
            _ranking(
                "Wrong admin tokens",
                "Requests for the proxy's own routes with a wrong admin token, in the time range; SECURITY.md"
                " tells how guesses are slowed.",
                metric="own_refusals_total",
                label="detail",
            ),
            _ranking(
                "Audited hits",
                "Hits that Ollama was asked for again, by what came of it; empty while `audit` is off.",
                metric="audited_total",
                label="outcome",
            ),
        ),
    ),
    (
        "Saved",
        (
            Panel(
                title="Saved time",
                text="What hits would have taken in the time range: the time of the stored responses, with queueing"
                " and loading.",
                unit="s",
                queries=(Query(_increase("saved_seconds_total"), "saved", instant=True),),
                kind="stat",
                width=4,
                height=6,
            ),
            Panel(
                title="Saved tokens",
                text="Tokens that Ollama did not have to read and write again in the time range.",
                unit="short",
                queries=(
                    Query(_increase("saved_prompt_tokens_total"), "read", instant=True),
                    Query(_increase("saved_output_tokens_total"), "written", instant=True),
                ),
                kind="stat",
                width=4,
                height=6,
            ),
            Panel(
                title="Saved energy (estimate)",
                text="Saved time multiplied by the mean power of a GPU in the time range: too low because of idle"
                " time, and if a model runs on several GPUs; too high if requests had waited for each other.",
                unit="watth",
                queries=(
                    Query(
                        f"{_increase('saved_seconds_total')}"
                        f" * avg(avg_over_time(DCGM_FI_DEV_POWER_USAGE{_RANGE})) / 3600",
                        "estimate",
                        instant=True,
                    ),
                ),
                kind="stat",
                width=4,
                height=6,
            ),
            Panel(
                title="Saved time by operation",
                text="Seconds saved per second: 1 is the work of one Ollama that is always busy.",
                unit="short",
                queries=(Query(_rate("saved_seconds_total", "endpoint"), "{{endpoint}}"),),
                width=6,
                height=6,
                stacked=True,
            ),
            Panel(
                title="Saved tokens a second",
                text="Tokens served from the cache.",
                unit=_TOKENS,
                queries=(
                    Query(_rate("saved_prompt_tokens_total"), "read"),
                    Query(_rate("saved_output_tokens_total"), "written"),
                ),
                width=6,
                height=6,
            ),
        ),
    ),
    (
        "Traffic",
        (
            Panel(
                title="Requests by operation",
                text="All requests, bypasses included.",
                unit="reqps",
                queries=(Query(_rate("requests_total", "endpoint"), "{{endpoint}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                title="In flight",
                text="Requests of clients in progress, requests at Ollama (the proxy's own included), and open"
                " connections of clients, also those of them that are idle (right axis).",
                unit="short",
                queries=(
                    Query(_gauge("requests_in_flight"), "requests"),
                    Query(_gauge("upstream_requests_in_flight"), "at Ollama"),
                    Query(_gauge("connections"), "connections"),
                    Query(_gauge("idle_connections"), "idle connections"),
                ),
                width=6,
                overrides=(_right("connections", "short"), _right("idle connections", "short")),
            ),
            Panel(
                title="Requests by result",
                text="Hits, misses and bypasses a second.",
                unit="reqps",
                queries=(Query(_rate("requests_total", "cache"), "{{cache}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                title="Failures",
                text="Responses with status 400 and above, Ollama's own included, and failed exchanges by where the"
                " fault was. Status 0: the client closed before a head was sent.",
                unit="reqps",
                queries=(
                    Query(_rate("requests_total", "status", where='status=~"0|4..|5.."'), "status {{status}}"),
                    Query(_rate("errors_total", "source"), "fault: {{source}}"),
                ),
                width=6,
            ),
        ),
    ),
    (
        "Store",
        (
            Panel(
                title="Neighbours",
                text="Whether Ollama and the store answered last time, and whether the store took the last entry: the"
                " worst of all proxies.",
                unit="none",
                queries=(
                    Query(f"min({_name('upstream_up')})", "Ollama"),
                    Query(f"min({_name('store_up')})", "store"),
                    Query(f"min({_name('store_writes_up')})", "store takes entries"),
                ),
                kind="stat",
                width=4,
                height=7,
                defaults=_STATES,
                options={"graphMode": "none", "colorMode": "background"},
            ),
            Panel(
                title="Breakers",
                text="Open: after repeated failures Redis is not asked until a probe of the proxy's own succeeds. A"
                " store in memory has no breakers.",
                unit="none",
                queries=(Query(f"max by (breaker) ({_name('store_breaker_open')})", "{{breaker}}"),),
                kind="stat",
                width=4,
                height=7,
                defaults=_BREAKER,
                options={"graphMode": "none", "colorMode": "background"},
            ),
            Panel(
                title="Latency of Redis",
                text="95th percentile of operations, as long as they were waited for.",
                unit="s",
                queries=(Query(_quantile(0.95, "store_operation_seconds", "operation"), "{{operation}}"),),
                height=7,
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Errors of the store",
                text="Operations of Redis that failed or timed out, and entries that were damaged or dropped.",
                unit="ops",
                queries=(
                    Query(_rate("store_errors_total", "operation"), "{{operation}}"),
                    Query(_rate("store_faults_total", "kind"), "fault: {{kind}}"),
                ),
                height=7,
            ),
            Panel(
                title="Entries",
                text="Stored entries by tier: `hot` are entries of Redis that are also in the proxy's memory. Maximum"
                " over proxies, since those that share a Redis count the same entries.",
                unit="short",
                queries=(Query(f"max by (tier) ({_name('store_entries')})", "{{tier}}"),),
                width=6,
                height=7,
            ),
            Panel(
                title="Memory of the store",
                text="Bytes of entries, for Redis all memory that it uses. Maximum over proxies.",
                unit="bytes",
                queries=(Query(f"max by (tier) ({_name('store_bytes')})", "{{tier}}"),),
                width=6,
                height=7,
            ),
            Panel(
                title="Evictions",
                text="Entries a second evicted for lack of space. Maximum over proxies. Entries evicted from `hot` are"
                " still in Redis.",
                unit="ops",
                queries=(Query(f"max by (tier) (rate({_name('store_evictions_total')}{_RATE}))", "{{tier}}"),),
                width=6,
                height=7,
            ),
            Panel(
                title="New entries",
                text="Entries a second written to the store, by operation, and their bytes (right axis).",
                unit="ops",
                queries=(
                    Query(_rate("stores_total", "endpoint"), "{{endpoint}}"),
                    Query(_rate("stored_bytes_total"), "bytes"),
                ),
                width=6,
                height=7,
                overrides=(_right("bytes", "Bps"),),
            ),
        ),
    ),
    (
        "GPU and models",
        (
            Panel(
                title="GPU load and misses",
                text="Mean utilisation of all GPUs, and misses and bypasses to models a second (right axis). Load"
                " without them comes from clients that do not use the proxy.",
                unit="percent",
                queries=(
                    Query(f"avg({_gpu('DCGM_FI_DEV_GPU_UTIL')})", "GPU load"),
                    Query(_rate("misses_total"), "misses"),
                    Query(_rate("requests_total", where=f'cache="bypass", endpoint=~"{_WORK}"'), "bypasses"),
                ),
                overrides=(_right("misses", "reqps"), _right("bypasses", "reqps")),
                highest=None,
            ),
            Panel(
                title="Output speed",
                text="Tokens a second while Ollama writes, by its own durations, for each model. Only responses of its"
                " own dialect have them, not those of OpenAI's endpoints.",
                unit=_TOKENS,
                queries=(
                    Query(
                        f"sum by (model) (rate({_name('output_tokens_total')}{_RATE})"
                        f" and rate({_name('eval_seconds_total')}{_RATE}))"
                        f" / ({_rate('eval_seconds_total', 'model')} > 0)",
                        "{{model}}",
                    ),
                ),
            ),
            Panel(
                title="Time per output token",
                text="Time per output token by Ollama's own durations: median (p50) and 95th percentile of responses.",
                unit="s",
                queries=tuple(
                    Query(_quantile(part, "time_per_output_token_seconds", "model"), f"{name}, {{{{model}}}}")
                    for part, name in _QUANTILES[:2]
                ),
            ),
            Panel(
                title="Prompt tokens by source",
                text="Tokens of prompts a second: computed by Ollama, from Ollama's own prompt cache, saved by this"
                " cache, and those of responses that do not tell whether they were computed.",
                unit=_TOKENS,
                queries=(Query(_rate("prompt_tokens_by_source_total", "source"), "{{source}}"),),
                width=8,
                stacked=True,
            ),
            Panel(
                title="Prompt tokens that Ollama reads again",
                text="Tokens a second, estimated by the fingerprints of prompts, by cause and by where in the prompt it"
                " changes: what `doctor` says more of.",
                unit=_TOKENS,
                queries=(Query(_rate("prompt_lost_tokens_total", "cause", "where"), "{{cause}} {{where}}"),),
                width=8,
                stacked=True,
            ),
            Panel(
                title="Prompt speed",
                text="Prompt tokens a second while Ollama computes them, by its own durations, for each model: without"
                " those from its prompt cache, and only of responses that tell how many those were.",
                unit=_TOKENS,
                queries=(
                    Query(
                        f"{_rate('prompt_computed_tokens_total', 'model')}"
                        f" / ({_rate('prompt_computed_seconds_total', 'model')} > 0)",
                        "{{model}}",
                    ),
                ),
                width=8,
            ),
            Panel(
                title="Power",
                text="Power draw of each GPU.",
                unit="watt",
                queries=(Query(_gpu("DCGM_FI_DEV_POWER_USAGE"), _GPU_NAME),),
                width=6,
            ),
            Panel(
                title="VRAM by model",
                text="GPU memory of loaded models, as Ollama reports it, and dashed the memory used by all programs."
                " Empty where no GPU is known: there what Ollama counts as VRAM is main memory.",
                unit="bytes",
                queries=(
                    Query(_with_gpu(f"max by (model) ({_name('model_vram_bytes')})"), "{{model}}"),
                    Query("sum(" + _gpu("DCGM_FI_DEV_FB_USED") + ") * 1048576", "used, total"),
                ),
                width=6,
                overrides=(_DASHED,),
            ),
            Panel(
                title="Loaded models",
                text="Models that Ollama has loaded. With less than 100 % on the GPU the rest is in main memory, and"
                " slow. VRAM is shown only where a GPU is known.",
                unit="bytes",
                queries=(
                    Query(f"max by (model) ({_name('model_size_bytes')})", "", instant=True, form="table"),
                    Query(_with_gpu(f"max by (model) ({_name('model_vram_bytes')})"), "", instant=True, form="table"),
                    Query(
                        _with_gpu(f"100 * max by (model) ({_name('model_vram_bytes')} / {_name('model_size_bytes')})"),
                        "",
                        instant=True,
                        form="table",
                    ),
                ),
                kind="table",
                width=6,
                overrides=(
                    {
                        "matcher": {"id": "byName", "options": "on the GPU"},
                        "properties": [{"id": "unit", "value": "percent"}],
                    },
                ),
                transformations=(
                    {"id": "merge", "options": {}},
                    {
                        "id": "organize",
                        "options": {
                            "excludeByName": {"Time": True},
                            "renameByName": {"Value #A": "size", "Value #B": "VRAM", "Value #C": "on the GPU"},
                        },
                    },
                ),
            ),
            Panel(
                title="Model load time",
                text="Ollama's own time to load a model for a response, 95th percentile. A loaded model takes"
                " milliseconds.",
                unit="s",
                queries=(Query(_quantile(0.95, "load_duration_seconds", "model"), "{{model}}"),),
                width=6,
                logarithmic=True,
                lowest=None,
            ),
        ),
    ),
    (
        "Several Ollamas",
        (
            Panel(
                title="Hosts",
                text="Of several Ollamas, whether each takes requests: the worst of all proxies. Empty where there is"
                " one.",
                unit="none",
                queries=(Query(f"min by (upstream) ({_name('upstream_host_up')})", "{{upstream}}"),),
                kind="stat",
                width=6,
                height=7,
                defaults=_STATES,
                options={"graphMode": "none", "colorMode": "background"},
            ),
            Panel(
                title="In flight by host",
                text="Requests that each of several Ollamas is serving.",
                unit="short",
                queries=(Query(f"sum by (upstream) ({_name('upstream_host_requests_in_flight')})", "{{upstream}}"),),
                width=9,
                height=7,
            ),
            Panel(
                title="Requests by host",
                text="Requests a second that were sent to each of several Ollamas, answered with any status or failed.",
                unit="reqps",
                queries=(
                    Query(_rate("upstream_host_requests_total", "upstream", "outcome"), "{{upstream}}, {{outcome}}"),
                ),
                width=9,
                height=7,
            ),
        ),
    ),
    (
        "Lanes",
        (
            Panel(
                title="Waiting by lane",
                text="With lanes, requests that wait for their turn at Ollama: people, and batches.",
                unit="short",
                queries=(Query(f"sum by (lane) ({_name('lane_waiting')})", "{{lane}}"),),
                width=8,
                height=7,
            ),
            Panel(
                title="Wait by lane",
                text="How long requests, and parts of lists, waited for their turn, 95th percentile.",
                unit="s",
                queries=(Query(_quantile(0.95, "lane_wait_seconds", "lane"), "{{lane}}"),),
                width=8,
                height=7,
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Not sent by lane",
                text="Requests a second that were refused, or whose client left, while they waited.",
                unit="reqps",
                queries=(
                    Query(
                        _rate("lane_wait_seconds_bucket", "lane", "end", where='end!="sent", le="+Inf"'),
                        "{{lane}}, {{end}}",
                    ),
                ),
                width=8,
                height=7,
            ),
        ),
    ),
    (
        "Proxy",
        (
            Panel(
                title="Processor",
                text="Cores that each proxy uses; a process uses at most one.",
                unit="short",
                queries=(Query(_own(f"rate(process_cpu_seconds_total{{{_INSTANCE}}}{_RATE})"), "{{instance}}"),),
                height=6,
                steps=((0.8, "yellow"), (0.95, "red")),
            ),
            Panel(
                title="Memory",
                text="Memory that each proxy takes.",
                unit="bytes",
                queries=(Query(_own(f"process_resident_memory_bytes{{{_INSTANCE}}}"), "{{instance}}"),),
                height=6,
            ),
            Panel(
                title="Event loop lag",
                text="How late the proxy's event loop is, 99th percentile of ten looks a second: all clients wait for"
                " it.",
                unit="s",
                queries=(Query(_quantile(0.99, "event_loop_lag_seconds", "instance"), "{{instance}}"),),
                height=6,
                steps=((0.02, "yellow"), (0.1, "red")),
            ),
            Panel(
                title="Files and sockets",
                text="Open file descriptors as a share of the limit of the process.",
                unit="percent",
                queries=(
                    Query(
                        _own(f"100 * process_open_fds{{{_INSTANCE}}} / process_max_fds{{{_INSTANCE}}}"), "{{instance}}"
                    ),
                ),
                height=6,
                highest=100,
            ),
        ),
    ),
)
"""Rows under the first line, the most used ones first."""
