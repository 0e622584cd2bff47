"""Who goes next, by tables and in simulated time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.lane_order import ABOUT, LaneOrder
from ollama_cache_proxy.policy.lane_rules import Batches, LaneRules
from ollama_cache_proxy.policy.lane_speeds import LaneSpeeds
from ollama_cache_proxy.policy.tickets import Lane, Ticket
from tests.support.tickets import chat, listed

RULES = LaneRules(batches=Batches())


class Around:
    """An order, and a clock that tests move."""

    def __init__(self, rules: LaneRules = RULES) -> None:
        self.now = 1000.0
        self.speeds = LaneSpeeds()
        self.order = LaneOrder(rules, self.speeds)

    def join(self, *tickets: Ticket) -> list[Ticket]:
        for ticket in tickets:
            assert self.order.join(ticket, self.now)
        return self.order.next(self.now)

    def end(self, ticket: Ticket) -> list[Ticket]:
        self.order.leave(ticket, self.now, done=True)
        return self.order.next(self.now)

    def later(self, seconds: float) -> list[Ticket]:
        self.now += seconds
        return self.order.next(self.now)


def test_while_nobody_is_about_several_batches_go_at_a_time() -> None:
    around, (one, two, three) = Around(), (listed(), listed(), listed())
    assert around.join(one, two, three) == [one, two]
    assert around.end(one) == [three]


def test_interactive_requests_go_first_and_batches_wait_for_them() -> None:
    around = Around()
    early, late, person = listed(), listed(), chat()
    assert around.join(person) == [person]
    assert around.join(early, late) == []
    other = chat("other")
    assert around.join(other) == [other]
    assert around.end(person) == []
    assert around.end(other) == [early], "for a minute one at a time"
    assert around.end(early) == [late]


def test_a_batch_under_way_is_not_stopped_and_holds_up_no_person() -> None:
    around, batch, person = Around(), listed(), chat()
    assert around.join(batch) == [batch]
    assert around.join(person) == [person]


def test_so_many_interactive_requests_are_under_way_at_a_time() -> None:
    around = Around(replace(RULES, interactive_slots=2))
    people = [chat(f"person {number}") for number in range(4)]
    assert around.join(*people) == people[:2]
    assert around.end(people[0]) == [people[2]]


def test_after_a_minute_nobody_is_about_any_more() -> None:
    around, person = Around(), chat()
    around.join(person)
    assert around.end(person) == []
    around.later(ABOUT - 1)
    one, two = listed(), listed()
    assert around.join(one, two) == [one]
    assert around.later(2) == [two]


@pytest.mark.parametrize(
    ("measured", "about", "texts"),
    [
        (None, False, None),
        (None, True, 1),
        (0.02, False, 25),
        (0.02, True, 2),
        (0.024, True, 2),
        (0.005, True, 4),
        (0.0001, True, 200),
        (3.0, False, 1),
        (3.0, True, 1),
    ],
)
def test_how_many_texts_a_part_has(measured: float | None, about: bool, texts: int | None) -> None:
    around, ticket = Around(), listed(texts=1000)
    if measured is not None:
        around.speeds.note(listed(texts=1), measured)
    if about:
        around.join(chat())
    assert around.order.texts_in_part(ticket, around.now) == texts


def test_only_so_many_wait_in_each_lane_and_what_has_begun_always_may() -> None:
    around = Around(replace(RULES, max_waiting=2, interactive_slots=1, batch_slots=1))
    around.join(chat())
    around.join(listed(), listed())
    assert not around.order.join(listed(), around.now)
    begun = listed()
    begun.begun = True
    assert around.order.join(begun, around.now)
    around.join(chat(), chat())
    assert not around.order.join(chat(), around.now)
    assert [around.order.ahead(lane) for lane in Lane] == [2, 5]


def test_who_leaves_while_it_waits_is_not_sent() -> None:
    around = Around(replace(RULES, batch_slots=1))
    one, two, three = listed(), listed(), listed()
    around.join(one, two, three)
    around.order.leave(two, around.now)
    assert not two.waiting
    assert around.end(one) == [three]


def test_a_batch_that_is_raised_while_it_waits_goes_at_once() -> None:
    around, person, batch = Around(), chat(), listed()
    around.join(person)
    assert around.join(batch) == []
    batch.on_raise = lambda ticket: around.order.raised(ticket, around.now)
    batch.raise_for(person)
    assert around.later(0) == [batch]
    assert around.end(person) == []
    assert around.end(batch) == []


def test_a_batch_that_is_raised_under_way_holds_up_others() -> None:
    around = Around(replace(RULES, batch_slots=1))
    batch, other = listed(), listed()
    around.join(batch, other)
    batch.on_raise = lambda ticket: around.order.raised(ticket, around.now)
    batch.raise_for(chat())
    assert around.later(0) == []
    assert around.end(batch) == [other]
    assert around.order.state(Lane.INTERACTIVE).under_way == 0


def test_only_undisturbed_work_is_measured_and_shared_time_is_divided() -> None:
    around = Around()
    one, two = listed(texts=10), listed(texts=10)
    around.join(one, two)
    around.later(2.0)
    around.end(two)
    assert around.speeds.seconds(listed(texts=1)) == pytest.approx(0.1)
    person = chat()
    around.join(person)
    around.later(100.0)
    around.end(one)
    assert around.speeds.seconds(listed(texts=1)) == pytest.approx(0.1)


def test_what_a_long_list_takes_beside_people_is_paid_for_even_while_no_batch_waits() -> None:
    around = Around()
    around.speeds.note(listed(texts=1), 1.0)
    around.join(chat())
    long, next_one = listed(texts=20), listed(texts=1)
    assert around.join(long) == []
    assert around.later(5.1) == [long]
    assert around.end(long) == []
    around.later(100.0)
    assert around.join(next_one) == []
    assert around.later(90.0) == []
    assert around.later(15.0) == [next_one]


def test_what_failed_or_was_left_is_not_measured() -> None:
    around, batch = Around(), listed()
    around.join(batch)
    around.now += 0.001
    around.order.leave(batch, around.now)
    assert not around.speeds.is_known(batch)


def test_requests_of_other_processes_count_too() -> None:
    around, batch = Around(), listed()
    around.order.seen_elsewhere(around.now)
    assert around.join(batch) == []
    assert around.order.due(around.now) == pytest.approx(0.25)
    around.now += 0.2
    around.order.seen_elsewhere(around.now)
    assert around.later(0.24) == []
    assert around.later(0.02) == [batch]
    other = listed()
    assert around.join(other) == [], "one at a time: somebody is about"


def test_other_processes_do_not_starve_batches_either() -> None:
    around, batch = Around(), listed()
    around.order.seen_elsewhere(around.now)
    assert around.join(batch) == []
    for _ in range(60):
        around.order.seen_elsewhere(around.now)
        if around.later(0.1):
            break
    assert around.now == pytest.approx(1005.1, abs=0.2)


def test_work_beside_that_of_other_processes_is_not_measured() -> None:
    around, batch = Around(), listed()
    around.join(batch)
    around.order.seen_elsewhere(around.now)
    around.later(1.0)
    around.end(batch)
    assert not around.speeds.is_known(batch)


# In simulated time: a GPU that works on one thing at a time, in the order in which it gets it.

TEXT, CHAT = 0.02, 0.6


class Gpu:
    """What is sent to it, and when each is done."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.ends: list[tuple[float, Ticket]] = []
        self.busy = dict.fromkeys(Lane, 0.0)

    def take(self, ticket: Ticket, now: float) -> None:
        work = CHAT if ticket.lane is Lane.INTERACTIVE else TEXT * ticket.texts
        self.free_at = max(self.free_at, now) + work
        self.busy[ticket.lane] += work
        self.ends.append((self.free_at, ticket))


def run(rules: LaneRules, seconds: float, *, indexers: int, chatters: int) -> Gpu:
    """Let so many indexers and people ask again and again, each as soon as it has its response."""
    around, gpu = Around(rules), Gpu()
    begun = gpu.free_at = around.now
    around.speeds.note(listed(texts=1), TEXT)

    def again(ticket: Ticket) -> Iterator[Ticket]:
        if ticket.lane is Lane.BATCH:
            ticket.texts = around.order.texts_in_part(ticket, around.now) or 16
        assert around.order.join(ticket, around.now)
        yield from around.order.next(around.now)

    for number in range(chatters):
        for ticket in again(chat(f"person {number}")):
            gpu.take(ticket, around.now)
    for number in range(indexers):
        for ticket in again(listed(f"indexer {number}")):
            gpu.take(ticket, around.now)
    while around.now < begun + seconds:
        due = around.order.due(around.now)
        ends = min(gpu.ends, key=lambda end: end[0], default=(float("inf"), listed()))
        if due is not None and around.now + due < ends[0]:
            going = around.later(due)
        else:
            gpu.ends.remove(ends)
            around.now = ends[0]
            going = [*around.end(ends[1]), *again(ends[1])]
        for ticket in going:
            gpu.take(ticket, around.now)
    return gpu


@pytest.mark.parametrize("indexers", [1, 4])
@pytest.mark.parametrize("chatters", [1, 3, 8])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_batches_get_their_share_however_busy_people_keep_ollama(indexers: int, chatters: int, share: float) -> None:
    gpu = run(replace(RULES, batch_share=share), 400.0, indexers=indexers, chatters=chatters)
    got = gpu.busy[Lane.BATCH] / sum(gpu.busy.values())
    assert 0.6 * share <= got <= 1.6 * share


def test_without_people_batches_keep_ollama_busy_all_the_time() -> None:
    gpu = run(RULES, 100.0, indexers=3, chatters=0)
    assert gpu.busy[Lane.BATCH] >= 100.0
