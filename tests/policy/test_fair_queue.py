from __future__ import annotations

from collections import Counter

import pytest

from ollama_cache_proxy.policy.fair_queue import FairQueue
from ollama_cache_proxy.policy.tickets import Ticket
from tests.support.tickets import listed

LARGEST = 1 << 18
"""Bytes that a request counts for at most."""


def filled(*waiting: tuple[str, int, int]) -> FairQueue:
    """Give a queue with requests of these clients, so many of each, of so many bytes."""
    queue = FairQueue()
    for client, number, size in waiting:
        for _ in range(number):
            queue.add(listed(client, size=size))
    return queue


def order(queue: FairQueue, number: int) -> str:
    return "".join(queue.take().client.decode() for _ in range(number))


def test_requests_of_one_client_go_in_the_order_in_which_they_came() -> None:
    queue = FairQueue()
    tickets = [listed(size=size) for size in (5, 100_000, 1, 7_000)]
    for ticket in tickets:
        queue.add(ticket)
    assert [queue.take() for _ in tickets] == tickets
    assert (len(queue), queue.clients) == (0, 0)


@pytest.mark.parametrize("size", [0, 300, 4096, 50_000, LARGEST, 10 * LARGEST])
def test_of_two_clients_with_requests_of_one_size_neither_is_far_ahead(size: int) -> None:
    queue = filled(("a", 200, size), ("b", 100, size))
    taken = Counter[str]()
    for client in order(queue, 150):
        taken[client] += 1
        assert abs(taken["a"] - taken["b"]) <= 2


def test_each_client_sends_as_many_bytes_as_the_others() -> None:
    queue = filled(("a", 4000, 2000), ("b", 400, 10_000), ("c", 4000, 3000))
    taken = Counter(order(queue, 900))
    sent = [taken["a"] * 2000, taken["b"] * 10_000, taken["c"] * 3000]
    assert max(sent) - min(sent) <= 2 * 10_000 + 1024


def test_a_newcomer_waits_for_one_request_of_each_of_the_others_at_most() -> None:
    queue = filled(("a", 100, LARGEST), ("b", 100, LARGEST))
    order(queue, 7)
    queue.add(listed("c", size=100))
    assert "c" in order(queue, 3)


def test_who_has_nothing_to_send_saves_nothing() -> None:
    queue = filled(("a", 1, 256), ("b", 50, 4096))
    order(queue, 40)
    queue.add(listed("a", size=4096))
    for _ in range(30):
        queue.add(listed("a", size=4096))
    taken = Counter(order(queue, 12))
    assert abs(taken["a"] - taken["b"]) <= 2


def test_who_leaves_makes_room() -> None:
    queue = filled(("a", 2, 256))
    mine, last = listed("b"), listed("b")
    queue.add(mine)
    queue.add(last)
    queue.remove(mine)
    assert (len(queue), queue.clients) == (3, 2)
    queue.remove(last)
    assert (len(queue), queue.clients) == (2, 1)
    assert order(queue, 2) == "aa"


def test_nothing_is_lost_and_nothing_is_taken_twice() -> None:
    queue, tickets = FairQueue(), list[Ticket]()
    for number in range(300):
        ticket = listed(f"client {number % 7}", size=(number * 7919) % 30_000)
        tickets.append(ticket)
        queue.add(ticket)
    taken = [queue.take() for _ in tickets]
    assert set(taken) == set(tickets)
    assert len(taken) == len(set(taken))


def test_what_has_begun_goes_before_what_has_not_but_not_before_other_clients() -> None:
    queue = filled(("a", 3, 1024), ("b", 3, 1024))
    begun = listed("a", size=1024)
    begun.begun = True
    queue.add(begun)
    assert queue.take() is begun
    queue.add(begun)
    assert order(queue, 1) == "b"
    assert queue.take() is begun
    assert len(queue) == 5
