"""The statistics of one process, and of several on one store; tests/e2e/cache/ has them over HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import Audited
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


async def test_what_was_audited_counts_apart_since_it_was_first_on() -> None:
    store, tasks = MemoryValues(), Tasks()
    statistics = Statistics(store, tasks=tasks)
    statistics(Audited(operation="embed", model="all-minilm", same=3, wrong=1, not_reproducible=2, left_out=9))
    assert (await statistics.totals())["audit"] is None
    await statistics.begin_audit(1000.5)
    totals = await statistics.totals()
    assert totals["audit"] == {"checked": 6, "wrong": 1, "since": 1000}
    assert (totals["hits"], totals["misses"], totals["byModel"]) == (0, 0, {})
    later = Statistics(store, tasks=tasks)
    await later.begin_audit(2000)
    later(Audited(operation="embed", model="all-minilm", same=1))
    assert (await later.totals())["audit"] == {"checked": 7, "wrong": 1, "since": 1000}
    await statistics.close()
    await later.close()
    await tasks.close(1)
