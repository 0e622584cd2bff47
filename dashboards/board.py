"""What is on the dashboard: panels and what they ask Prometheus. generate.py says how Grafana wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.usage import generates

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, and the name of its answers. `at_once` asks for the end of the time range alone."""

    expr: str
    legend: str
    instant: bool = False
    form: str = "time_series"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; `unit` is Grafana's name of it, width and height are in cells of its grid of 24 columns.

    `steps` are the values from which on something is in the colour beside them; below the first one it is green, or
    `base`. `defaults`, `overrides` and `options` are for what only this panel has.
    """

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    lowest: float | None = 0
    highest: float | None = None
    steps: tuple[tuple[float, str], ...] = ()
    base: str = "green"
    stacked: bool = False
    logarithmic: bool = False
    defaults: Mapping[str, Any] | None = None
    overrides: tuple[Json, ...] = ()
    options: Mapping[str, Any] | None = None
    transformations: tuple[Json, ...] = ()


# What is asked

_INSTANCE: Final = 'instance=~"$instance"'
_RATE: Final = "[$__rate_interval]"
_RANGE: Final = "[$__range]"
_WORK: Final = "|".join(row.operation for row in ENDPOINTS if generates(row))
_HITS: Final = 'cache="hit"'
_MISSES: Final = 'cache="miss"'
_QUANTILES: Final = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


def _name(metric: str, *matchers: str) -> str:
    return f"ollama_cache_proxy_{metric}{{{', '.join((_INSTANCE, *matchers))}}}"


def _by(*labels: str) -> str:
    return f"sum by ({', '.join(labels)}) " if labels else "sum"


def _rate(metric: str, *labels: str, where: str = "") -> str:
    """Ask for a counter's rate a second, added up by labels."""
    return f"{_by(*labels)}(rate({_name(metric, *filter(None, [where]))}{_RATE}))"


def _increase(metric: str, *labels: str) -> str:
    """Ask by how much a counter has grown in the time that is shown."""
    return f"{_by(*labels)}(increase({_name(metric)}{_RANGE}))"


def _quantile(part: float, metric: str, *labels: str, where: str = "") -> str:
    return f"histogram_quantile({part}, {_rate(f'{metric}_bucket', *labels, 'le', where=where)})"


def _quantiles(metric: str, *, where: str = "") -> tuple[Query, ...]:
    return tuple(Query(_quantile(part, metric, where=where), name) for part, name in _QUANTILES)


def _hit_rate(*labels: str) -> str:
    """Ask for percent; a series of hits begins with the first one, so that there is none before."""
    asked = _rate("lookups_total", *labels)
    return f"100 * ({_rate('lookups_total', *labels, where=_HITS)} or 0 * {asked}) / ({asked} > 0)"


def _gpu(metric: str) -> str:
    """Ask of every GPU once, whichever way its exporter spells the label of the host."""
    return f'max by (hostname, gpu) (label_replace({metric}, "hostname", "$1", "Hostname", "(.+)"))'


def _gauge(metric: str, *labels: str) -> str:
    return f"{_by(*labels)}({_name(metric)})"


def _own(metric: str) -> str:
    """Ask for a process metric of the proxy, and of no other process that Prometheus watches."""
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
    """Return a series the axis on the right."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "custom.axisPlacement", "value": "right"}, {"id": "unit", "value": unit}],
    }


_DASHED: Final = {
    "matcher": {"id": "byRegexp", "options": "/in all$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}},
        {"id": "custom.fillOpacity", "value": 0},
    ],
}

FIRST: Final = (
    Panel(
        title="GPU Utilization (%)",
        text="Share of time in which each GPU computed, from dcgm-exporter or `ollama-cache-proxy gpu`.",
        unit="percent",
        queries=(Query(_gpu("DCGM_FI_DEV_GPU_UTIL"), _GPU_NAME),),
        width=4,
        highest=100,
    ),
    Panel(
        title="GPU Memory (GB)",
        text="Memory of each GPU that is used, and dashed what there is in all (10^9 bytes; without what the driver"
        " keeps for itself).",
        unit="decgbytes",
        queries=(
            Query(f"{_gpu('DCGM_FI_DEV_FB_USED')} * 0.001048576", _GPU_NAME),
            Query(f"{_gpu('DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE')} * 0.001048576", f"{_GPU_NAME} in all"),
        ),
        width=4,
        overrides=(_DASHED,),
    ),
    Panel(
        title="GPU Temperature (°C)",
        text="How warm each GPU is. Most slow down between 83 and 90 °C; the alert GpuHot fires at 85.",
        unit="celsius",
        queries=(Query(_gpu("DCGM_FI_DEV_GPU_TEMP"), _GPU_NAME),),
        width=4,
        steps=((75, "yellow"), (85, "red")),
    ),
    Panel(
        title="Inference Latency (ms)",
        text="Time to the last byte of what Ollama worked on: misses, and requests that the cache had no part in."
        " Hits are in the row on latency.",
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
        text="Tokens a second that Ollama wrote and read, by its own count, and those that it did not have to write"
        " again since the cache had them.",
        unit=_TOKENS,
        queries=(
            Query(_rate("output_tokens_total"), "written"),
            Query(_rate("prompt_tokens_total"), "read"),
            Query(_rate("saved_output_tokens_total"), "written before, from the cache"),
        ),
        width=4,
    ),
    Panel(
        title="Cache Hit Rate (%)",
        text="Hits by hits and misses, of late. What the cache had no part in does not count. What is a good rate"
        " depends on how often the same is asked.",
        unit="percent",
        queries=(Query(_hit_rate(), "hit rate"),),
        kind="stat",
        width=4,
        highest=100,
        steps=((20, "yellow"), (50, "green")),
        base="orange",
    ),
)
"""The line at the top, which people look at first."""

ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Latency",
        (
            Panel(
                title="Latency of hits",
                text="Time to the last byte. A hit that joined another's flight waits as long as that, so the upper"
                " percentiles can be those of misses.",
                unit="s",
                queries=_quantiles("request_duration_seconds", where=_HITS),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Latency of misses",
                text="Time to the last byte of what could have been in the cache and was not.",
                unit="s",
                queries=_quantiles("request_duration_seconds", where=_MISSES),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Half of them take up to",
                text="The median by operation, hits against misses.",
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
                text="Of streams: to the first chunk that holds something of what the model says. `bypass` is what the"
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
                text="Of all that a model works on, streams or not; 95 % take up to that.",
                unit="s",
                queries=(
                    Query(_quantile(0.95, "first_byte_seconds", "cache", where=f'endpoint=~"{_WORK}"'), "{{cache}}"),
                ),
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Misses by how long they took",
                text="Each column holds the misses of a moment; the darker, the more. Two bands are two kinds of work.",
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
                text="Hits by hits and misses, for each route that the cache takes part in.",
                unit="percent",
                queries=(Query(_hit_rate("endpoint"), "{{endpoint}}"),),
                highest=100,
            ),
            Panel(
                title="Hit rate by category",
                text="By what requests name in X-Cache-Category; `none` is those that name nothing.",
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
                text="Hits and misses a second. Collapsed are hits that joined the flight of an equal request.",
                unit="reqps",
                queries=(
                    Query(_rate("hits_total"), "hits"),
                    Query(_rate("collapsed_total"), "of them collapsed"),
                    Query(_rate("misses_total"), "misses"),
                ),
            ),
            Panel(
                title="Texts of lists of embeddings",
                text="Texts a second that were known, and that Ollama was asked for.",
                unit="ops",
                queries=(Query(_rate("items_total", "cache"), "{{cache}}"),),
                stacked=True,
            ),
            Panel(
                title="Bypass reasons",
                text="Requests that the cache had no part in, by reason, in the time that is shown;"
                " docs/cache-rules.md explains each.",
                unit="short",
                queries=(Query(f"sort_desc({_increase('bypasses_total', 'detail')})", "{{detail}}", instant=True),),
                kind="bargauge",
            ),
            Panel(
                title="Reasons for not keeping an answer",
                text="Misses whose answer was not kept, by reason, in the time that is shown; docs/cache-rules.md"
                " explains each.",
                unit="short",
                queries=(Query(f"sort_desc({_increase('unkept_total', 'detail')})", "{{detail}}", instant=True),),
                kind="bargauge",
            ),
        ),
    ),
    (
        "Saved",
        (
            Panel(
                title="Saved time",
                text="What answers had taken when they were made, in the time that is shown: waiting and loading"
                " included.",
                unit="s",
                queries=(Query(_increase("saved_seconds_total"), "saved", instant=True),),
                kind="stat",
                width=4,
                height=6,
            ),
            Panel(
                title="Saved tokens",
                text="Tokens that Ollama did not have to read and write again, in the time that is shown.",
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
                title="Saved energy, an estimate",
                text="Saved time by the mean power of a GPU in the time that is shown: too low by its idle time and"
                " where a model runs on several GPUs, too high where requests had waited for each other.",
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
                text="Seconds saved in each second: 1 is the work of one Ollama that never rests.",
                unit="short",
                queries=(Query(_rate("saved_seconds_total", "endpoint"), "{{endpoint}}"),),
                width=6,
                height=6,
                stacked=True,
            ),
            Panel(
                title="Saved tokens a second",
                text="Tokens that came from the cache.",
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
                text="All requests, those that the cache has no part in included.",
                unit="reqps",
                queries=(Query(_rate("requests_total", "endpoint"), "{{endpoint}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                title="In flight",
                text="Requests that are being answered, those of them and of the proxy's own that Ollama has, and open"
                " connections of clients (on the right).",
                unit="short",
                queries=(
                    Query(_gauge("requests_in_flight"), "requests"),
                    Query(_gauge("upstream_requests_in_flight"), "at Ollama"),
                    Query(_gauge("connections"), "connections"),
                ),
                width=6,
                overrides=(_right("connections", "short"),),
            ),
            Panel(
                title="Requests by result",
                text="How the cache took part.",
                unit="reqps",
                queries=(Query(_rate("requests_total", "cache"), "{{cache}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                title="Failures",
                text="Answers of 400 and more by status, Ollama's own included, and exchanges that failed by whose"
                " fault. Status 0: the client left before a head was sent.",
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
                text="Whether Ollama and the store answered last time, and whether the store took the last entry, at"
                " the worst of the proxies.",
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
                text="Open: after five failures in a row Redis is only tried once a second. There are none for a store"
                " in memory.",
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
                text="95 % of operations take up to that, as they were waited for.",
                unit="s",
                queries=(Query(_quantile(0.95, "store_operation_seconds", "operation"), "{{operation}}"),),
                height=7,
                logarithmic=True,
                lowest=None,
            ),
            Panel(
                title="Errors of the store",
                text="Operations of Redis that failed or took too long, and entries that were damaged or dropped.",
                unit="ops",
                queries=(
                    Query(_rate("store_errors_total", "operation"), "{{operation}}"),
                    Query(_rate("store_faults_total", "kind"), "fault: {{kind}}"),
                ),
                height=7,
            ),
            Panel(
                title="Entries",
                text="Entries that are kept, by tier: `hot` is what a proxy holds of Redis in its own memory. Of"
                " several proxies the one that has most, since those that share a Redis count the same entries.",
                unit="short",
                queries=(Query(f"max by (tier) ({_name('store_entries')})", "{{tier}}"),),
                width=6,
                height=7,
            ),
            Panel(
                title="Memory of the store",
                text="Bytes that entries take, of Redis all that it uses; of several proxies the one that has most.",
                unit="bytes",
                queries=(Query(f"max by (tier) ({_name('store_bytes')})", "{{tier}}"),),
                width=6,
                height=7,
            ),
            Panel(
                title="Evictions",
                text="Entries a second that left for want of room; of several proxies the most. What left `hot` is"
                " still in Redis.",
                unit="ops",
                queries=(Query(f"max by (tier) (rate({_name('store_evictions_total')}{_RATE}))", "{{tier}}"),),
                width=6,
                height=7,
            ),
            Panel(
                title="New entries",
                text="Entries a second that reached the store, by operation, and their bytes (on the right).",
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
                title="GPU load against misses",
                text="Mean utilisation of all GPUs, and misses and bypasses a second that a model works on (on the"
                " right). Load without them comes from somebody who does not ask through the proxy.",
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
                title="Writing speed",
                text="Tokens a second while Ollama writes, by its own durations, for each model. Only its own form of"
                " answers tells them, not that of OpenAI's routes.",
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
                title="Time for each token",
                text="Ollama's own time for each token that it writes: half of the answers take up to p50.",
                unit="s",
                queries=tuple(
                    Query(_quantile(part, "time_per_output_token_seconds", "model"), f"{name}, {{{{model}}}}")
                    for part, name in _QUANTILES[:2]
                ),
            ),
            Panel(
                title="Power",
                text="What each GPU draws.",
                unit="watt",
                queries=(Query(_gpu("DCGM_FI_DEV_POWER_USAGE"), _GPU_NAME),),
                width=6,
            ),
            Panel(
                title="VRAM by model",
                text="Memory of GPUs that loaded models take, as Ollama tells it, and dashed what all programs use.",
                unit="bytes",
                queries=(
                    Query(f"max by (model) ({_name('model_vram_bytes')})", "{{model}}"),
                    Query("sum(" + _gpu("DCGM_FI_DEV_FB_USED") + ") * 1048576", "used in all"),
                ),
                width=6,
                overrides=(_DASHED,),
            ),
            Panel(
                title="Loaded models",
                text="What Ollama has loaded. Less than 100 % on the GPU: the rest is in the processor's memory, and"
                " slow.",
                unit="bytes",
                queries=(
                    Query(f"max by (model) ({_name('model_size_bytes')})", "", instant=True, form="table"),
                    Query(f"max by (model) ({_name('model_vram_bytes')})", "", instant=True, form="table"),
                    Query(
                        f"100 * max by (model) ({_name('model_vram_bytes')} / {_name('model_size_bytes')})",
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
                title="Loading of models",
                text="Ollama's own time to load a model for an answer; 95 % take up to that. What is loaded already"
                " takes milliseconds.",
                unit="s",
                queries=(Query(_quantile(0.95, "load_duration_seconds", "model"), "{{model}}"),),
                width=6,
                logarithmic=True,
                lowest=None,
            ),
        ),
    ),
    (
        "Proxy",
        (
            Panel(
                title="Processor",
                text="Cores that each proxy uses; one proxy uses one at most.",
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
                title="Files and sockets",
                text="Open ones, as a share of those that the process may have.",
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
"""Rows under the first line, from what most people ask to what few do."""
