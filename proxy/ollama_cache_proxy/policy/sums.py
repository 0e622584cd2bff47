"""Adding up the metrics of several processes, as if one process had counted everything.

A counter must never go back, since Prometheus takes that for a restart and counts everything once more: so it outlives
the process that counted. A gauge ends with its process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from operator import add
from typing import Final, TypeAlias


class Across(Enum):
    """How the values of several processes become one."""

    TOTAL = "total"
    """Counters: added up, with those of processes that have ended."""
    SUM = "sum"
    """Gauges, added up."""
    LEAST = "least"
    """Gauges, of which the smallest counts."""
    MOST = "most"
    """Gauges, of which the largest counts."""


Sample: TypeAlias = tuple[str, Mapping[str, str], float]
"""A name, labels and a value."""
Family: TypeAlias = tuple[str, str, Sequence[Sample]]
"""A name, the value of an Across, and samples; one name may come with several."""
Snapshot: TypeAlias = Sequence[Family]
"""All metrics of one process; can be written as JSON."""

_JOIN: Final[Mapping[Across, Callable[[float, float], float]]] = {
    Across.TOTAL: add,
    Across.SUM: add,
    Across.LEAST: min,
    Across.MOST: max,
}


def added(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of several snapshots; samples are in the order of their first appearance."""
    families: dict[tuple[str, str], dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for snapshot in snapshots:
        for family, across, samples in snapshot:
            join = _JOIN[Across(across)]
            values = families.setdefault((family, across), {})
            for name, labels, value in samples:
                place = (name, tuple(labels.items()))
                values[place] = join(values[place], value) if place in values else value
    return [
        (family, across, [(name, dict(labels), value) for (name, labels), value in values.items()])
        for (family, across), values in families.items()
    ]


def lasting(snapshot: Snapshot) -> Snapshot:
    """Return the part of a snapshot that outlives its process."""
    return [family for family in snapshot if family[1] == Across.TOTAL.value]
