"""Facts to Prometheus metrics. Names and units follow the Prometheus naming rules; docs/metrics.md lists them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from ollama_cache_proxy import __version__
from ollama_cache_proxy.core.ports import (
    NOTHING,
    Event,
    Exchange,
    Health,
    Levels,
    Part,
    Repeated,
    StoreCall,
    Stored,
    StoreFault,
    Unkept,
    Worked,
)
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail, Result
from ollama_cache_proxy.policy.sums import Across, Snapshot
from ollama_cache_proxy.policy.sums import Family as CountedFamily
from ollama_cache_proxy.policy.sums import Sample as CountedSample
from ollama_cache_proxy.telemetry.metric_families import (
    OPEN_METRICS,
    TEXT,
    Counter,
    Family,
    Gauge,
    Histogram,
    wants_open_metrics,
)

_PREFIX: Final = "ollama_cache_proxy_"
_TIMES: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)
"""Seconds: from a hit to a cold load with a long answer."""
_STORE_TIMES: Final = (0.0001, *(time for time in _TIMES if time <= 2.5))  # noqa: PLR2004 - no operation may take longer
_TOKEN_TIMES: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5),
)
"""Seconds: the inverse of what people call tokens per second, 1000 to 0.4."""
_LOAD_TIMES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)
_MAX_MODELS: Final = 50
_ASIDE: Final = 200
"""Facts that are put aside at most."""
_RATIO: Final = _PREFIX + "hit_ratio"
_SHARED: Final = "redis"
"""The tier of which all processes tell the same."""

F = TypeVar("F", bound=Family)


@record
class Description:
    """What docs/metrics.md says of one metric."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class _Together(Collector):
    """Families with the samples of a snapshot: what several processes counted."""

    def __init__(self, registry: CollectorRegistry, snapshot: Snapshot) -> None:
        self._registry = registry
        self._samples: dict[str, list[Sample]] = {}
        for family, _, samples in snapshot:
            found = self._samples.setdefault(family, [])
            found += [Sample(name, dict(labels), value) for name, labels, value in samples]

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's Collector."""
        hits, misses = (self._sum(_PREFIX + name) for name in ("hits", "misses"))
        for family in self._registry.collect():
            family.samples = self._samples.get(family.name, [])
            if family.name == _RATIO:
                family.samples = [Sample(_RATIO, {}, _ratio(hits, misses))]
            yield family

    def _sum(self, family: str) -> float:
        return sum(sample.value for sample in self._samples.get(family, ()))


def _ratio(hits: float, misses: float) -> float:
    return hits / ((hits + misses) or 1)


@dataclass(slots=True, eq=False)
class _Alike:
    """Exchanges that differ from one in their times alone."""

    exchange: Exchange
    seconds: list[float] = field(default_factory=list)
    first_bytes: list[float | None] = field(default_factory=list)


class _Settling(Collector):
    """Comes before the families, and has none: what was put aside is counted before anybody looks."""

    def __init__(self, settle: Callable[[], None]) -> None:
        self._settle = settle

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's Collector."""
        self._settle()
        return iter(())


class Metrics:
    """Observes, and renders on request. The statistics that outlive the process are elsewhere.

    What is alike is put aside and counted at once, before anybody looks: that costs a request a fifth of counting it.
    `now` is Unix time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self._hit_count = 0
        self._miss_count = 0
        self._aside: dict[tuple[object, ...], _Alike] = {}
        self._work_aside: dict[tuple[str, str], list[Usage]] = {}
        self._put_aside = 0
        self._now = now
        self._families: list[Family] = []
        self._across: dict[str, Across] = {}
        self.registry.register(_Settling(self._settle))
        self._process = ProcessCollector(registry=self.registry)
        self._models = Labels(_MAX_MODELS)
        self._declare_exchanges()
        self._declare_work()
        self._declare_store()
        self._declare_neighbours()

    def _declare_exchanges(self) -> None:
        add, endpoint, how = self._add, ("endpoint",), ("endpoint", "cache")
        self._requests = add(
            Counter,
            "requests",
            "Requests by what they asked, how the cache took part, and status.",
            ("endpoint", "model", "cache", "status"),
        )
        self._seconds = self._times("request_duration_seconds", "Time to the last byte of an answer.", how)
        self._first = self._times("first_byte_seconds", "Time to the first byte of an answer.", how)
        self._token = self._times(
            "time_to_first_token_seconds",
            "Time to the first chunk of a stream that holds something of what the model says.",
            how,
        )
        self._hits = add(Counter, "hits", "Requests answered from the cache or another's flight.", endpoint)
        self._misses = add(Counter, "misses", "Candidates that went, or were tried, upstream.", endpoint)
        self._lookups = add(
            Counter,
            "lookups",
            "Hits and misses by the category that the request named (empty: none; at most 32, then `other`).",
            ("endpoint", "category", "cache"),
        )
        self._ratio = add(Gauge, "hit_ratio", "Hits by hits and misses since the start, 0 to 1.")
        self._ratio.set(0)
        self._collapsed = add(Counter, "collapsed", "Hits that came from another's flight.", endpoint)
        self._bypasses = add(
            Counter, "bypasses", "Requests that the cache had no part in, by reason.", ("endpoint", "detail")
        )
        self._unkept = add(Counter, "unkept", "Misses whose answer was not kept, by reason.", ("endpoint", "detail"))
        self._items = add(Counter, "items", "Texts of lists of embeddings, by whether they were known.", how)
        self._errors = add(Counter, "errors", "Exchanges that failed, by whose fault.", ("source",))
        self._saved = add(Counter, "saved_seconds", "Seconds that Ollama did not have to work again.", endpoint)
        self._saved_prompt = add(
            Counter, "saved_prompt_tokens", "Tokens of prompts that Ollama did not have to read again.", endpoint
        )
        self._saved_output = add(
            Counter, "saved_output_tokens", "Tokens that Ollama did not have to write again.", endpoint
        )
        self._serving = add(Gauge, "requests_in_flight", "Requests that are being answered, admin routes aside.")
        self._connections = add(Gauge, "connections", "Connections of clients that are open.")

    def _declare_work(self) -> None:
        add, what = self._add, ("endpoint", "model")
        self._prompt_tokens = add(
            Counter, "prompt_tokens", "Tokens of prompts, as Ollama counted them in answers that it gave.", what
        )
        self._output_tokens = add(
            Counter, "output_tokens", "Tokens written, as Ollama counted them in answers that it gave.", what
        )
        self._prompt_seconds = add(
            Counter, "prompt_eval_seconds", "Seconds that Ollama spent reading prompts, where it says so.", what
        )
        self._output_seconds = add(
            Counter, "eval_seconds", "Seconds that Ollama spent writing tokens, where it says so.", what
        )
        self._per_token = self._times(
            "time_per_output_token_seconds", "Ollama's own time for each token of an answer.", ("model",), _TOKEN_TIMES
        )
        self._load = self._times(
            "load_duration_seconds", "Ollama's own time to load the model for an answer.", ("model",), _LOAD_TIMES
        )

    def _declare_store(self) -> None:
        add, endpoint, tier = self._add, ("endpoint",), ("tier",)
        self._stores = add(Counter, "stores", "Entries that reached the store.", endpoint)
        self._stored_bytes = add(Counter, "stored_bytes", "Bytes of bodies that reached the store.", endpoint)
        self._faults = add(Counter, "store_faults", "Operations that failed, entries damaged or dropped.", ("kind",))
        self._calls = self._times(
            "store_operation_seconds",
            "Time of an operation of Redis, as it was waited for.",
            ("operation",),
            _STORE_TIMES,
        )
        self._call_errors = add(
            Counter, "store_errors", "Operations of Redis that failed or took too long.", ("operation",)
        )
        self._broken = add(
            Gauge,
            "store_breaker_open",
            "Whether Redis is only tried once a second (1) or used (0).",
            ("breaker",),
            Across.MOST,
        )
        self._entries = add(
            Gauge, "store_entries", "Entries that are kept: exact in memory, of Redis the last count.", tier
        )
        self._sizes = add(
            Gauge, "store_bytes", "Bytes that entries take in memory; of Redis all of its `used_memory`.", tier
        )
        self._evictions = add(
            Counter, "store_evictions", "Entries that left for want of room; of Redis its `evicted_keys`.", tier
        )

    def _declare_neighbours(self) -> None:
        add, model = self._add, ("model",)
        self._parts = {
            part: add(Gauge, f"{name}_up", f"Whether {text} (1) or not (0).", across=Across.LEAST)
            for part, name, text in (
                (Part.UPSTREAM, "upstream", "Ollama answered last time"),
                (Part.STORE, "store", "the store answered last time"),
                (Part.STORE_WRITES, "store_writes", "the store took the last entry"),
            )
        }
        for part, gauge in self._parts.items():
            gauge.set(part is Part.STORE_WRITES)
        self._asking = add(
            Gauge, "upstream_requests_in_flight", "Requests that Ollama is answering, the proxy's own included."
        )
        self._loaded = add(Gauge, "model_loaded", "1 for each model that Ollama has loaded.", model, Across.MOST)
        self._size = add(Gauge, "model_size_bytes", "Bytes that a loaded model takes in all.", model, Across.MOST)
        self._vram = add(
            Gauge, "model_vram_bytes", "Bytes of a loaded model in the memory of GPUs.", model, Across.MOST
        )
        about = ("version", "python")
        info = add(Gauge, "build_info", "Always 1; the labels hold the versions.", about, Across.MOST)
        info.set(1, __version__, platform.python_version())

    def __call__(self, event: Event) -> None:
        """Take a fact in."""
        match event:
            case Exchange():
                self._take(event)
            case StoreCall():
                self._calls.observe((event.operation,), (event.seconds,))
                if event.failed:
                    self._call_errors.inc(event.operation)
            case Repeated():
                self._exchange(event.exchange, event.seconds, event.seconds)
            case Worked():
                self._work_aside.setdefault((event.operation, event.model), []).append(event.usage)
                self._counted_later()
            case Stored():
                self._stores.inc(event.operation, by=event.entries)
                self._stored_bytes.inc(event.operation, by=event.size)
            case Unkept():
                self._unkept.inc(event.operation, event.detail.value)
            case StoreFault():
                self._faults.inc(event.kind.value)
            case Health():
                self._parts[event.part].set(event.well)

    @property
    def hits(self) -> int:
        """How many requests were answered from the cache or another's flight."""
        self._settle()
        return self._hit_count

    @property
    def misses(self) -> int:
        """How many candidates were not."""
        self._settle()
        return self._miss_count

    def _take(self, event: Exchange) -> None:
        """Take an exchange in: one with something of its own to tell at once, others with those that are like it."""
        if event.items or event.trace or event.first_token is not None or event.saved is not NOTHING:
            self._exchange(event, [event.seconds], [event.first_byte])
            return
        cache = event.cache
        how = (event.operation, event.model, event.category, event.status, event.error)
        key = (*how, cache.result, cache.detail, cache.collapsed, cache.stored)
        alike = self._aside.get(key)
        if alike is None:
            alike = self._aside[key] = _Alike(event)
        alike.seconds.append(event.seconds)
        alike.first_bytes.append(event.first_byte)
        self._counted_later()

    def _counted_later(self) -> None:
        self._put_aside += 1
        if self._put_aside >= _ASIDE:
            self._settle()

    def _settle(self) -> None:
        """Count what was put aside."""
        self._put_aside = 0
        aside, self._aside = self._aside, {}
        for alike in aside.values():
            self._exchange(alike.exchange, alike.seconds, alike.first_bytes)
        work, self._work_aside = self._work_aside, {}
        for (operation, model), usages in work.items():
            self._work((operation, self._model(model)), usages)

    def level(self, levels: Levels) -> None:
        """Take in how things stand."""
        self._serving.set(levels.serving)
        self._asking.set(levels.asking)
        self._connections.set(levels.connections)
        self._broken.replace({(name,): is_open for name, is_open in levels.broken.items()})
        self._entries.replace({(tier.name,): tier.entries for tier in levels.tiers if tier.entries is not None})
        self._sizes.replace({(tier.name,): tier.size for tier in levels.tiers})
        self._evictions.replace({(tier.name,): tier.evicted for tier in levels.tiers})
        residents = [(self._model(resident.model), resident) for resident in levels.residents]
        self._loaded.replace(_sums((model, 1) for model, _ in residents))
        self._size.replace(_sums((model, resident.size) for model, resident in residents))
        self._vram.replace(_sums((model, resident.vram) for model, resident in residents))

    def snapshot(self) -> Snapshot:
        """Give what this process has counted. What it says of Redis is the same for all who ask that."""
        own: list[CountedFamily] = []
        for family in self.registry.collect():
            across = self._across.get(family.name, _ACROSS_PROCESS.get(family.name, Across.TOTAL))
            samples: list[CountedSample] = [(sample.name, sample.labels, sample.value) for sample in family.samples]
            shared = [sample for sample in samples if sample[1].get("tier") == _SHARED]
            own.append((family.name, across.value, [sample for sample in samples if sample not in shared]))
            if shared:
                own.append((family.name, Across.MOST.value, shared))
        return own

    def render(self, accept: str, together: Snapshot | None = None) -> tuple[bytes, str]:
        """Give body and Content-Type, in OpenMetrics where `accept` asks for it.

        `together` is what this process and its siblings have counted, where it has any.
        """
        open_metrics = wants_open_metrics(accept)
        content_type = OPEN_METRICS if open_metrics else TEXT
        encoder, _ = choose_encoder(content_type)
        if together is not None:
            registry = CollectorRegistry()
            registry.register(_Together(self.registry, together))
            return encoder(registry), content_type
        self._settle()
        own = "".join(family.written(open_metrics=open_metrics) for family in self._families)
        return own.encode() + encoder(self._process), content_type

    def described(self) -> Iterable[Description]:
        """Give what docs/metrics.md says."""
        for family in self._families:
            name = family.name + family.suffix
            yield Description(name=name, kind=family.kind, labels=family.labels, text=family.text)
        for name, kind, text, _ in _PROCESS:
            yield Description(name=name, kind=kind, labels=(), text=text)

    def _exchange(self, event: Exchange, seconds: Sequence[float], first_bytes: Sequence[float | None]) -> None:
        """Take exchanges in that were alike but for their times."""
        times = len(seconds)
        cache = event.cache
        result = cache.result.value.lower()
        operation = event.operation
        how = (operation, result)
        model = "" if cache.result is Result.BYPASS else self._model(event.model)  # a bypass may name anything
        self._requests.inc(operation, model, result, str(event.status), by=times)
        self._seconds.observe(how, seconds)
        self._first.observe(how, [at for at in first_bytes if at is not None])
        if event.first_token is not None:
            self._token.observe(how, (event.first_token,))
        if event.trace:
            self._seconds.exemplify(how, seconds[-1], event.trace, self._now())
        if event.items:
            self._items.inc(operation, "hit", by=times * event.items_known)
            self._items.inc(operation, "miss", by=times * (event.items - event.items_known))
        self._save(event, times)
        if event.error is not None:
            self._errors.inc(event.error.value, by=times)
        match cache.result:
            case Result.HIT:
                self._hit_count += times
                self._hits.inc(operation, by=times)
                self._lookups.inc(operation, event.category, result, by=times)
                if cache.collapsed:
                    self._collapsed.inc(operation, by=times)
            case Result.MISS:
                self._miss_count += times
                self._misses.inc(operation, by=times)
                self._lookups.inc(operation, event.category, result, by=times)
                if not cache.stored and cache.detail not in (None, Detail.RECORDING):
                    self._unkept.inc(operation, cache.detail.value, by=times)
            case Result.BYPASS:
                self._bypasses.inc(operation, cache.detail.value if cache.detail is not None else "", by=times)
                return
        self._ratio.set(_ratio(self._hit_count, self._miss_count))

    def _save(self, event: Exchange, times: int) -> None:
        for counter, saved in (
            (self._saved, event.saved.seconds),
            (self._saved_prompt, event.saved.prompt_tokens),
            (self._saved_output, event.saved.output_tokens),
        ):
            if saved:
                counter.inc(event.operation, by=times * saved)

    def _work(self, what: tuple[str, str], usages: Sequence[Usage]) -> None:
        """Take in what Ollama says of its work; `what` are operation and model."""
        for counter, amounts in (
            (self._prompt_tokens, [usage.prompt_tokens for usage in usages]),
            (self._output_tokens, [usage.output_tokens for usage in usages]),
            (self._prompt_seconds, [usage.prompt_seconds for usage in usages]),
            (self._output_seconds, [usage.output_seconds for usage in usages]),
        ):
            told = [amount for amount in amounts if amount is not None]
            if told:
                counter.inc(*what, by=sum(told))
        written = [(usage.output_seconds, usage.output_tokens) for usage in usages if usage.output_tokens]
        self._per_token.observe(what[1:], [seconds / tokens for seconds, tokens in written if seconds is not None])
        self._load.observe(what[1:], [usage.load_seconds for usage in usages if usage.load_seconds is not None])

    def _model(self, name: str) -> str:
        """Give the label of a model, the same for each spelling of its name."""
        return self._models.of(model_names.short(name))

    def _times(self, name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float] = _TIMES) -> Histogram:
        return self._added(Histogram(_PREFIX + name, text, labels, bounds))

    def _add(
        self, kind: type[F], name: str, text: str, labels: tuple[str, ...] = (), across: Across | None = None
    ) -> F:
        """Declare a family; what of several processes becomes one `across` them is a sum where nothing else is said."""
        if across is not None or kind is Gauge:
            self._across[_PREFIX + name] = across or Across.SUM
        return self._added(kind(_PREFIX + name, text, labels))

    def _added(self, family: F) -> F:
        self._families.append(family)
        self.registry.register(family)
        return family


def _sums(values: Iterable[tuple[str, int]]) -> dict[tuple[str, ...], float]:
    """Add up by label: models beyond the bound have one in common."""
    sums: dict[tuple[str, ...], float] = {}
    for label, value in values:
        sums[label,] = sums.get((label,), 0) + value
    return sums


_PROCESS: Final = (
    ("process_cpu_seconds_total", "counter", "Seconds of processor time that the proxy has used.", Across.TOTAL),
    ("process_max_fds", "gauge", "Files and sockets that the process may open.", Across.SUM),
    ("process_open_fds", "gauge", "Files and sockets that are open.", Across.SUM),
    ("process_resident_memory_bytes", "gauge", "Bytes of memory that the process takes.", Across.SUM),
    ("process_start_time_seconds", "gauge", "Unix time at which the process began.", Across.LEAST),
    ("process_virtual_memory_bytes", "gauge", "Bytes of addresses that the process has mapped.", Across.SUM),
)
"""What prometheus-client's ProcessCollector tells, on Linux only."""
_ACROSS_PROCESS: Final = {name: across for name, _, _, across in _PROCESS}
