from __future__ import annotations

import pytest

from benchmarks.against import Row
from benchmarks.interval import interval


@pytest.mark.parametrize(
    ("ratios", "failed", "verdict"),
    [
        pytest.param([1.10, 1.12, 1.09, 1.11, 1.10, 1.13, 1.08, 1.10, 1.11], True, "worse", id="all beyond the bound"),
        pytest.param([1.10, 0.95, 1.09, 1.00, 1.04, 1.13, 0.98, 1.10, 1.02], False, "holds", id="some within"),
        pytest.param([1.02] * 9, False, "holds", id="within the bound"),
        pytest.param([0.90, 0.91, 0.92, 0.89, 0.90, 0.93, 0.90, 0.91, 0.90], False, "better", id="all below 1"),
    ],
)
def test_a_row_fails_where_its_interval_lies_wholly_beyond_the_bound(
    ratios: list[float], failed: bool, verdict: str
) -> None:
    row = Row(name="case", ratios=ratios)
    low, high = interval(ratios)
    assert min(ratios) <= low <= high <= max(ratios)
    assert row.failed is failed
    assert row.text().split()[-1] == verdict
