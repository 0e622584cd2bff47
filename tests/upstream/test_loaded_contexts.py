"""Looking at `/api/ps` after responses: how often, what disturbs it, what is withdrawn, saved and told to siblings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_cache_proxy.core.facts import ContextChanged
from ollama_cache_proxy.core.ports import Body, Identity, Runner, Topic
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import context_lengths
from ollama_cache_proxy.policy.context_lengths import UNKNOWN, Contexts
from ollama_cache_proxy.stores.memory import MemoryValues
from ollama_cache_proxy.upstream import loaded_contexts as module
from ollama_cache_proxy.upstream.loaded_contexts import LoadedContexts
from tests.support.clocks import Clock

TINY = Identity(
    model="registry.ollama.ai/library/tiny:latest", digest="d1", version="0.33.0", stability=SimpleNamespace()
)
OWN_LENGTH = b'{"model":"tiny","options":{"num_ctx":16384}}'


class World:
    """An Ollama that tells `length`, a clock, and what was told and done."""

    def __init__(self, store: MemoryValues | None = None, *, name: str = "ollama") -> None:
        self.length: int | None = 4096
        self.loaded_at_all = True
        self.slow = False
        self.bodies: list[Body] = []
        self.sent_meanwhile: list[Body] = []
        self.looks = 0
        self.changes = 0
        self.facts: list[Any] = []
        self.messages: list[tuple[Topic, Any]] = []
        self.withdrawn: list[str] = []
        self.clock = Clock()
        self.tasks = Tasks()
        self.store = store or MemoryValues()
        itself: Any = self
        self.contexts = LoadedContexts(
            itself,
            itself,
            self.store,
            name=name,
            clock=itself,
            tasks=self.tasks,
            observe=self.facts.append,
            siblings=itself,
        )
        self.contexts.on_change = self.changed
        self.now = self.monotonic = self.clock.now

    def changed(self) -> None:
        self.changes += 1

    def send(self, topic: Topic, value: Any = None) -> None:
        self.messages.append((topic, value))

    @contextmanager
    def watching(self) -> Iterator[list[Body]]:
        self.seen = list(self.bodies)
        yield self.seen

    async def loaded(self, identity: Identity) -> Runner | None:
        assert identity is TINY
        self.looks += 1
        self.seen += self.sent_meanwhile
        if self.slow:
            await asyncio.sleep(60)
        return Runner(expires=0.0, context=self.length) if self.loaded_at_all else None

    async def respond(self, name: str = "", *, after: float = module.EVERY, keys: int = 1) -> Contexts:
        """Have a response stored so many seconds later, and return what is known then."""
        self.clock.time += after
        if self.contexts.known("d1") is None:
            await self.contexts.load("d1")
        self.contexts.responded(TINY, lambda: self.withdrawn.append(name), keys)
        while self.tasks._running:
            await asyncio.wait(set(self.tasks._running))
        known = self.contexts.known("d1")
        assert known is not None
        return known

    async def see(self, *lengths: int) -> str:
        """Have a response after each of these, and return what is in the epoch then."""
        known = UNKNOWN
        for length in lengths:
            self.length = length
            known = await self.respond()
        return context_lengths.part(known)


async def test_a_change_counts_when_it_was_seen_twice() -> None:
    world = World()
    assert await world.see(4096, 4096, 4096, 8192) == ""
    assert (world.changes, world.facts) == (0, [])
    assert await world.see(8192) == "ctx=8192"
    assert world.changes == 1
    assert world.facts == [ContextChanged(model="tiny:latest", before=4096, now=8192)]
    assert await world.see(8192, 4096) == "ctx=8192"
    assert await world.see(4096) == ""
    assert (world.changes, len(world.facts)) == (2, 2)


async def test_ollama_is_asked_once_in_a_while_and_sooner_to_confirm() -> None:
    world = World()
    await world.see(4096, 4096)
    assert world.looks == 2
    for _ in range(5):
        await world.respond(after=0.5)
    assert world.looks == 2
    world.length = 8192
    await world.respond()
    assert world.looks == 3
    await world.respond(after=0.5)
    assert world.looks == 3
    await world.respond(after=module.AGAIN)
    assert world.looks == 4
    assert world.changes == 1


async def test_what_was_stored_since_the_last_agreement_is_withdrawn() -> None:
    world = World()
    await world.see(4096, 4096)
    await world.respond("agreed")
    await world.respond("between", after=1.0)
    world.length = 8192
    await world.respond("first")
    await world.respond("unlooked", after=0.1)
    assert world.withdrawn == []
    await world.respond("second")
    assert world.withdrawn == ["between", "first", "unlooked", "second"]
    await world.respond("after")
    await world.see(4096, 4096)
    assert "after" not in world.withdrawn, "it was confirmed"


async def test_a_length_that_was_seen_once_withdraws_nothing() -> None:
    world = World()
    await world.see(4096, 4096, 8192, 4096, 2048, 8192, 4096)
    assert (world.withdrawn, world.changes) == ([], 0)


DISTURBANCES: list[tuple[str, Any]] = [
    ("bodies", [OWN_LENGTH]),
    ("sent_meanwhile", [OWN_LENGTH]),
    ("loaded_at_all", False),
    ("length", None),
    ("slow", True),
]


@pytest.mark.parametrize(("name", "value"), DISTURBANCES, ids=["under way", "sent meanwhile", "gone", "untold", "slow"])
async def test_what_may_be_about_another_request_is_no_observation(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WITHIN", 0.05)
    world = World()
    await world.see(4096, 4096)
    world.length = 8192
    setattr(world, name, value)
    for _ in range(4):
        await world.respond(after=10_000)
    assert (world.changes, world.withdrawn) == (0, [])
    assert context_lengths.part(await world.respond()) == ""


async def test_a_request_for_another_model_does_not_disturb() -> None:
    world = World()
    world.contexts.digest_of = {"registry.ollama.ai/library/tiny:latest": "d2"}.get
    world.bodies = [OWN_LENGTH]
    assert await world.see(4096, 4096, 8192, 8192) == "ctx=8192"


@pytest.mark.parametrize("told", [True, False], ids=["no length", "no answer"])
async def test_an_ollama_that_tells_no_length_is_asked_ever_more_rarely(told: bool) -> None:
    world = World()
    world.length, world.loaded_at_all = None, told
    for _ in range(600):
        await world.respond("x", after=10.0)
    assert world.looks < 20
    assert world.contexts.known("d1") == UNKNOWN
    assert not world.contexts._models["d1"].unsettled
    assert world.contexts._keys == 0


async def test_how_much_can_be_withdrawn_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_KEYS", 100)
    world = World()
    await world.see(4096, 4096)
    for number in range(50):
        await world.respond(f"{number}", after=0.05, keys=10)
        assert world.contexts._keys <= 100
    world.length = 8192
    await world.respond("first")
    await world.respond("second")
    assert world.withdrawn[-3:] == ["49", "first", "second"]
    assert "0" not in world.withdrawn


async def test_a_restart_goes_on_with_what_was_known() -> None:
    world = World()
    await world.see(4096, 4096, 8192, 8192)
    again = World(world.store)
    assert await again.contexts.load("d1") == world.contexts.known("d1")
    again.length = 8192
    await again.respond()
    assert (again.changes, again.facts) == (0, [])
    assert await again.see(4096, 4096) == ""


async def test_the_first_length_is_that_of_the_store_whichever_ollama_saw_it() -> None:
    world = World()
    await world.see(4096, 4096)
    other = World(world.store, name="another machine")
    other.length = 8192
    await other.respond("first")
    assert context_lengths.part(await other.respond("second")) == "ctx=8192"
    assert other.withdrawn == ["first", "second"]
    assert context_lengths.part(await world.respond()) == ""


async def test_what_another_proxy_saw_of_the_same_ollama_is_taken_over() -> None:
    one = World()
    await one.see(4096, 4096)
    other = World(one.store)
    other.clock.time = one.clock.time + 100
    await other.see(4096, 8192, 8192)
    one.clock.time = other.clock.time
    one.length = 8192
    assert context_lengths.part(await one.respond("late")) == "ctx=8192"
    assert (one.withdrawn, one.changes, one.facts) == (["late"], 1, [])


async def test_siblings_are_told_and_take_it_over() -> None:
    world, sibling = World(), World()
    await world.see(4096, 4096)
    await sibling.see(4096, 4096)
    await sibling.respond("stored here", after=0.1)
    world.messages.clear()
    await world.see(8192, 8192)
    ((topic, value),) = world.messages
    assert topic is Topic.CONTEXT
    await sibling.contexts.sibling_saw(value)
    assert sibling.contexts.known("d1") == world.contexts.known("d1")
    assert (sibling.changes, sibling.withdrawn, sibling.facts) == (1, ["stored here"], [])


class Failing(MemoryValues):
    """A store that can fail."""

    fails = False

    async def save(self, name: str, value: bytes) -> bool:
        return not self.fails and await super().save(name, value)

    async def load(self, name: str) -> bytes | None:
        return None if self.fails else await super().load(name)

    async def set_default(self, name: str, value: bytes) -> Any:
        return None if self.fails else await super().set_default(name, value)


async def test_what_the_store_did_not_take_is_saved_later() -> None:
    store = Failing()
    world = World(store)
    await world.see(4096, 4096)
    store.fails = True
    assert await world.see(8192, 8192) == "ctx=8192"
    store.fails = False
    await world.see(8192)
    assert await World(store).contexts.load("d1") == world.contexts.known("d1")


async def test_no_length_is_the_first_one_while_the_store_fails() -> None:
    store = Failing()
    store.fails = True
    world = World(store)
    await world.see(4096, 4096, 4096)
    assert world.contexts.known("d1") == Contexts(seen=4096)
    store.fails = False
    await world.see(4096)
    assert world.contexts.known("d1") == Contexts(first=4096, now=4096, before=4096, since=world.clock.time)


async def test_a_store_that_failed_is_asked_again() -> None:
    store = Failing()
    world = World(store)
    await world.see(4096, 4096, 8192, 8192)
    store.fails = True
    again = World(store)
    await again.respond("before it was known")
    store.fails = False
    again.clock.time += 2
    again.contexts.known("d1")
    while again.tasks._running:
        await asyncio.wait(set(again.tasks._running))
    assert context_lengths.part(again.contexts.known("d1") or UNKNOWN) == "ctx=8192"
    assert again.withdrawn == ["before it was known"]


async def test_a_value_that_the_store_has_lost_is_saved_again() -> None:
    world = World()
    await world.see(4096, 4096, 8192, 8192)
    world.store._values.clear()
    await world.see(8192)
    assert await World(world.store).contexts.load("d1") == world.contexts.known("d1")


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([4096, 8192]), st.booleans(), st.sampled_from([0.2, 1.0, 10.0])), max_size=25
    )
)
def test_what_no_look_has_agreed_with_is_withdrawn_by_a_change(steps: Sequence[tuple[int, bool, float]]) -> None:
    """In whatever order lengths change, requests disturb and time passes."""

    async def follow() -> None:
        world, unagreed = World(), []
        known = await world.respond() and await world.respond()
        for number, (length, disturbed, after) in enumerate((*steps, *2 * [(8192, False, 10.0)])):
            world.length, world.bodies = length, [OWN_LENGTH] if disturbed else []
            unagreed.append(f"{number}")
            before, looks = known, world.looks
            known = await world.respond(f"{number}", after=after)
            if known.now != before.now:
                assert world.withdrawn[-len(unagreed) :] == unagreed
            if known.now != before.now or (world.looks > looks and not disturbed and length == before.now):
                unagreed.clear()
        assert context_lengths.part(known) == "ctx=8192"
        assert world.contexts._keys == len(world.contexts._models["d1"].unsettled) == len(unagreed)

    asyncio.run(follow())
