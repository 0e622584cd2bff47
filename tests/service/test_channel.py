"""Messages between processes: in order, answered or not, and what happens when the other end is gone or does not take."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.service import channel as module
from ollama_cache_proxy.service.channel import Channel
from tests.support.waiting import until


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.close(0)


@pytest.fixture
async def ends(tasks: Tasks) -> AsyncIterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    channels = (await Channel.open(one, tasks), await Channel.open(other, tasks))
    yield channels
    for channel in channels:
        channel.close()


async def deaf(topic: str, value: Any) -> None:
    raise AssertionError(topic)


async def test_what_is_said_and_asked_is_heard_in_its_order(ends: tuple[Channel, Channel], tasks: Tasks) -> None:
    ours, theirs = ends
    heard: list[tuple[str, Any]] = []

    async def hear(topic: str, value: Any) -> str:
        heard.append((topic, value))
        return f"{topic}!"

    tasks.spawn(theirs.listen(hear), "theirs", endless=True)
    tasks.spawn(ours.listen(deaf), "ours", endless=True)
    ours.send("a", 1)
    asked = [ours.request("b", [2, "ü\n"]), ours.request("c")]
    ours.send("d", {"e": None})
    assert await asyncio.gather(*asked) == ["b!", "c!"]
    await until(lambda: len(heard) == 4)
    assert heard == [("a", 1), ("b", [2, "ü\n"]), ("c", None), ("d", {"e": None})]


async def test_an_answer_that_does_not_come_is_waited_for_no_longer(
    ends: tuple[Channel, Channel], tasks: Tasks
) -> None:
    ours, theirs = ends
    answers = asyncio.Event()

    async def late(topic: str, value: Any) -> str:
        await answers.wait()
        return topic

    tasks.spawn(theirs.listen(late), "theirs", endless=True)
    tasks.spawn(ours.listen(deaf), "ours", endless=True)
    with pytest.raises(TimeoutError):
        await ours.ask("one", within=0.01)
    answers.set()
    assert await ours.ask("two", within=10) == "two", "and not the late answer to the first"


async def test_what_was_said_last_is_heard_before_the_end(ends: tuple[Channel, Channel], tasks: Tasks) -> None:
    ours, theirs = ends
    heard: list[str] = []

    async def hear(topic: str, value: Any) -> None:
        heard.append(topic)

    for number in range(100):
        ours.send(str(number))
    ours.close()
    await asyncio.wait_for(theirs.listen(hear), 10)
    assert heard == [str(number) for number in range(100)]


async def test_whoever_asks_when_the_other_end_goes_is_told(ends: tuple[Channel, Channel], tasks: Tasks) -> None:
    ours, theirs = ends
    tasks.spawn(ours.listen(deaf), "ours", endless=True)
    asked = ours.request("anything")
    theirs.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(asked, 10)
    with pytest.raises(ConnectionError):
        await ours.ask("more", within=10)
    ours.send("to nobody")


async def test_an_end_that_takes_nothing_is_given_up(
    ends: tuple[Channel, Channel], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 100_000)
    ours, _ = ends
    listening = tasks.spawn(ours.listen(deaf), "ours")
    for _ in range(100):
        ours.send("long", "x" * 10_000)
    await asyncio.wait_for(listening, 10)
