from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.guesses import (
    FORGETS_AFTER,
    FREE,
    FREE_OF_ALL,
    MAX_ADDRESSES,
    MAX_WAITING,
    MAX_WAITING_OF_ONE,
    WAITS,
    Guesses,
    Treatment,
    network,
)

AT_ONCE, LATE, REFUSED = Treatment


def test_five_wrong_tokens_are_free_and_one_is_forgotten_in_a_minute() -> None:
    assert (FREE, FREE_OF_ALL, FORGETS_AFTER, MAX_WAITING_OF_ONE, MAX_WAITING) == (5, 50, 60.0, 2, 8)
    assert WAITS == 1.0


def test_an_address_has_some_wrong_tokens_then_late_answers_then_none() -> None:
    guesses = Guesses()
    given = [guesses.wrong("10.0.0.1", 0.0) for _ in range(FREE + MAX_WAITING_OF_ONE + 3)]
    assert given == [AT_ONCE] * FREE + [LATE] * MAX_WAITING_OF_ONE + [REFUSED] * 3
    assert guesses.waiting == {"10.0.0.1": MAX_WAITING_OF_ONE}
    assert guesses.wrong("10.0.0.2", 0.0) is AT_ONCE, "another address has not guessed"
    guesses.waited("10.0.0.1")
    assert [guesses.wrong("10.0.0.1", 0.0) for _ in range(2)] == [LATE, REFUSED]


def test_what_was_wrong_is_forgotten_step_by_step_however_often_it_was() -> None:
    guesses = Guesses()
    for number in range(1000):
        if guesses.wrong("10.0.0.1", number / 100) is LATE:
            guesses.waited("10.0.0.1")
    now = 10.0 + 2.01 * FORGETS_AFTER
    assert [guesses.wrong("10.0.0.1", now) for _ in range(2)] == [AT_ONCE, LATE]
    guesses.waited("10.0.0.1")
    now += 100 * FORGETS_AFTER
    assert [guesses.wrong("10.0.0.1", now) for _ in range(FREE + 1)] == [AT_ONCE] * FREE + [LATE]


def test_many_addresses_are_bounded_together() -> None:
    guesses = Guesses()
    given = [guesses.wrong(f"10.0.{number // 256}.{number % 256}", 0.0) for number in range(5000)]
    assert given[:FREE_OF_ALL] == [AT_ONCE] * FREE_OF_ALL
    assert given[FREE_OF_ALL : FREE_OF_ALL + MAX_WAITING] == [LATE] * MAX_WAITING
    assert set(given[FREE_OF_ALL + MAX_WAITING :]) == {REFUSED}
    assert len(guesses._of) <= MAX_ADDRESSES
    assert sum(guesses.waiting.values()) == MAX_WAITING, "one that is waited for is not forgotten"
    first, *others = guesses.waiting
    guesses.waited(first)
    assert [guesses.wrong(f"10.1.0.{number}", 0.0) for number in range(3)] == [LATE, REFUSED, REFUSED]
    for name in (*others, "10.1.0.0"):
        guesses.waited(name)
    assert guesses.waiting == {}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_addresses_of_one_network_are_one(address: str, expected: str) -> None:
    assert network(address) == expected
