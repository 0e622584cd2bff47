"""Several measurements of one thing in three numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of `count` measurements, the smallest and the largest of them."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Sum measurements up; raises ValueError where there are none."""
    if not values:
        raise ValueError("nothing was measured")
    return Spread(median=median(values), low=min(values), high=max(values), count=len(values))


def seconds(value: float) -> str:
    """Write seconds as a person reads them: three digits, in ms below one second."""
    if round(value, 2) >= 10:  # noqa: PLR2004 - three digits
        return f"{value:,.1f} s"
    return f"{value:.2f} s" if round(value, 3) >= 1 else f"{value * 1000:.3g} ms"


def spelled(measured: Spread) -> str:
    """Write a spread of seconds: the median, and in brackets from where to where."""
    return f"{seconds(measured.median)} ({seconds(measured.low)} to {seconds(measured.high)})"
