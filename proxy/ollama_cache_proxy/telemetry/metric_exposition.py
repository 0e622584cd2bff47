"""The text that a scrape reads: metrics of this process, or of all workers added up; and snapshots to add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.sums import Across, Snapshot
from ollama_cache_proxy.policy.sums import Family as CountedFamily
from ollama_cache_proxy.policy.sums import Sample as CountedSample
from ollama_cache_proxy.telemetry.metric_families import OPEN_METRICS, TEXT, wants_open_metrics
from ollama_cache_proxy.telemetry.metric_table import ACROSS, PREFIX, Families

_SHARED: Final = "redis"
"""The tier of which all processes report the same figures."""


@record
class Description:
    """One row of docs/metrics.md."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class Exposition:
    """Renders families. `count_deferred` is called before each reading, so that it includes deferred facts."""

    def __init__(self, families: Families, count_deferred: Callable[[], None]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_CountDeferred(count_deferred))
        self._count_deferred = count_deferred
        self._process = ProcessCollector(registry=self.registry)
        self._families = tuple(families)
        for family in self._families:
            self.registry.register(family)

    def snapshot(self) -> Snapshot:
        """Return the metrics of this process. Those of Redis, equal in every process, are marked not to be added up."""
        own: list[CountedFamily] = []
        for family in self.registry.collect():
            across = ACROSS.get(family.name, _ACROSS_PROCESS.get(family.name, Across.TOTAL))
            samples: list[CountedSample] = [(sample.name, sample.labels, sample.value) for sample in family.samples]
            shared = [sample for sample in samples if sample[1].get("tier") == _SHARED]
            own.append((family.name, across.value, [sample for sample in samples if sample not in shared]))
            if shared:
                own.append((family.name, Across.MOST.value, shared))
        return own

    def render(self, accept: str, together: Snapshot | None) -> tuple[bytes, str]:
        """Return body and Content-Type, in OpenMetrics if `accept` asks for it.

        `together` is the sum of this process and its siblings; None without siblings.
        """
        open_metrics = wants_open_metrics(accept)
        content_type = OPEN_METRICS if open_metrics else TEXT
        encoder, _ = choose_encoder(content_type)
        if together is not None:
            registry = CollectorRegistry()
            registry.register(_Together(self.registry, together))
            return encoder(registry), content_type
        self._count_deferred()
        own = "".join(family.written(open_metrics=open_metrics) for family in self._families)
        return own.encode() + encoder(self._process), content_type

    def described(self) -> Iterator[Description]:
        """Yield the rows of docs/metrics.md."""
        for family in self._families:
            name = family.name + family.suffix
            yield Description(name=name, kind=family.kind, labels=family.labels, text=family.text)
        for name, kind, text, _ in _PROCESS:
            yield Description(name=name, kind=kind, labels=(), text=text)


def ratio(hits: float, misses: float) -> float:
    """Return hits divided by hits and misses, 0 if there are none."""
    return hits / ((hits + misses) or 1)


class _CountDeferred(Collector):
    """A collector without metrics, registered first: it counts deferred facts before the families are read."""

    def __init__(self, count_deferred: Callable[[], None]) -> None:
        self._count_deferred = count_deferred

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's Collector."""
        self._count_deferred()
        return iter(())


class _Together(Collector):
    """Families with the samples of a snapshot, the sum of several processes."""

    def __init__(self, registry: CollectorRegistry, snapshot: Snapshot) -> None:
        self._registry = registry
        self._samples: dict[str, list[Sample]] = {}
        for family, _, samples in snapshot:
            found = self._samples.setdefault(family, [])
            found += [Sample(name, dict(labels), value) for name, labels, value in samples]

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's Collector."""
        hits, misses = (self._sum(PREFIX + name) for name in ("hits", "misses"))
        for family in self._registry.collect():
            family.samples = self._samples.get(family.name, [])
            if family.name == _RATIO:
                family.samples = [Sample(_RATIO, {}, ratio(hits, misses))]
            yield family

    def _sum(self, family: str) -> float:
        return sum(sample.value for sample in self._samples.get(family, ()))


_RATIO: Final = PREFIX + "hit_ratio"
_PROCESS: Final = (
    ("process_cpu_seconds_total", "counter", "CPU seconds that the proxy has used.", Across.TOTAL),
    ("process_max_fds", "gauge", "Limit on open files and sockets.", Across.SUM),
    ("process_open_fds", "gauge", "Open files and sockets.", Across.SUM),
    ("process_resident_memory_bytes", "gauge", "Bytes of resident memory.", Across.SUM),
    ("process_start_time_seconds", "gauge", "Unix time at which the process started.", Across.LEAST),
    ("process_virtual_memory_bytes", "gauge", "Bytes of virtual memory.", Across.SUM),
)
"""The metrics of prometheus-client's ProcessCollector, which has them on Linux only."""
_ACROSS_PROCESS: Final = {name: across for name, _, _, across in _PROCESS}
