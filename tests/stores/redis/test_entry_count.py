"""How entries are counted: directly, in the background, and by the size of the database in between."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.core.store_ports import KeyCount
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis import scan
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.stores.redis.conftest import Connect
from tests.support.clocks import Clock
from tests.support.servers import RedisServer
from tests.support.stores import calls, fill_with_names
from tests.support.waiting import until


async def test_few_are_counted_at_once_among_many_names(store: RedisStore, redis_server: RedisServer) -> None:
    redis_server.client().mset({f"other {number}": "x" for number in range(12_000)})
    await fill_with_names(redis_server, store.entries, 100, "0" * 32)
    assert await store.entries.count() == KeyCount(keys=0, age=0.0)
    await fill_with_names(redis_server, store.entries, 9_999)
    assert await store.entries.count() == KeyCount(keys=9_999, age=0.0)
    assert await store.entries.clear() == 9_999
    assert await store.entries.count() == KeyCount(keys=0, age=0.0)


async def test_many_are_counted_and_then_followed_by_the_size_of_the_database(
    store: RedisStore, redis_server: RedisServer, clock: Clock
) -> None:
    redis_server.client().mset({f"other {number}": "x" for number in range(500)})
    await fill_with_names(redis_server, store.entries, 12_000)
    assert await store.entries.count() == KeyCount(keys=12_000, age=0.0)
    clock.time += 10
    await fill_with_names(redis_server, store.entries, 12_345)
    assert await store.entries.count() == KeyCount(keys=12_345, age=10.0)
    redis_server.client().delete(*[f"other {number}" for number in range(500)])
    assert await store.entries.count() == KeyCount(keys=11_845, age=10.0), (
        "what others do is seen by the next look only"
    )
    clock.time += 10
    await store.entries.count()
    await until(store._count._counting.done)
    assert await store.entries.count() == KeyCount(keys=12_345, age=0.0)


async def test_a_store_that_has_grown_large_is_counted_anew(
    store: RedisStore, redis_server: RedisServer, clock: Clock
) -> None:
    """Names of our own that came meanwhile, such as the digests', would be counted as entries."""
    await store.open()
    await until(store._count._counting.done)
    clock.time += 5
    assert await store.values.save("models", b"x")
    await fill_with_names(redis_server, store.entries, 12_000)
    await store.entries.count()
    await until(store._count._counting.done)
    assert await store.entries.count() == KeyCount(keys=12_000, age=0.0)


async def test_a_large_store_that_was_counted_at_the_start_is_not_gone_through_when_asked(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(scan, "_TURNS", 1)
    await fill_with_names(redis_server, store.entries, 12_000)
    await store.open()
    await until(store._count._counting.done)
    before = calls(redis_server, "scan")
    assert before > 10
    assert await store.entries.count() == KeyCount(keys=12_000, age=0.0)
    assert calls(redis_server, "scan") == before


async def test_a_clear_of_many_is_counted_through(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer, tasks: Tasks
) -> None:
    monkeypatch.setattr(scan, "_TURNS", 1)
    await fill_with_names(redis_server, store.entries, 12_000)
    assert await store.entries.clear() == 12_000
    await fill_with_names(redis_server, store.entries, 1_500)
    seen = set()
    while tasks._running:
        counted = await store.entries.count()
        assert counted is not None
        seen.add(counted.keys)
    assert seen <= {0, 1_500}
    await until(store._count._counting.done)
    assert redis_server.client().dbsize() == 1_500 + 1
    assert await store.entries.count() == KeyCount(keys=1_500, age=0.0)
    assert await store.entries.clear() == 1_500


async def test_the_clear_of_another_process_is_counted_through(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(scan, "_TURNS", 1)
    one, other = connect(redis_server), connect(redis_server)
    await fill_with_names(redis_server, one.entries, 12_000)
    assert await one.entries.count() == KeyCount(keys=12_000, age=0.0)
    assert await other.entries.clear() == 12_000
    counted = await one.entries.count()
    assert counted is not None
    assert counted.keys == 0


async def test_the_sweep_of_another_process_takes_nothing_off_the_count(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    """Entries of an old generation are not counted as other names, since they are being removed."""
    monkeypatch.setattr(scan, "_TURNS", 1)
    await fill_with_names(redis_server, store.entries, 12_000)
    await fill_with_names(redis_server, store.entries, 5_000, "0" * 32)
    assert await store.entries.count() == KeyCount(keys=12_000, age=0.0)
    redis_server.client().delete(*redis_server.client().keys(f"ocp:1:e:{'0' * 32}:*"))
    assert await store.entries.count() == KeyCount(keys=12_000, age=0.0)
