"""The interval that a median lies in."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Final

FEWEST: Final = 9
"""Values from which on an interval means something."""
_SAMPLES: Final = 2000


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 90 % interval of the median of some values, by resampling with a fixed seed."""
    source = random.Random(1)  # noqa: S311 - resampling, not secret
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(_SAMPLES))
    return medians[_SAMPLES * 5 // 100], medians[_SAMPLES * 95 // 100]
