from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.placing import PATTERNS, REQUESTS, arrivals, compared, recorded


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_placement_waits_less_than_chance_and_loads_less_than_turns(pattern: str, seed: int) -> None:
    found = compared(pattern, seed)
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


def test_recorded_arrivals_have_the_times_and_lengths_of_the_trace_and_the_conversations_of_their_seed() -> None:
    made, other = recorded(1), recorded(2)
    assert made == recorded(1) != other
    assert len(made) == 4000
    assert [(one.at, one.prompt, one.output) for one in made] == [(one.at, one.prompt, one.output) for one in other]
    assert (made[0].at, made[0].prompt, made[0].output) == (0.0, 374, 44)
    for talk in {one.talk for one in made}:
        turns = [one for one in made if one.talk == talk]
        assert len({one.model for one in turns}) == 1
        assert all(before.prompt < after.prompt for before, after in pairwise(turns))
    assert len({one.talk for one in made}) < len(made) / 2
