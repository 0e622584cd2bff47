from __future__ import annotations

import random
from typing import Any

import pytest

from ollama_cache_proxy.downstream.places import Closing, Places
from ollama_cache_proxy.policy.crowding import SETTLED, reserve


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Connection:
    """Idle since it was made, unless the test says otherwise."""

    def __init__(self, since: float | None) -> None:
        self.since = since
        self.unread = False
        self.left = False
        self.looked = 0

    def idle_since(self) -> float | None:
        self.looked += 1
        return self.since

    def leave(self) -> bool:
        self.left = not self.unread
        return self.left


class Around:
    """Places, their clock, and what was closed or refused."""

    def __init__(self, places: int) -> None:
        self.clock: Any = Clock()
        self.closed: list[Closing] = []
        self.places = Places(places, clock=self.clock, closed=self.closed.append)

    def come(self, after: float = 0.0, *, busy: bool = False) -> Connection | None:
        """Let a client connect, which is idle from then on or `busy`; None if it is refused."""
        self.clock.now += after
        connection = Connection(None if busy else self.clock.now)
        return connection if self.places.take(connection) else None

    def fill(self, count: int, **how: Any) -> list[Connection]:
        found = [self.come(**how) for _ in range(count)]
        assert None not in found
        return [connection for connection in found if connection is not None]


def left(connections: list[Connection]) -> list[int]:
    return [number for number, connection in enumerate(connections) if connection.left]


def test_nobody_is_closed_while_a_tenth_is_free() -> None:
    around = Around(100)
    connections = around.fill(90, after=60.0)
    assert left(connections) == []
    assert around.closed == []


def test_the_longest_idle_is_closed_for_each_that_comes_after() -> None:
    around = Around(100)
    connections = around.fill(90, after=2.0)
    connections[0].since = around.clock.now  # used meanwhile
    connections[3].since = None
    for expected in ([1], [1, 2], [1, 2, 4]):
        assert around.come(after=2.0)
        assert left(connections) == expected
    assert around.closed == [Closing.PLACES] * 3


def test_while_there_is_a_place_only_those_that_have_settled_are_closed() -> None:
    around = Around(100)
    connections = around.fill(100)
    assert left(connections) == []
    around.clock.now += SETTLED + 0.1
    assert around.come()
    assert len(left(connections)) == reserve(100) + 1
    assert left(connections) == list(range(reserve(100) + 1))


def test_when_all_places_are_taken_the_longest_idle_makes_room_at_once() -> None:
    around = Around(100)
    connections = around.fill(100)
    for number in range(20):
        assert around.come(after=0.001)
        assert left(connections) == list(range(number + 1))


def test_who_is_busy_is_never_closed_and_new_ones_are_refused() -> None:
    around = Around(20)
    connections = around.fill(20, busy=True)
    assert around.come(after=60.0) is None
    assert left(connections) == []
    assert around.closed == [Closing.FULL]
    connections[7].since = around.clock.now
    assert around.come(after=0.001)
    assert left(connections) == [7]


def test_one_that_has_just_come_is_not_closed_for_the_next() -> None:
    """It says so by a time in the future."""
    around = Around(5)
    for connection in around.fill(5):
        connection.since = around.clock.now + 2
    assert around.come(after=1.9) is None
    assert around.come(after=0.2) is not None


def test_a_connection_whose_request_has_arrived_is_not_closed() -> None:
    around = Around(5)
    connections = around.fill(5, after=0.001)
    connections[0].unread = True
    assert around.come(after=0.001)
    assert left(connections) == [1]


def test_a_place_is_free_as_soon_as_its_connection_is_closed() -> None:
    """Its end is known a turn of the event loop later."""
    around = Around(3)
    connections = around.fill(3, after=0.001)
    for _ in range(3):
        assert around.come(after=0.001)
    assert left(connections) == [0, 1, 2]
    assert around.places.taken == 6
    for connection in connections:
        around.places.free(connection)
    assert around.places.taken == 3
    assert around.come(after=0.001)


@pytest.mark.parametrize("places", [1, 7, 100])
def test_those_that_leave_by_themselves_are_forgotten(places: int) -> None:
    around = Around(places)
    for _ in range(1000):
        connection = around.come(after=0.01)
        assert connection is not None
        around.places.free(connection)
    assert around.places.taken == 0
    assert len(around.places._by_use) <= 65
    assert around.closed == []


def test_one_client_that_comes_looks_at_a_bounded_number_and_the_next_one_goes_on() -> None:
    around = Around(4000)
    connections = around.fill(4000, after=0.001, busy=True)
    connections[3999].since = around.clock.now
    refused = 0
    while not connections[3999].left:
        before = sum(connection.looked for connection in connections)
        refused += around.come(after=0.021) is None
        assert sum(connection.looked for connection in connections) - before <= 1024
    assert refused == 3


def test_after_many_looks_in_vain_there_is_none_for_a_moment() -> None:
    around = Around(200)
    connections = around.fill(200, busy=True)
    assert around.come(after=60.0) is None
    looked = sum(connection.looked for connection in connections)
    assert looked == 200
    assert around.come(after=0.001) is None
    assert sum(connection.looked for connection in connections) == looked
    connections[9].since = around.clock.now
    assert around.come(after=0.02) is not None


def test_where_all_have_been_used_since_the_longest_idle_that_is_looked_at_makes_room() -> None:
    around = Around(2000)
    connections = around.fill(2000)
    for connection in connections:
        connection.since = around.clock.now = around.clock.now + 0.0001
    assert around.come(after=0.001)
    assert left(connections) == [0]
    around.places.free(connections[0])
    for number in range(1, 50):
        assert around.come(after=0.001)
        assert left(connections) == list(range(number + 1))


def test_whatever_happens_the_longest_idle_goes_first_and_no_busy_one() -> None:
    rng = random.Random(19)
    around = Around(30)
    there: list[Connection] = []
    for _ in range(3000):
        around.clock.now += rng.random()
        for connection in rng.sample(there, min(3, len(there))):
            connection.since = rng.choice([None, around.clock.now])
        before = {connection: connection.since for connection in there}
        new = around.come()
        gone = [connection for connection in there if connection.left]
        kept = [connection for connection in there if not connection.left]
        assert all(before[connection] is not None for connection in gone)
        latest = max((before[connection] or 0 for connection in gone), default=0)
        assert all(since is None or since >= latest for connection in kept if (since := before[connection]) is not None)
        for connection in gone:
            around.places.free(connection)
        there = kept + ([new] if new is not None else [])
        assert around.places.taken == len(there) <= 30
        if there and rng.random() < 0.2:
            around.places.free(there.pop(rng.randrange(len(there))))
