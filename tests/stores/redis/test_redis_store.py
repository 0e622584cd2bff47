"""The store as a whole: what its operations are called, and that none of them fails where the server does."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.core.facts import Event, StoreCall
from ollama_cache_proxy.core.store_ports import KeyCount, Lookup, Lookups
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.stores.redis.conftest import Connect
from tests.support.clocks import Clock
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import fill, key
from tests.support.waiting import until

NOTHING = Lookup(entry=None, generation=None)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        pytest.param(lambda store: store.entries.get(key(1)), NOTHING, id="get"),
        pytest.param(
            lambda store: store.entries.get_many([key(1), key(2)]),
            Lookups(entries=(None,) * 2, generation=None),
            id="get_many",
        ),
        pytest.param(lambda store: store.entries.put([(key(1), FULL_ENTRY)], "0" * 32), False, id="put"),
        pytest.param(lambda store: store.entries.delete([key(1)], "0" * 32), None, id="delete"),
        pytest.param(lambda store: store.entries.page("", 10), None, id="page"),
        pytest.param(lambda store: store.entries.purge(lambda _: True), None, id="purge"),
        pytest.param(lambda store: store.values.save("x", b"x"), False, id="save"),
        pytest.param(lambda store: store.values.load("x"), None, id="load"),
        pytest.param(lambda store: store.values.set_default("x", b"x"), None, id="set_default"),
        pytest.param(lambda store: store.values.add("x", {"x": 1}, {"y": 1}), None, id="add"),
        pytest.param(lambda store: store.entries.clear(), None, id="clear"),
        pytest.param(lambda store: store.entries.count(), None, id="count"),
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["never there", "gone"])
async def test_a_server_that_is_down_is_no_response_and_no_error(
    ask: Any, answer: Any, known: bool, connect: Connect, server: RedisServer
) -> None:
    store = connect(server)
    if known:
        await fill(store.entries, {key(1): FULL_ENTRY})
        await ask(store)
    server.kill()
    for _ in range(7):
        assert await ask(store) == answer, "before and after the breaker opens"


async def test_to_open_without_a_server_does_no_harm(connect: Connect, server: RedisServer, clock: Clock) -> None:
    server.kill()
    store = connect(server)
    await store.open()
    await until(store._count._counting.done)
    assert store._count._counting.exception() is None
    server.start()
    clock.time += 5
    await until(lambda: not store.gauges.breakers()["read"])
    assert await store.entries.count() == KeyCount(keys=0, age=0.0)


async def test_each_operation_is_told_by_its_name(store: RedisStore, told: list[Event]) -> None:
    generation = (await store.entries.get(key(1))).generation
    assert generation is not None
    await store.entries.put([(key(1), FULL_ENTRY)], generation)
    await store.entries.get_many([key(1), key(2)])
    await store.entries.touch([key(1)], generation)
    await store.entries.delete([key(1)], generation)
    await store.entries.page("", 5)
    await store.values.save("x", b"y")
    await store.values.load("x")
    await store.values.add("totals", {"a": 1}, {})
    await store.entries.clear()
    names = [event.operation for event in told if isinstance(event, StoreCall) and not event.failed]
    assert names == [
        *("get", "set", "get", "touch", "delete", "page", "save", "load", "add"),
        *("count", "clear"),
    ]
