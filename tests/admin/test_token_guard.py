"""Wrong admin tokens: who is heard, who waits, and what is told of it. Over sockets: tests/e2e/faults."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ollama_cache_proxy.admin import token_guard
from ollama_cache_proxy.admin.token_guard import TokenGuard
from ollama_cache_proxy.core.facts import Event, OwnRefusal
from ollama_cache_proxy.policy.guesses import FREE, MAX_WAITING_OF_ONE
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.status import Detail
from tests.support.waiting import until

TOKEN = "secret-of-the-team"


class Client:
    def __init__(self, address: str) -> None:
        self.address = address
        self.closes = False

    def close_after_response(self) -> None:
        self.closes = True


class StandingClock:
    """Who sleeps waits until it is woken."""

    def __init__(self) -> None:
        self.time = 0.0
        self.woken = asyncio.Event()

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, _seconds: float) -> None:
        await self.woken.wait()


class Scene:
    def __init__(self) -> None:
        self.clock = StandingClock()
        self.told: list[Event] = []
        self.lines: list[str] = []
        self.guard = TokenGuard(clock=self.clock, observe=self.told.append, say=self.lines.append)

    async def ask(self, given: str | None, address: str = "10.0.0.1") -> tuple[int, bool]:
        fields = () if given is None else ((b"Authorization", given.encode()),)
        client: Any = Client(address)
        reply = await self.guard.denial(Request(method="POST", target="/", fields=fields), client, TOKEN)
        assert reply is None or given is None or given.encode() not in reply.body
        return (200 if reply is None else reply.status), client.closes


async def test_nobodys_guesses_delay_the_right_token() -> None:
    scene = Scene()
    for number in range(FREE):
        assert await scene.ask(f"Bearer {number}") == (401, False)
    late = [asyncio.create_task(scene.ask(f"Bearer late-{number}")) for number in range(MAX_WAITING_OF_ONE)]
    await until(lambda: len(scene.told) == FREE + MAX_WAITING_OF_ONE)
    for number in range(20):
        assert await scene.ask(f"Bearer more-{number}") == (429, True)
        assert await scene.ask(f"Bearer {TOKEN}") == (200, False)
    assert await scene.ask("Bearer another", "10.0.0.2") == (401, False)
    assert not any(task.done() for task in late)
    scene.clock.woken.set()
    assert await asyncio.gather(*late) == [(401, False)] * MAX_WAITING_OF_ONE
    scene.guard.close()


async def test_a_late_answer_whose_client_leaves_keeps_no_place() -> None:
    scene = Scene()
    for number in range(FREE):
        await scene.ask(f"Bearer {number}")
    for _ in range(3 * MAX_WAITING_OF_ONE):
        leaving = asyncio.create_task(scene.ask("Bearer x"))
        told = len(scene.told)
        await until(lambda: len(scene.told) > told)  # noqa: B023 - called at once
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    assert {event.detail for event in scene.told if isinstance(event, OwnRefusal)} == {Detail.WRONG_TOKEN}
    scene.guard.close()


@pytest.mark.parametrize(
    "given",
    [TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} ", f"Bearer  {TOKEN}", "Bearer", "Bearer s\xe9cret", "x" * 30_000],
)
async def test_what_is_not_the_token_is_wrong(given: str) -> None:
    scene = Scene()
    assert (await scene.ask(given))[0] == 401
    assert (await scene.ask(f"bearer {TOKEN}"))[0] == 200
    scene.guard.close()


async def test_no_token_is_no_guess() -> None:
    scene = Scene()
    assert [await scene.ask(None) for _ in range(100)] == [(401, False)] * 100
    assert (scene.told, scene.lines) == ([], [])


async def test_one_line_at_first_and_one_for_all_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    await scene.ask("Bearer a")
    assert scene.lines == ["1 request with a wrong admin token; more are told of in 60 s"]
    scene.guard.close()
    monkeypatch.setattr(token_guard, "LINE_EVERY", 0.05)
    scene = Scene()
    for number in range(FREE):
        await scene.ask(f"Bearer {number}")
    await until(lambda: len(scene.lines) == 2)
    assert scene.lines[1].startswith(f"{FREE - 1} requests with a wrong admin token")
    await asyncio.sleep(0.12)
    assert len(scene.lines) == 2, "nothing more to tell"
    await scene.ask("Bearer b", "10.0.0.9")
    assert len(scene.lines) == 3
    scene.guard.close()


async def test_what_was_not_told_yet_is_told_at_the_end() -> None:
    scene = Scene()
    scene.guard.close()
    for number in range(FREE):
        await scene.ask(f"Bearer {number}")
    scene.guard.close()
    assert scene.lines[1:] == [f"{FREE - 1} requests with a wrong admin token"]
    scene.guard.close()
    assert len(scene.lines) == 2
