"""Facts to Prometheus metrics. Names and units follow the Prometheus naming rules; docs/metrics.md lists them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from proxy import __version__
from proxy.policy.labels import Labels
from proxy.policy.status import Detail, Result
from proxy.policy.sums import Across, Snapshot
from proxy.ports import Event, Exchange, Health, Part, Repeated, Stored, StoreFault, Unkept

_PREFIX: Final = "ollama_cache_proxy_"
_BUCKETS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)
_MAX_MODELS: Final = 50
_RATIO: Final = _PREFIX + "hit_ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What docs/metrics.md says of one metric, and how those of several processes become one."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str
    across: Across


class _Histogram(Collector):
    """A histogram that takes many values at once, which prometheus-client's own does not."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._about = (name, text, labels)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, labels: tuple[str, ...], values: Sequence[float]) -> None:
        """Count values, each in the first bucket that is not below it."""
        if not values:
            return
        counts = self._counts.setdefault(labels, [0] * (len(_BUCKETS) + 1))
        for value in values:
            counts[bisect_left(_BUCKETS, value)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + sum(values)

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's Collector: buckets hold what is not above their bound."""
        name, text, labels = self._about
        family = HistogramMetricFamily(name, text, labels=labels)
        for values, counts in self._counts.items():
            bounds = (*map(floatToGoString, _BUCKETS), "+Inf")
            family.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), self._sums[values])
        yield family


class _Together(Collector):
    """The families of a registry with the samples of a snapshot: what several processes counted."""

    def __init__(self, registry: CollectorRegistry, snapshot: Snapshot) -> None:
        self._registry = registry
        self._samples = {family: samples for family, _, samples in snapshot}

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's Collector."""
        hits, misses = (self._sum(_PREFIX + name) for name in ("hits", "misses"))
        for family in self._registry.collect():
            family.samples = [Sample(name, dict(labels), value) for name, labels, value in self._samples[family.name]]
            if family.name == _RATIO:
                family.samples = [Sample(_RATIO, {}, _ratio(hits, misses))]
            yield family

    def _sum(self, family: str) -> float:
        return sum(value for _, _, value in self._samples[family])


def _ratio(hits: float, misses: float) -> float:
    return hits / ((hits + misses) or 1)


class Metrics:
    """Observes, and renders on request. The statistics that outlive the process are elsewhere."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a series beside each series says nothing here
        self.registry = CollectorRegistry()
        self.described: list[Description] = []
        self.hits = 0
        self.misses = 0
        self._models = Labels(_MAX_MODELS)
        self._requests = self._counter(
            "requests",
            "Requests by what they asked, how the cache took part, and status.",
            "endpoint",
            "model",
            "cache",
            "status",
        )
        self._seconds = self._histogram("request_duration_seconds", "Time to the last byte of an answer.")
        self._first = self._histogram("first_byte_seconds", "Time to the first byte of an answer.")
        self._hits = self._counter("hits", "Requests answered from the cache or another's flight.", "endpoint")
        self._misses = self._counter("misses", "Candidates that went, or were tried, upstream.", "endpoint")
        self._collapsed = self._counter("collapsed", "Hits that came from another's flight.", "endpoint")
        self._bypasses = self._counter(
            "bypasses", "Requests that the cache had no part in, by reason.", "endpoint", "detail"
        )
        self._stores = self._counter("stores", "Entries that reached the store.", "endpoint")
        self._stored_bytes = self._counter("stored_bytes", "Bytes of bodies that reached the store.", "endpoint")
        self._unkept = self._counter("unkept", "Misses whose answer was not kept, by reason.", "endpoint", "detail")
        self._items = self._counter(
            "items", "Texts of lists of embeddings, by whether they were known.", "endpoint", "cache"
        )
        self._saved = self._counter("saved_seconds", "Seconds that Ollama did not have to work again.", "endpoint")
        self._errors = self._counter("errors", "Exchanges that failed, by whose fault.", "source")
        self._faults = self._counter("store_faults", "Operations that failed, entries damaged or dropped.", "kind")
        self._parts = {
            part: self._gauge(f"{name}_up", f"Whether {text} (1) or not (0).", across=Across.LEAST)
            for part, name, text in (
                (Part.UPSTREAM, "upstream", "Ollama answered last time"),
                (Part.STORE, "store", "the store answered last time"),
                (Part.STORE_WRITES, "store_writes", "the store took the last entry"),
            )
        }
        self._parts[Part.STORE_WRITES].set(1)
        ratio = self._gauge("hit_ratio", "Hits by hits and misses since the start, 0 to 1.")
        ratio.set_function(lambda: _ratio(self.hits, self.misses))
        info = self._gauge("build_info", "Always 1; the label holds the version.", "version", across=Across.MOST)
        info.labels(__version__).set(1)

    def __call__(self, event: Event) -> None:
        """Take a fact in."""
        match event:
            case Exchange():
                self._exchange(event, [event.seconds], [event.first_byte])
            case Repeated():
                self._exchange(event.exchange, event.seconds, event.seconds)
            case Stored():
                self._stores.labels(event.operation).inc(event.entries)
                self._stored_bytes.labels(event.operation).inc(event.size)
            case Unkept():
                self._unkept.labels(event.operation, event.detail.value).inc()
            case StoreFault():
                self._faults.labels(event.kind.value).inc()
            case Health():
                self._parts[event.part].set(1 if event.well else 0)

    def snapshot(self) -> Snapshot:
        """Give what this process has counted."""
        across = {described.name: described.across.value for described in self.described}
        return [
            (
                family.name,
                across.get(family.name, Across.TOTAL.value),
                [(sample.name, sample.labels, sample.value) for sample in family.samples],
            )
            for family in self.registry.collect()
        ]

    def render(self, accept: str, together: Snapshot | None = None) -> tuple[bytes, str]:
        """Give body and Content-Type, in OpenMetrics where `accept` asks for it.

        `together` is what this process and its siblings have counted, where it has any.
        """
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no version
            encoder, content_type = choose_encoder("")
        if together is None:
            return encoder(self.registry), content_type
        registry = CollectorRegistry()
        registry.register(_Together(self.registry, together))
        return encoder(registry), content_type

    def _exchange(self, event: Exchange, seconds: Sequence[float], first_bytes: Sequence[float | None]) -> None:
        """Take exchanges in that were alike but for their times."""
        times = len(seconds)
        cache = event.cache
        result = cache.result.value.lower()
        operation = event.operation
        model = "" if cache.result is Result.BYPASS else self._models.of(event.model)  # a bypass may name anything
        self._requests.labels(operation, model, result, str(event.status)).inc(times)
        self._seconds.observe((operation, result), seconds)
        self._first.observe((operation, result), [at for at in first_bytes if at is not None])
        if event.items:
            self._items.labels(operation, "hit").inc(times * event.items_known)
            self._items.labels(operation, "miss").inc(times * (event.items - event.items_known))
        if event.saved.seconds:
            self._saved.labels(operation).inc(times * event.saved.seconds)
        if event.error is not None:
            self._errors.labels(event.error.value).inc()
        match cache.result:
            case Result.HIT:
                self.hits += times
                self._hits.labels(operation).inc(times)
                if cache.collapsed:
                    self._collapsed.labels(operation).inc()
            case Result.MISS:
                self.misses += 1
                self._misses.labels(operation).inc()
                if not cache.stored and cache.detail not in (None, Detail.RECORDING):
                    self._unkept.labels(operation, cache.detail.value).inc()
            case Result.BYPASS:
                self._bypasses.labels(operation, cache.detail.value if cache.detail is not None else "").inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._describe(name + "_total", "counter", text, labels)
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, across: Across = Across.SUM) -> Gauge:
        self._describe(name, "gauge", text, labels, across)
        return Gauge(_PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> _Histogram:
        labels = ("endpoint", "cache")
        self._describe(name, "histogram", text, labels)
        histogram = _Histogram(_PREFIX + name, text, labels)
        self.registry.register(histogram)
        return histogram

    def _describe(
        self, name: str, kind: str, text: str, labels: tuple[str, ...], across: Across = Across.TOTAL
    ) -> None:
        self.described.append(Description(name=_PREFIX + name, kind=kind, labels=labels, text=text, across=across))
