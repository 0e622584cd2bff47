from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.placing import REQUESTS, arrivals, compared


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_placement_waits_less_than_chance_and_loads_less_than_turns(seed: int) -> None:
    found = compared(seed)
    own = found["placement"]
    assert own.p95 <= 0.7 * found["random"].p95
    assert own.p95 <= 0.7 * found["least connections"].p95
    assert own.loads <= 0.3 * found["round robin"].loads


def test_arrivals_come_in_bursts_with_a_heavy_tail_and_are_those_of_their_seed() -> None:
    made = arrivals(1)
    assert made == arrivals(1) != arrivals(2)
    assert len(made) == REQUESTS
    gaps = [after.at - before.at for before, after in pairwise(made)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 > 2 * mean, "a Poisson process has as much as its mean"
    lengths = sorted(one.output for one in made)
    assert lengths[len(lengths) * 99 // 100] > 5 * lengths[len(lengths) // 2]
