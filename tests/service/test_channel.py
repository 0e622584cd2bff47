"""Messages between processes: their order, answers, and an other end that has gone or does not read."""

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


async def unexpected(topic: str, value: Any) -> None:
    raise AssertionError(topic)


async def test_messages_and_requests_are_handled_in_order(ends: tuple[Channel, Channel], tasks: Tasks) -> None:
    ours, theirs = ends
    handled: list[tuple[str, Any]] = []

    async def handle(topic: str, value: Any) -> str:
        handled.append((topic, value))
        return f"{topic}!"

    tasks.spawn(theirs.listen(handle), "theirs", endless=True)
    tasks.spawn(ours.listen(unexpected), "ours", endless=True)
    ours.send("a", 1)
    asked = [ours.request("b", [2, "ü\n"]), ours.request("c")]
    ours.send("d", {"e": None})
    assert await asyncio.gather(*asked) == ["b!", "c!"]
    await until(lambda: len(handled) == 4)
    assert handled == [("a", 1), ("b", [2, "ü\n"]), ("c", None), ("d", {"e": None})]


async def test_a_late_answer_times_out_and_is_dropped(ends: tuple[Channel, Channel], tasks: Tasks) -> None:
    ours, theirs = ends
    answers = asyncio.Event()

    async def late(topic: str, value: Any) -> str:
        await answers.wait()
        return topic

    tasks.spawn(theirs.listen(late), "theirs", endless=True)
    tasks.spawn(ours.listen(unexpected), "ours", endless=True)
    with pytest.raises(TimeoutError):
        await ours.ask("one", within=0.01)
    answers.set()
    assert await ours.ask("two", within=10) == "two", "and not the late answer to the first"


async def test_the_last_messages_are_handled_before_listen_returns(ends: tuple[Channel, Channel], tasks: Tasks) -> None:
    ours, theirs = ends
    handled: list[str] = []

    async def handle(topic: str, value: Any) -> None:
        handled.append(topic)

    for number in range(100):
        ours.send(str(number))
    ours.close()
    await asyncio.wait_for(theirs.listen(handle), 10)
    assert handled == [str(number) for number in range(100)]


async def test_a_request_fails_when_the_other_end_closes(ends: tuple[Channel, Channel], tasks: Tasks) -> None:
    ours, theirs = ends
    tasks.spawn(ours.listen(unexpected), "ours", endless=True)
    asked = ours.request("anything")
    theirs.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(asked, 10)
    with pytest.raises(ConnectionError):
        await ours.ask("more", within=10)
    ours.send("to nobody")


async def test_an_end_that_does_not_read_is_given_up(
    ends: tuple[Channel, Channel], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 100_000)
    ours, _ = ends
    listening = tasks.spawn(ours.listen(unexpected), "ours")
    for _ in range(100):
        ours.send("long", "x" * 10_000)
    await asyncio.wait_for(listening, 10)
