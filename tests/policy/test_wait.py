"""How long a request waits for the store, by what its answers took."""

from __future__ import annotations

import random

import pytest

from ollama_cache_proxy.policy.wait import Wait


@pytest.mark.parametrize(
    ("longest", "first", "times", "low", "high"),
    [
        pytest.param(0.5, None, [], 0.25, 0.25, id="nothing seen"),
        pytest.param(0.5, None, [0.001] * 100, 0.25, 0.25, id="fast"),
        pytest.param(0.5, 0.2, [0.2] * 100, 0.4, 0.41, id="steady at 200 ms"),
        pytest.param(0.5, 0.4, [0.4] * 100, 0.5, 0.5, id="never above the bound"),
        pytest.param(2.0, 0.4, [0.4] * 100, 0.8, 0.81, id="with a higher bound"),
        pytest.param(0.05, 0.001, [0.001] * 100, 0.05, 0.05, id="a bound below the usual least"),
        pytest.param(0.5, 0.4, [0.001] * 100, 0.25, 0.25, id="fast again"),
        pytest.param(0.5, None, [0.001] * 50 + [0.2] + [0.001] * 20, 0.25, 0.25, id="one late answer is forgotten"),
    ],
)
def test_the_time_follows_the_answers(
    longest: float, first: float | None, times: list[float], low: float, high: float
) -> None:
    wait = Wait(longest=longest)
    if first is not None:
        wait.begin(first)
    for seconds in times:
        wait.note(seconds)
    assert low <= wait.seconds <= high


@pytest.mark.parametrize(("low", "high"), [(0.15, 0.3), (0.08, 0.24)])
def test_a_slow_store_with_jitter_is_waited_for(low: float, high: float) -> None:
    """No answer of a store that takes from `low` to `high` seconds is given up."""
    draw, wait = random.Random(33), Wait(longest=0.5)
    wait.begin(draw.uniform(low, high))
    for _ in range(1000):
        seconds = draw.uniform(low, high)
        assert seconds <= wait.seconds
        wait.note(seconds)


def test_the_gains_are_those_of_tcp() -> None:
    """An eighth of a difference for the time, a quarter for its deviation; twice the one and four times the other."""
    wait = Wait(longest=100.0)
    wait.begin(1.0)
    assert wait.seconds == 2 * 1 + 4 * 0.375
    wait.note(2.0)
    assert wait.seconds == 2 * 1.125 + 4 * (0.375 + (1 - 0.375) / 4)


def test_the_first_answer_is_taken_for_a_change_from_none() -> None:
    wait = Wait(longest=100.0)
    wait.note(8.0)
    assert wait.seconds == 2 * 1.0 + 4 * 2.0


def test_to_begin_anew_forgets_what_was_seen() -> None:
    wait = Wait(longest=1.0)
    for _ in range(1000):
        wait.note(0.001)
    wait.begin(0.4)
    assert wait.seconds == 1.0
