from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy.steps import Steps


def busy(name: str, steps: int, done: list[str], seconds: float = 0.006) -> Steps[str]:
    for number in range(steps):
        ends = time.thread_time() + seconds
        while time.thread_time() < ends:
            pass
        done.append(f"{name}{number}")
        yield
    return name


async def test_others_go_on_between_the_steps() -> None:
    done: list[str] = []

    async def other() -> None:
        while "a3" not in done:
            done.append("-")
            await asyncio.sleep(0)

    result, _ = await asyncio.gather(Turns().run(busy("a", 4, done)), other())
    assert result == "a"
    assert [step for step in done if step != "-"] == ["a0", "a1", "a2", "a3"]
    assert all(one == "-" or other == "-" for one, other in pairwise(done))


async def test_short_steps_share_a_turn() -> None:
    done: list[str] = []
    turns = 0

    async def counted() -> None:
        nonlocal turns
        while "a99" not in done:
            turns += 1
            await asyncio.sleep(0)

    await asyncio.gather(Turns().run(busy("a", 100, done, 0.0)), counted())
    assert turns < 50


async def test_one_computation_at_a_time_in_the_order_in_which_they_came() -> None:
    done: list[str] = []
    turns = Turns()
    assert await asyncio.gather(turns.run(busy("a", 2, done)), turns.run(busy("b", 2, done))) == ["a", "b"]
    assert done == ["a0", "a1", "b0", "b1"]


async def test_one_that_is_cancelled_or_fails_holds_up_nobody() -> None:
    done: list[str] = []
    turns = Turns()
    first, second = (asyncio.ensure_future(turns.run(busy(name, 1000, done))) for name in "ab")
    third = asyncio.ensure_future(turns.run(busy("c", 2, done)))
    await asyncio.sleep(0.01)
    second.cancel()
    first.cancel()
    assert await third == "c"
    assert not [step for step in done if step[0] == "b"]

    def failing() -> Steps[None]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await turns.run(failing())
    assert await turns.run(busy("d", 1, done)) == "d"
