"""When the breaker opens, when it probes, and when it closes again."""

from __future__ import annotations

import math
from typing import Final

import pytest

from ollama_cache_proxy.policy.probed_breaker import FIRST_GAP, LONGEST_GAP, ProbedBreaker

WELL: Final = "w"
FAILED: Final = "f"


def run(breaker: ProbedBreaker, outcomes: str, now: float = 100.0) -> int:
    """Tell the breaker of operations; return how many were told before it opened, or all of them."""
    for number, outcome in enumerate(outcomes):
        if breaker.open:
            return number
        breaker.succeeded() if outcome == WELL else breaker.failed(now)
    return len(outcomes)


def opened(at: float = 100.0) -> ProbedBreaker:
    breaker = ProbedBreaker(threshold=3)
    assert [breaker.failed(at) for _ in range(3)] == [False, False, True]
    return breaker


def probes_to_close(breaker: ProbedBreaker) -> int:
    """Probe successfully, each time when that is due, until the breaker closes; return how many probes it took."""
    count = 1
    while not breaker.probed(breaker.next_probe, well=True):
        count += 1
    return count


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        pytest.param("w" * 100, 100, id="all well"),
        pytest.param("fffff" + "w", 5, id="five in a row"),
        pytest.param("ffff" + "w" * 16 + "ffff", 24, id="four in a row, often enough well between"),
        pytest.param("ffffw" + "f", 6, id="one success does not make up for four failures"),
        pytest.param("fw" * 20, 13, id="each second one"),
        pytest.param("fwww" * 50, 65, id="each fourth one"),
        pytest.param("fwwww" * 50, 250, id="each fifth one is borne"),
    ],
)
def test_failures_in_a_row_open_it_and_so_do_frequent_ones(outcomes: str, told: int) -> None:
    assert run(ProbedBreaker(threshold=5), outcomes) == told


def test_a_decisive_failure_opens_it_at_once() -> None:
    breaker = ProbedBreaker(threshold=5)
    assert breaker.failed(100.0, decisive=True) is True
    assert (breaker.open, breaker.next_probe) == (True, 100.0 + FIRST_GAP)


def test_while_open_only_probes_count() -> None:
    breaker = opened()
    breaker.succeeded()
    assert breaker.failed(100.05) is False
    assert breaker.failed(100.05, decisive=True) is False
    assert (breaker.open, breaker.next_probe) == (True, 100.0 + FIRST_GAP), "late results do not put the probe off"


def test_a_closed_one_needs_no_probe() -> None:
    breaker = ProbedBreaker(threshold=3)
    assert breaker.next_probe == math.inf
    assert breaker.probed(100.0, well=False) is False
    assert breaker.probed(100.0, well=True) is False
    assert not breaker.open


def test_the_gaps_between_failed_probes_grow_up_to_a_bound() -> None:
    breaker, now, gaps = opened(at=100.0), 100.0, []
    for _ in range(7):
        gaps.append(round(breaker.next_probe - now, 6))
        now = breaker.next_probe
        assert breaker.probed(now, well=False) is False
    assert gaps == [0.1, 0.2, 0.4, 0.8, LONGEST_GAP, LONGEST_GAP, LONGEST_GAP]
    assert breaker.open


def test_one_successful_probe_closes_it_and_says_so() -> None:
    breaker = opened()
    assert breaker.probed(100.1, well=True) is True
    assert (breaker.open, breaker.next_probe) == (False, math.inf)


def test_after_it_was_closed_one_failure_opens_it_until_some_have_succeeded() -> None:
    breaker = opened()
    breaker.probed(101.0, well=True)
    assert run(breaker, "f" * 3) == 1
    breaker = opened()
    breaker.probed(101.0, well=True)
    assert run(breaker, "w" * 8 + "f" * 5) == 8 + 3


def test_one_that_opens_again_soon_takes_more_probes_up_to_a_bound() -> None:
    breaker = opened()
    counts = []
    for _ in range(6):
        counts.append(probes_to_close(breaker))
        breaker.failed(breaker._closed_at + 1)
    assert counts == [1, 2, 4, 8, 8, 8]
    probes_to_close(breaker)
    breaker.failed(breaker._closed_at + 60)
    assert probes_to_close(breaker) == 1, "after a minute that is forgotten"


def test_a_failed_probe_between_successful_ones_starts_their_count_anew() -> None:
    breaker = opened()
    assert probes_to_close(breaker) == 1
    breaker.failed(101.0)
    assert [breaker.probed(102.0, well=well) for well in (True, False, True, True)] == [False, False, False, True]


def test_the_gap_between_successful_probes_is_the_first_one() -> None:
    breaker = opened()
    assert probes_to_close(breaker) == 1
    breaker.failed(101.0)
    for _ in range(5):
        breaker.probed(102.0, well=False)
    assert breaker.next_probe == 102.0 + LONGEST_GAP
    breaker.probed(103.0, well=True)
    assert breaker.next_probe == 103.0 + FIRST_GAP
