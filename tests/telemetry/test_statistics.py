"""The statistics of one process, and of several on one store; tests/e2e/cache/ has them over HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.memory import MemoryValues
from ollama_cache_proxy.telemetry.statistics import Statistics
from tests.support.exchanges import EXCHANGE, MISS


class SlowValues(MemoryValues):
    """One whose totals take until it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def add(self, name: str, deltas: Any, known: Any) -> dict[str, int]:
        self.asked.set()
        await self.answers.wait()
        return await super().add(name, deltas, known)


@pytest.mark.parametrize("who", ["the client", "the proxy"])
async def test_who_leaves_while_totals_are_added_loses_none(who: str) -> None:
    store, tasks = SlowValues(), Tasks()
    statistics = Statistics(store, tasks=tasks)
    for _ in range(5):
        statistics(replace(EXCHANGE, cache=MISS))
    asking = asyncio.create_task(statistics.totals())
    await store.asked.wait()
    if who == "the client":
        asking.cancel()
    else:
        await tasks.close(0)
    store.answers.set()
    assert (await statistics.totals())["misses"] == 5
    await statistics.close()
    assert (await store.add("statistics", {}, {}))["operation\ngenerate\nmisses"] == 5
    await tasks.close(1)
