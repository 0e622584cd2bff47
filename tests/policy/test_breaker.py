from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.breaker import Breaker


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker(threshold=3, pause=1.0)
    assert [breaker.failed(at) for _ in range(3)] == [False, False, True]
    return breaker


def test_it_lets_everything_through_while_things_go_well():
    breaker = Breaker(threshold=2, pause=1.0)
    assert all(breaker.allows(now) for now in (0.0, 0.0, 1.0))
    assert not breaker.open


@pytest.mark.parametrize("threshold", [1, 2, 5])
def test_failures_in_a_row_open_it_and_are_reported_once(threshold):
    breaker = Breaker(threshold=threshold, pause=1.0)
    reports = [breaker.failed(0.0) for _ in range(threshold + 3)]
    assert reports == [False] * (threshold - 1) + [True] + [False] * 3
    assert breaker.open


def test_a_success_between_starts_the_count_anew():
    breaker = Breaker(threshold=2, pause=1.0)
    assert breaker.failed(0.0) is False
    assert breaker.succeeded() is False
    assert breaker.failed(0.0) is False
    assert not breaker.open
    assert breaker.failed(0.0) is True


def test_open_it_lets_one_probe_through_a_pause():
    breaker = opened(at=100.0)
    asked = [100.0, 100.5, 100.999, 101.0, 101.0, 101.5, 102.0, 102.1, 110.0, 110.9]
    assert [breaker.allows(now) for now in asked] == [
        False,
        False,
        False,
        True,
        False,
        False,
        True,
        False,
        True,
        False,
    ]


def test_a_failed_probe_keeps_it_open_until_the_next():
    breaker = opened(at=100.0)
    assert breaker.allows(101.0)
    assert breaker.failed(101.2) is False
    assert not breaker.allows(101.9)
    assert breaker.allows(102.0)


def test_late_failures_of_earlier_tries_do_not_put_the_probe_off():
    breaker = opened(at=100.0)
    assert [breaker.failed(100.9) for _ in range(5)] == [False] * 5
    assert breaker.allows(101.0)


def test_a_success_closes_it_and_is_reported_once():
    breaker = opened()
    assert breaker.succeeded() is True
    assert breaker.succeeded() is False
    assert not breaker.open
    assert breaker.allows(100.0)


def test_closed_again_it_needs_as_many_failures_as_before():
    breaker = opened()
    breaker.succeeded()
    assert [breaker.failed(200.0) for _ in range(3)] == [False, False, True]
    assert not breaker.allows(200.9)
    assert breaker.allows(201.0)
