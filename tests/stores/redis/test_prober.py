"""The proxy's own probes, of a real server: what they ask, when, and that they close what failures opened."""

from __future__ import annotations

import asyncio
import signal

import pytest

from ollama_cache_proxy.core.facts import Event, Health, Part
from ollama_cache_proxy.core.store_ports import StoreState
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis import prober as module
from ollama_cache_proxy.stores.redis.prober import Prober
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.stores.redis.conftest import Connect
from tests.support.clocks import Clock
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import calls, generation_of, key
from tests.support.waiting import until

WELL = StoreState(answers=True, stores=True)
PROBE = "ocp:1:probe"


@pytest.fixture
async def prober(store: RedisStore) -> Prober:
    """The prober of the store, which has seen a lookup just now."""
    await store.entries.get(key(1))
    return store._prober


async def test_nothing_is_asked_while_requests_tell_enough(
    prober: Prober, redis_server: RedisServer, clock: Clock
) -> None:
    before = calls(redis_server, "mget")
    clock.time += 2.4
    await prober.probe()
    assert calls(redis_server, "mget") == before
    clock.time += 0.1
    await prober.probe()
    assert calls(redis_server, "mget") == before + 1
    assert redis_server.client().get(PROBE) is None, "a server that is well is not written to"


async def test_the_start_waits_for_the_first_probe(connect: Connect, redis_server: RedisServer, tasks: Tasks) -> None:
    store = connect(redis_server)
    await store._prober.begin(tasks)
    assert store.state() == WELL
    assert store._prober._used._wire is not None, "the first request finds its connection open"


async def test_a_server_that_is_loading_is_not_probed_until_it_has_loaded(
    connect: Connect, redis_server: RedisServer, tasks: Tasks, clock: Clock
) -> None:
    store, loads = connect(redis_server), asyncio.Event()
    loaded = asyncio.ensure_future(_wait(loads))
    before = calls(redis_server, "mget")
    await store._prober.begin(tasks, loaded)
    clock.time += 100
    await store._prober.probe()
    assert store.state() == StoreState(answers=False, stores=False, reason="LOADING")
    assert (await store.entries.get(key(1))).generation is None
    assert calls(redis_server, "mget") == before
    loads.set()
    await until(lambda: store.state() == WELL)
    assert (await store.entries.get(key(1))).generation is not None


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_at_the_start_a_server_that_does_not_answer_in_time_is_away_until_it_does(
    connect: Connect, server: RedisServer, tasks: Tasks, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_START_WITHIN", 0.05)
    store = connect(server)
    server.signal(signal.SIGSTOP)
    try:
        await store._prober.begin(tasks)
        assert store.state() == StoreState(answers=False, stores=False, reason="TimeoutError")
        assert (await store.entries.get(key(1))).generation is None
    finally:
        server.signal(signal.SIGCONT)
    clock.time += 10
    await until(lambda: store.state() == WELL)
    assert (await store.entries.get(key(1))).generation is not None


async def test_a_server_that_is_gone_is_found_again_by_probes_alone(
    connect: Connect, server: RedisServer, tasks: Tasks, clock: Clock, told: list[Event]
) -> None:
    store = connect(server)
    await store._prober.begin(tasks)
    server.kill()
    for _ in range(5):
        await store.entries.get(key(1))
    assert not store.state().answers
    server.start()
    clock.time += 10
    await until(lambda: store.state().answers)
    assert [event.well for event in told if isinstance(event, Health) and event.part is Part.STORE] == [
        *(True, False, True)
    ]


@pytest.mark.parametrize("configured", ["maxmemory", "replicaof"])
async def test_while_writes_are_refused_a_key_of_the_proxy_s_own_is_written(
    configured: str, connect: Connect, server: RedisServer, tasks: Tasks, clock: Clock
) -> None:
    store, client = connect(server), server.client()
    await store._prober.begin(tasks)
    generation = await generation_of(store.entries)
    refuse, accept = {"maxmemory": ("1", "0"), "replicaof": ("127.0.0.1 1", "no one")}[configured]

    def configure(value: str) -> None:
        if configured == "maxmemory":
            client.config_set("maxmemory", value)
        else:
            client.execute_command("REPLICAOF", *value.split())

    configure(refuse)
    assert not await store.entries.put([(key(1), FULL_ENTRY)], generation)
    assert (store.entries.writable, store.state().stores) == (False, False)
    before = calls(server, "set")
    assert not await store.entries.put([(key(1), FULL_ENTRY)], generation)
    assert calls(server, "set") == before, "what is known to be refused is not tried"
    clock.time += 10
    await asyncio.sleep(0.3)
    assert not store.entries.writable
    configure(accept)
    async with asyncio.timeout(10):
        while not store.entries.writable:
            clock.time += 1
            await asyncio.sleep(0.05)
    assert client.get(PROBE) == b"1"
    assert 0 < client.ttl(PROBE) <= 60
    assert await store.entries.put([(key(1), FULL_ENTRY)], generation)


async def test_deletions_are_probed_by_one_of_the_same_key(
    connect: Connect, server: RedisServer, tasks: Tasks, clock: Clock
) -> None:
    store, client = connect(server), server.client()
    await store._prober.begin(tasks)
    generation = await generation_of(store.entries)
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert await store.entries.delete([key(1)], generation) is None
    assert store.gauges.breakers()["delete"]
    client.execute_command("REPLICAOF", "no", "one")
    clock.time += 10
    await until(lambda: not store.gauges.breakers()["delete"])
    assert await store.entries.delete([key(1)], generation) == 0
