"""Graphics cards, read from a recording; without cards nothing else changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ollama_cache_proxy.admin.gpu_cards import Cards
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.gpu import watch
from ollama_cache_proxy.gpu.replay import Replay, recording


@pytest.fixture
async def cards() -> AsyncIterator[Callable[[Callable[[], Any]], Cards]]:
    tasks = Tasks()
    yield lambda nvml: Cards(nvml, tasks=tasks)
    await tasks.close(0)


async def test_what_is_shown_of_a_card(cards: Callable[..., Cards]) -> None:
    replay = Replay(recording("rtx4090"))
    seen = cards(lambda: replay)
    assert seen.latest() == [], "the first reading is not waited for"
    await seen.ready()
    (card,) = seen.latest()
    assert set(card) == {"name", "utilisation", "memoryUsed", "memoryTotal", "temperature", "power"}
    assert "4090" in card["name"]
    assert 0 < card["memoryUsed"] < card["memoryTotal"]


@pytest.mark.parametrize("problem", [ImportError("pynvml"), AttributeError("nvmlInit"), OSError("a broken library")])
async def test_without_a_driver_or_card_the_list_is_empty(problem: Exception, cards: Callable[..., Cards]) -> None:
    def load() -> Any:
        raise problem

    seen = cards(load)
    await seen.ready()
    assert seen.latest() == []


async def test_a_driver_that_hangs_delays_nothing(cards: Callable[..., Cards], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(watch.Watch.__init__, "__defaults__", (0.05,))
    seen = cards(release.wait)
    try:
        async with asyncio.timeout(5):
            await seen.ready()
        assert seen.latest() == []
    finally:
        release.set()
