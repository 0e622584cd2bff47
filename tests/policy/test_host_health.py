from __future__ import annotations

from ollama_cache_proxy.policy.host_health import DEADLINE, EVERY, PAUSES, HostHealth


def test_a_failed_look_ejects_and_one_that_is_well_takes_back() -> None:
    health = HostHealth()
    assert health.look_failed(10.0) is True
    assert health.ejected
    assert health.look_failed(11.0) is False
    assert health.look_was_well(12.0) is True
    assert not health.ejected
    assert health.look_was_well(13.0) is False


def test_looks_at_an_ejected_host_are_further_and_further_apart() -> None:
    health, now, pauses = HostHealth(), 0.0, []
    for _ in range(6):
        health.look_failed(now)
        pauses.append(health.look_at - now)
        now = health.look_at
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    health.look_was_well(now)
    assert health.look_at == now + EVERY


def test_a_host_that_hangs_is_ejected_and_taken_back_in_time() -> None:
    assert EVERY + DEADLINE <= 2
    assert PAUSES[-1] + DEADLINE <= 10


def test_a_lost_connection_ejects_until_the_look_that_is_due_at_once() -> None:
    health = HostHealth()
    health.look_was_well(10.0)
    assert health.look_at > 10.1
    assert health.request_failed(10.1) is True
    assert health.look_at <= 10.1
    assert not health.hangs
    assert health.look_was_well(10.2) is True


def test_lost_connections_do_not_bring_looks_at_an_ejected_host_forward() -> None:
    health = HostHealth()
    health.look_failed(10.0)
    assert health.request_failed(10.1) is False
    assert health.look_at > 10.9


def test_two_failed_looks_tell_that_it_hangs() -> None:
    health = HostHealth()
    health.look_failed(0.0)
    assert not health.hangs
    health.look_failed(1.0)
    assert health.hangs
