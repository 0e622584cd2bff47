"""The median, minimum and maximum of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median, minimum (`low`) and maximum (`high`) of `count` measurements."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of measurements. Raise ValueError if there are none."""
    if not values:
        raise ValueError("nothing was measured")
    return Spread(median=median(values), low=min(values), high=max(values), count=len(values))


def seconds(value: float) -> str:
    """Return seconds as text with three digits, in ms below one second."""
    if round(value, 2) >= 10:  # noqa: PLR2004 - three digits
        return f"{value:,.1f} s"
    return f"{value:.2f} s" if round(value, 3) >= 1 else f"{value * 1000:.3g} ms"


def spelled(measured: Spread) -> str:
    """Return a spread of seconds as text: the median, and in parentheses the minimum and maximum."""
    return f"{seconds(measured.median)} ({seconds(measured.low)} to {seconds(measured.high)})"
