"""The routes about entries, as one process of several has them; tests/e2e/cache/ has them over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.admin.entry_routes import CacheRoutes
from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.core.store_ports import StoreState
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.purge import Purges
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.stores.memory import MemoryStore
from tests.support.entries import ENTRY


class Noting:
    """Siblings that note what they are told, and how many entries there were then."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.told: list[tuple[Topic, int]] = []

    def send(self, topic: Topic, value: Any = None) -> None:
        raise AssertionError(topic)

    async def send_and_wait(self, topic: Topic, value: Any = None) -> None:
        count = await self.store.count()
        self.told.append((topic, count.keys))


@pytest.mark.parametrize(
    ("filters", "told"),
    [(b"", [(Topic.DISCARD, 0)]), (b'{"operation":"generate"}', [(Topic.PURGE, 1), (Topic.DISCARD, 0)])],
)
async def test_siblings_are_told_of_a_purge_before_it_and_forget_after_it(
    filters: bytes, told: list[tuple[Topic, int]]
) -> None:
    clock = SystemClock()
    store = MemoryStore(1 << 20, clock=clock)
    siblings = Noting(store)
    await store.put([("ab" * 32, replace(ENTRY, stored_at=clock.now()))], (await store.get("")).generation or "")
    routes = CacheRoutes(
        store=store,
        store_name="",
        store_state=lambda: StoreState(answers=True, stores=True),
        purges=Purges(),
        sealed=False,
        statistics=nothing,
        explain=nothing,
        clock=clock,
        siblings=siblings,
    ).routes
    request = Request(method="POST", target="/api/cache/clear", fields=())
    assert (await routes["/api/cache/clear"]["POST"](request, filters)).body == b'{"cleared":1}'
    assert siblings.told == told


async def nothing(*_: object) -> dict[str, Any]:
    raise AssertionError
