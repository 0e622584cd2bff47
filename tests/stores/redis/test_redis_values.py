"""What is special to values and totals in Redis: lost hashes, damaged fields, values of a foreign type.

What they do like those of every store is in test_stores.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from ollama_cache_proxy.stores.redis.redis_values import RedisValues
from tests.stores.redis.conftest import Connect
from tests.support.servers import RedisServer
from tests.support.stores import calls


@pytest.fixture
def values(store: RedisStore) -> RedisValues:
    return store.values


async def test_a_lost_hash_goes_on_from_what_was_known(connect: Connect, redis_server: RedisServer) -> None:
    one, other = connect(redis_server).values, connect(redis_server).values
    known = await one.add("stats", {"hits": 100, "misses": 50, "saved": 7}, {})
    assert known is not None
    redis_server.client().delete("ocp:1:stats")
    assert await one.add("stats", {"hits": 1}, known) == {"hits": 101, "misses": 50, "saved": 7}
    assert await other.add("stats", {"hits": 2, "misses": 1}, known) == {"hits": 103, "misses": 51, "saved": 7}
    assert redis_server.client().hgetall("ocp:1:stats") == {b"hits": b"103", b"misses": b"51", b"saved": b"7"}


async def test_a_hash_lost_between_the_two_commands_of_an_addition_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, values: RedisValues, redis_server: RedisServer
) -> None:
    add, client = values._add, redis_server.client()

    async def add_and_lose(name: str, begun: Any, deltas: Any) -> dict[str, int]:
        totals = await add(name, begun, deltas)
        if deltas:
            client.delete("ocp:1:stats")
        return totals

    monkeypatch.setattr(values, "_add", add_and_lose)
    known = await values.add("stats", {"misses": 20}, {"hits": 20, "misses": 20})
    assert known == {"hits": 20, "misses": 40}
    monkeypatch.setattr(values, "_add", add)
    assert await values.add("stats", {"hits": 1}, known) == {"hits": 21, "misses": 40}
    assert client.hgetall("ocp:1:stats") == {b"hits": b"21", b"misses": b"40"}


async def test_a_lost_hash_is_restored_once_by_all_who_know_it(connect: Connect, redis_server: RedisServer) -> None:
    stores = [connect(redis_server).values for _ in range(8)]
    known = {"hits": 100, "misses": 50}
    for _ in range(20):
        redis_server.client().delete("ocp:1:stats")
        await asyncio.gather(*(values.add("stats", {"hits": 1}, known) for values in stores))
        assert await stores[0].add("stats", {}, {}) == {"hits": 108, "misses": 50}


@pytest.mark.parametrize("field", ["hits", "misses"])
async def test_a_lost_field_goes_on_from_what_was_known(
    field: str, values: RedisValues, redis_server: RedisServer
) -> None:
    known = await values.add("stats", {"hits": 100, "misses": 50}, {})
    assert known is not None
    redis_server.client().hdel("ocp:1:stats", field)
    assert await values.add("stats", {"hits": 1}, known) == {"hits": 101, "misses": 50}
    assert redis_server.client().hget("ocp:1:stats", "misses") == b"50"


async def test_a_damaged_field_costs_the_others_nothing(values: RedisValues, redis_server: RedisServer) -> None:
    """An error would have let the caller add the same again and again, for ever."""
    known = await values.add("stats", {"hits": 100, "misses": 50}, {})
    assert known is not None
    redis_server.client().hset("ocp:1:stats", mapping={"misses": "many", b"\xff": "1"})
    for _ in range(3):
        assert await values.add("stats", {"hits": 0, "misses": 1}, known) == {"hits": 100}
    assert await values.add("stats", {"hits": 1, "misses": 1}, known) == {"hits": 101}


async def test_a_restoration_that_fails_costs_nothing_that_was_added(
    monkeypatch: pytest.MonkeyPatch, values: RedisValues
) -> None:
    real = values._add

    async def add(name: str, begun: Any, deltas: Any) -> Any:
        if not deltas:
            raise redis.ConnectionError
        return await real(name, begun, deltas)

    monkeypatch.setattr(values, "_add", add)
    assert await values.add("stats", {"hits": 1}, {"hits": 5, "misses": 3}) == {"hits": 6, "misses": 3}


async def test_values_of_a_foreign_type_are_none(values: RedisValues, redis_server: RedisServer) -> None:
    redis_server.client().rpush("ocp:1:list", "x")
    assert await values.set_default("list", b"x") is None
    assert await values.load("list") is None


async def test_totals_begin_again_where_a_value_of_a_foreign_type_stood(
    values: RedisValues, redis_server: RedisServer
) -> None:
    redis_server.client().rpush("ocp:1:list", "x")
    assert await values.add("list", {"hits": 1}, {"hits": 5, "misses": 2}) == {"hits": 6, "misses": 2}
    assert await values.save("text", b"x")
    assert await values.add("text", {"hits": 1}, {}) == {"hits": 1}


async def test_what_is_there_is_read_and_not_written_again(values: RedisValues, redis_server: RedisServer) -> None:
    assert await values.set_default("salt", b"first") == b"first"
    before = {name: calls(redis_server, name) for name in ("get", "set")}
    assert await values.set_default("salt", b"second") == b"first"
    assert {name: calls(redis_server, name) - before[name] for name in before} == {"get": 1, "set": 0}
    assert redis_server.client().get("ocp:1:salt") == b"first"


async def test_totals_take_no_transaction_which_not_every_server_has(
    values: RedisValues, redis_server: RedisServer
) -> None:
    commands = ("multi", "hsetnx", "hincrby", "hgetall", "exec")
    known = await values.add("stats", {"hits": 1, "misses": 2}, {})
    assert known is not None
    before = {name: calls(redis_server, name) for name in commands}
    await values.add("stats", {"hits": 1, "misses": 1}, known)
    assert [calls(redis_server, name) - before[name] for name in commands] == [0, 2, 2, 1, 0]
