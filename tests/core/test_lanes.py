"""The lanes of one Ollama, without sockets: waiting, leaving, raising, and the clock of shares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.core.errors import ProxyError, unreachable
from ollama_cache_proxy.core.facts import Event, LaneEnd, LaneWaited
from ollama_cache_proxy.core.lanes import HostLanes, Lanes, waited
from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.credentials import DEFAULT_RULES
from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.lane_rules import Batches, LaneRules
from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.tickets import Lane, Ticket
from ollama_cache_proxy.service.system_clock import SystemClock
from tests.support.tickets import chat, listed
from tests.support.waiting import until

RULES = LaneRules(batches=Batches(), batch_slots=1)
BY_OPERATION = {row.operation: row for row in ENDPOINTS}


class Upstream:
    """An Ollama that answers at once, or fails, and notes what it was asked with."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.told: list[dict[str, Any]] = []
        self.error: ProxyError | None = None
        self.status = 200

    @asynccontextmanager
    async def ask(self, request: Request, body: Any, **told: Any) -> AsyncIterator[Any]:
        self.asked.append(body)
        self.told.append(told)
        if self.error is not None:
            raise self.error
        yield SimpleNamespace(head=ResponseHead(status=self.status, reason="", fields=()))


class Around:
    """The lanes of an Ollama, and what they report."""

    def __init__(self, rules: LaneRules = RULES) -> None:
        self.facts: list[LaneWaited] = []
        self.upstream = Upstream()
        self.all = Lanes(rules, key=b"k" * 16, clock=SystemClock(), observe=self._observe)
        self.lanes: HostLanes = self.all.at(self.upstream, "gpu1")
        self.holding: list[asyncio.Event] = []

    def _observe(self, event: Event) -> None:
        assert isinstance(event, LaneWaited)
        self.facts.append(event)

    def ask(self, ticket: Ticket | None, body: bytes = b"{}") -> asyncio.Task[str]:
        """Ask, and hold on to the response until `release`."""
        held = asyncio.Event()
        self.holding.append(held)

        async def asking() -> str:
            async with self.lanes.ask(request(ticket), body, repeatable=True, spent=1.5, patient=False) as response:
                await held.wait()
                return "response" if response.head.status == self.upstream.status else ""

        return asyncio.create_task(asking())

    def release(self) -> None:
        """Let everybody go on."""
        for held in self.holding:
            held.set()

    def waiting(self, lane: Lane = Lane.BATCH) -> int:
        return self.lanes.order.state(lane).waiting


def request(ticket: Ticket | None) -> Request:
    return Request(method="POST", target="/api/embed", fields=(), ticket=ticket)


async def test_what_has_no_ticket_goes_straight_on() -> None:
    around = Around(replace(RULES, interactive_slots=1))
    tasks = [around.ask(chat()), around.ask(None), around.ask(None)]
    await until(lambda: len(around.upstream.asked) == 3)
    around.release()
    assert await asyncio.gather(*tasks) == ["response"] * 3
    assert len(around.facts) == 1


async def test_what_it_is_asked_with_reaches_ollama() -> None:
    around = Around()
    ticket = listed(size=0)
    around.release()
    task = around.ask(ticket, b"12345")
    await until(lambda: around.upstream.asked)
    around.release()
    await task
    assert around.upstream.told == [{"repeatable": True, "spent": 1.5, "patient": False}]
    assert ticket.size == 5


async def test_it_is_under_way_until_its_response_was_read() -> None:
    around = Around()
    first, second = around.ask(listed(), b"1"), around.ask(listed(), b"2")
    await until(lambda: around.waiting() == 1)
    assert around.upstream.asked == [b"1"]
    around.holding[0].set()
    await first
    await until(lambda: around.upstream.asked == [b"1", b"2"])
    around.release()
    await second
    assert around.lanes.order.state(Lane.BATCH).under_way == 0
    assert [(fact.end, fact.ahead) for fact in around.facts] == [(LaneEnd.SENT, 0)] * 2
    assert around.facts[1].seconds > around.facts[0].seconds >= 0


async def test_one_that_fails_makes_room() -> None:
    around = Around()
    around.upstream.error = unreachable("gone")
    with pytest.raises(ProxyError, match="gone"):
        await around.ask(listed())
    around.upstream.error = None
    task = around.ask(listed())
    await until(lambda: len(around.upstream.asked) == 2)
    around.release()
    await task


@pytest.mark.parametrize(("status", "measured"), [(200, True), (500, False)])
async def test_only_a_success_tells_how_long_texts_take(status: int, measured: bool) -> None:
    around, ticket = Around(), listed()
    around.upstream.status = status
    task = around.ask(ticket)
    await until(lambda: around.upstream.asked)
    around.release()
    await task
    assert around.all.speeds.is_known(ticket) is measured


async def test_who_leaves_while_it_waits_is_not_asked_for() -> None:
    around = Around()
    first, second = around.ask(listed()), around.ask(listed("other"))
    await until(lambda: around.waiting() == 1)
    second.cancel()
    await asyncio.wait({second})
    assert around.waiting() == 0
    assert [(fact.end, fact.lane, fact.upstream) for fact in around.facts][-1] == (LaneEnd.LEFT, Lane.BATCH, "gpu1")
    around.release()
    await first
    assert len(around.upstream.asked) == 1


async def test_who_leaves_when_its_turn_has_just_come_makes_room() -> None:
    around = Around()
    first, second, third = around.ask(listed(), b"1"), around.ask(listed(), b"2"), around.ask(listed(), b"3")
    await until(lambda: around.waiting() == 2)
    around.release()
    while not first.done():  # noqa: ASYNC110 - second's turn comes in the turn of the loop in which first ends
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    assert await third == "response"
    assert around.lanes.order.state(Lane.BATCH).under_way == 0


async def test_a_refusal_was_never_sent_and_says_why() -> None:
    around = Around(replace(RULES, max_waiting=1, max_wait=0.02))
    first, second = around.ask(listed()), around.ask(listed())
    await until(lambda: around.waiting() == 1)
    with pytest.raises(ProxyError, match="lanes_max_waiting") as full:
        await around.ask(listed())
    with pytest.raises(ProxyError, match="lanes_max_wait") as late:
        await second
    for error, detail in ((full.value, Detail.LANE_FULL), (late.value, Detail.LANE_WAIT)):
        assert (error.status, error.detail, error.asks, error.unanswered) == (503, detail, 0, False)
    around.release()
    await first
    assert [fact.end for fact in around.facts] == [LaneEnd.SENT, LaneEnd.FULL, LaneEnd.LATE]


async def test_a_batch_that_is_raised_goes_at_once() -> None:
    around, batch = Around(), listed()
    tasks = [around.ask(chat(), b"chat"), around.ask(batch, b"batch")]
    await until(lambda: around.waiting() == 1)
    batch.raise_for(chat())
    await until(lambda: around.upstream.asked == [b"chat", b"batch"])
    around.release()
    await asyncio.gather(*tasks)
    assert [around.lanes.order.state(lane).under_way for lane in Lane] == [0, 0]
    batch.lane = Lane.BATCH
    batch.raise_for(chat())  # nobody is told of it any more


async def test_batches_go_when_they_are_owed_though_nothing_happens_meanwhile() -> None:
    around = Around(replace(RULES, batch_share=0.9))
    tasks = [around.ask(chat(), b"chat"), around.ask(listed(), b"batch")]
    await until(lambda: around.upstream.asked == [b"chat", b"batch"])
    around.release()
    await asyncio.gather(*tasks)


async def test_a_ticket_knows_how_long_it_has_waited() -> None:
    around, ticket = Around(), listed()
    first, second = around.ask(listed()), around.ask(ticket)
    await until(lambda: around.waiting() == 1)
    await asyncio.sleep(0.02)
    around.release()
    await asyncio.gather(first, second)
    assert waited(request(ticket)) == ticket.waited_in_all == around.facts[-1].seconds > 0.01
    third = around.ask(ticket)
    await until(lambda: len(around.upstream.asked) == 3)
    around.release()
    await third
    assert waited(request(ticket)) < 0.01 < ticket.waited_in_all
    assert waited(request(None)) == 0


def ticket_of(operation: str, *, texts: int = 1, model: str = "tiny", body: bytes = b"", bypass: bool = False) -> Any:
    endpoint = BY_OPERATION[operation]
    candidate = Candidate(endpoint=endpoint, model=model, document={}, items=texts)
    return Around().all.ticket(
        endpoint,
        ((b"Authorization", b"Bearer x"),),
        body,
        Bypass(detail=Detail.OPT_IN, model=model) if bypass else candidate,
        category="",
        address="10.0.0.1",
        credentials=DEFAULT_RULES,
    )


def test_the_ticket_of_a_request() -> None:
    found = ticket_of("embed", texts=3)
    assert (found.lane, found.texts, found.operation, found.model) == (Lane.BATCH, 3, "embed", "tiny")
    assert found.client == ticket_of("chat", bypass=True).client
    assert ticket_of("chat", bypass=True).lane is Lane.INTERACTIVE
    assert ticket_of("embed", body=b'{"input":["a","b"]}', bypass=True).lane is Lane.BATCH
    for operation, model in (("tags", "tiny"), ("pull", "tiny"), ("chat", "big-cloud"), ("generate", "big:cloud")):
        assert ticket_of(operation, model=model, bypass=True) is None
    assert ticket_of("chat", model="", body=b'{"model":"big-cloud"}', bypass=True) is None


async def test_parts_are_for_batches_and_the_host_where_people_are_about_decides() -> None:
    around = Around()
    other = around.all.at(Upstream(), "gpu2")
    for texts in (1, 25):
        around.all.speeds.note(listed(texts=texts), 0.02 * texts)
    assert around.all.texts_in_part(listed(), 50) == 25
    assert around.all.texts_in_part(listed(), 30) == 30
    ticket = chat()
    await other.enter(ticket)
    assert around.all.texts_in_part(listed(), 50) == 1
    assert around.all.texts_in_part(chat(), 50) == 50
    other.leave(ticket)


async def test_levels_and_figures_tell_of_each_lane_of_each_ollama() -> None:
    around = Around()
    around.all.at(Upstream(), "gpu2")
    tasks = [around.ask(listed()), around.ask(listed())]
    await until(lambda: around.waiting() == 1)
    levels = [(one.upstream, one.lane.value, one.waiting, one.under_way) for one in around.all.levels()]
    assert levels == [
        ("gpu1", "interactive", 0, 0),
        ("gpu1", "batch", 1, 1),
        ("gpu2", "interactive", 0, 0),
        ("gpu2", "batch", 0, 0),
    ]
    figures = around.all.figures()
    assert [figure["upstream"] for figure in figures] == ["gpu1", "gpu1", "gpu2", "gpu2"]
    assert [(figure["waiting"], figure["clients"], figure["underWay"]) for figure in figures][:2] == [
        (0, 0, 0),
        (1, 1, 1),
    ]
    around.release()
    await asyncio.gather(*tasks)


class Siblings:
    """The other workers, which are told at once."""

    def __init__(self) -> None:
        self.told: list[tuple[Topic, object]] = []
        self.others: list[Lanes] = []

    def send(self, topic: Topic, value: object = None) -> None:
        self.told.append((topic, value))
        for other in self.others:
            other.of_hosts[str(value)].pause()

    async def send_and_wait(self, topic: Topic, value: object = None) -> None:
        raise NotImplementedError


async def test_workers_pause_their_batches_for_each_others_people() -> None:
    one, two = Around(), Around()
    one.all.siblings = siblings = Siblings()
    siblings.others.append(two.all)
    person, batch = one.ask(chat(), b"chat"), listed()
    await until(lambda: siblings.told == [(Topic.LANES_BUSY, "gpu1")])
    waits = two.ask(batch, b"batch")
    await until(lambda: two.waiting() == 1)
    await until(lambda: len(siblings.told) == 4)
    assert two.upstream.asked == [], "it is told again and again"
    one.release()
    await person
    await until(lambda: two.upstream.asked == [b"batch"])
    two.release()
    await waits
    told = len(siblings.told)
    quiet = one.ask(listed())
    one.release()
    await quiet
    assert len(siblings.told) == told


async def test_what_a_sibling_says_of_an_ollama_that_is_not_known_is_ignored() -> None:
    around = Around()
    await around.all.sibling_is_busy("gpu9")
    await around.all.sibling_is_busy("gpu1")
    task = around.ask(listed())
    await until(lambda: around.waiting() == 1)
    around.release()
    assert await task == "response"
