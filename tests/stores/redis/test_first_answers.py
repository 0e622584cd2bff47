"""Whose answers are waited for, of several who are asked at once."""

from __future__ import annotations

import asyncio

import pytest

from ollama_cache_proxy.stores.redis import first_answers as module
from ollama_cache_proxy.stores.redis.first_answers import first_answers

AWAY = 60.0


async def answer(after: float, *, fails: bool = False) -> float:
    await asyncio.sleep(after)
    if fails:
        raise OSError
    return after


async def test_after_the_first_answer_those_that_are_away_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHIN", AWAY)
    first, other, away = (asyncio.ensure_future(answer(after)) for after in (0.0, 0.01, AWAY))
    async with asyncio.timeout(AWAY / 2):
        ended, waiting = await first_answers((away, other, first))
    assert (ended, waiting) == ([first, other], {away})
    away.cancel()


async def test_a_failure_is_no_answer_and_the_others_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OTHERS_WITHIN", 0.0)
    failed, late = asyncio.ensure_future(answer(0.0, fails=True)), asyncio.ensure_future(answer(0.3))
    ended, waiting = await first_answers((failed, late))
    assert (ended, waiting) == ([failed, late], set())
    assert isinstance(failed.exception(), OSError)


async def test_where_nobody_answers_the_wait_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHIN", 0.05)
    away = asyncio.ensure_future(answer(AWAY))
    assert await first_answers((away,)) == ([], {away})
    away.cancel()
