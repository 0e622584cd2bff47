"""Families of samples: counters, gauges and histograms, and their text for a scrape.

prometheus-client's own take a lock for each addition, one value at a time, and render several times as slowly, while
all requests wait. `collect` yields prometheus-client's types, so that these families work in its registries.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, TypeAlias

from prometheus_client.core import Exemplar, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels: TypeAlias = tuple[str, ...]
"""The values of a family's labels, in the order of their names."""

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_OPEN_METRICS: Final = "application/openmetrics-text"


class Row(NamedTuple):
    """One sample; `bound` is the upper bound of a bucket, empty for other samples."""

    suffix: str
    labels: Labels
    value: float
    bound: str = ""
    exemplar: Exemplar | None = None


class _Texts(dict[Labels, str]):
    """A cache of rendered labels: they are most of the text of a scrape."""

    def __init__(self, names: Labels) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, values: Labels) -> str:
        pairs = sorted(zip(self._names, values, strict=True))
        text = self[values] = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
        return text


class Family(Collector):
    """The samples of one metric; `name` is without the suffix of its kind, `text` is its help, one line."""

    kind = ""
    suffix = ""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._texts = _Texts(labels)

    def _add_labels(self, labels: Labels) -> None:
        """Render new labels now, rather than all of them at the next scrape."""
        self._texts[labels]

    def rows(self) -> Iterator[Row]:
        """Yield the samples."""
        raise NotImplementedError

    def lines(self, *, open_metrics: bool) -> Iterator[str]:
        """Yield the samples as text, with exemplars in OpenMetrics."""
        raise NotImplementedError

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's Collector."""
        metric = Metric(self.name, self.text, self.kind)
        for row in self.rows():
            labels = dict(zip(self.labels, row.labels, strict=True)) | ({"le": row.bound} if row.bound else {})
            metric.add_sample(self.name + row.suffix, labels, row.value, exemplar=row.exemplar)
        yield metric

    def written(self, *, open_metrics: bool) -> str:
        """Return the family as text."""
        name = self.name if open_metrics else self.name + self.suffix
        head = (f"# HELP {name} {self.text}", f"# TYPE {name} {self.kind}")
        return "\n".join((*head, *self.lines(open_metrics=open_metrics), ""))


class Plain(Family):
    """A family with one value for each set of labels."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        super().__init__(name, text, labels)
        self._values: dict[Labels, float] = {}

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Replace all samples; those that are not in `values` are removed."""
        self._values = dict(values)

    def rows(self) -> Iterator[Row]:
        """See Family."""
        return (Row(self.suffix, labels, value) for labels, value in self._values.items())

    def lines(self, *, open_metrics: bool) -> Iterator[str]:  # noqa: ARG002 - no exemplars here
        """See Family."""
        name, texts = self.name + self.suffix, self._texts
        if not self.labels:
            return (f"{name} {float(value)!r}" for value in self._values.values())
        return (f"{name}{{{texts[labels]}}} {float(value)!r}" for labels, value in self._values.items())


class Counter(Plain):
    """A value that only grows."""

    kind = "counter"
    suffix = "_total"

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add to one sample."""
        try:
            self._values[labels] += by
        except KeyError:
            self._add_labels(labels)
            self._values[labels] = by


class Gauge(Plain):
    """A value that goes up and down."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set one sample."""
        self._values[labels] = value


_MANY: Final = 16
"""Values that are counted together."""


class Histogram(Family):
    """Counts of values by size; `bounds` are the upper bounds of the buckets, ascending."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> None:
        super().__init__(name, text, labels)
        self._bounds = bounds
        self._names = (*map(floatToGoString, bounds), "+Inf")
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        self._exemplars: dict[Labels, dict[str, Exemplar]] = {}

    def observe(self, labels: Labels, values: Sequence[float]) -> None:
        """Count values, each in the first bucket whose bound is not below it."""
        if not values:
            return
        counts = self._counts.get(labels)
        if counts is None:
            self._add_labels(labels)
            counts = self._counts[labels] = [0] * len(self._names)
        if len(values) < _MANY:
            for value in values:
                counts[bisect_left(self._bounds, value)] += 1
        else:
            self._count_many(counts, values)
        self._sums[labels] = self._sums.get(labels, 0.0) + sum(values)

    def _count_many(self, counts: list[int], values: Sequence[float]) -> None:
        """Count values, of which most are near each other: the hits of a second."""
        first, last = bisect_left(self._bounds, min(values)), bisect_left(self._bounds, max(values))
        before, ordered = 0, sorted(values) if first < last else values
        for place in range(first, last):
            up_to = bisect_right(ordered, self._bounds[place])
            counts[place] += up_to - before
            before = up_to
        counts[last] += len(values) - before

    def set_exemplar(self, labels: Labels, value: float, trace: str, now: float) -> None:
        """Set the exemplar of a value's bucket to its trace id; `now` is Unix time in seconds."""
        bound = self._names[bisect_left(self._bounds, value)]
        self._exemplars.setdefault(labels, {})[bound] = Exemplar({"trace_id": trace}, value, now)

    def rows(self) -> Iterator[Row]:
        """See Family. A bucket counts all values that are not above its bound."""
        for labels, counts in self._counts.items():
            exemplars = self._exemplars.get(labels, {})
            for bound, count in zip(self._names, accumulate(counts), strict=True):
                yield Row("_bucket", labels, count, bound, exemplars.get(bound))
            yield Row("_count", labels, sum(counts))
            yield Row("_sum", labels, self._sums[labels])

    def lines(self, *, open_metrics: bool) -> Iterator[str]:
        """See Family."""
        name = self.name
        for labels, counts in self._counts.items():
            text = self._texts[labels]
            first, all_of_them = (f"{text},", f"{{{text}}}") if text else ("", "")
            exemplars = self._exemplars.get(labels, {}) if open_metrics else {}
            for bound, count in zip(self._names, accumulate(counts), strict=True):
                exemplar = _exemplar(exemplars[bound]) if bound in exemplars else ""
                yield f'{name}_bucket{{{first}le="{bound}"}} {count}.0{exemplar}'
            yield f"{name}_count{all_of_them} {sum(counts)}.0"
            yield f"{name}_sum{all_of_them} {self._sums[labels]!r}"


def wants_open_metrics(accept: str) -> bool:
    """Return whether an Accept field asks for OpenMetrics in a version that is rendered here."""
    for member in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in member.split(";"))
        values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        refused = not values.get("q", "1").strip("0.")
        if kind == _OPEN_METRICS and values.get("version", "1").startswith("1") and not refused:
            return True
    return False


def _exemplar(exemplar: Exemplar) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in exemplar.labels.items())
    return f" # {{{labels}}} {exemplar.value!r} {exemplar.timestamp}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
