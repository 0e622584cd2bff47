"""How long entries live, end to end: what Redis is told and what memory does, what renews an entry and what does not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis import renewals
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

MODEL = "all-minilm"
IDLE = 3200
KEPT = 3301
"""Seconds for which Redis keeps an entry with that idle time."""
DAY = 86_400
SINGLE = ("/api/embeddings", {"model": MODEL, "prompt": "a"})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what puts the clock of proxies forward."""
    ahead = 0.0

    def forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(SystemClock, "now", staticmethod(lambda: time.time() + ahead))
    return forward


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewals, "RENEW_EVERY", 0.02)


@asynccontextmanager
async def before(simulator: Simulator, redis: RedisServer | None, **settings: Any) -> AsyncIterator[Proxy]:
    where = {} if redis is None else {"redis_url": redis.url}
    async with proxy_before(simulator.url, **where, **{"lifetime": "idle", "ttl_embedding": IDLE} | settings) as proxy:
        yield proxy


async def post(proxy: Proxy, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(proxy.url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def embed(proxy: Proxy, *texts: str, **fields: str) -> str:
    """Ask for vectors; return what Cache-Status says."""
    answer = await post(proxy, "/api/embed", {"model": MODEL, "input": list(texts)}, **fields)
    assert answer.status in (200, 504)
    await proxy.kept()
    return said(answer)


def said(answer: RawAnswer) -> str:
    return (answer.field("Cache-Status") or "").removeprefix("ollama-cache-proxy; ").partition("; detail=est")[0]


def stored(redis: RedisServer) -> list[bytes]:
    """Return the names of all entries."""
    return sorted(redis.client().scan_iter("ocp:1:e:*"))


def ttls(redis: RedisServer) -> list[int]:
    client = redis.client()
    return [client.ttl(name) for name in stored(redis)]


def shorten(redis: RedisServer) -> None:
    """Let all entries expire within a minute."""
    client = redis.client()
    for name in stored(redis):
        client.expire(name, 60)


async def forget(proxy: Proxy) -> None:
    """Have the proxy renew an entry with its next hit, as if long ago it had done so last."""
    store: Any = proxy.running.store
    told: renewals.Renewals = getattr(store, "_back", store).renewals
    await until(lambda: told._timer is None)
    told._renewed.clear()


async def renewed(redis: RedisServer, count: int = 1) -> None:
    await until(lambda: sum(KEPT - 5 < ttl <= KEPT for ttl in ttls(redis)) == count)


async def test_without_a_setting_everything_is_as_before(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        assert await embed(proxy, "a") == f"fwd=miss; stored; ttl={DAY}"
        assert DAY - 5 < ttls(redis_server)[0] <= DAY
        assert b"idle" not in redis_server.client().get(stored(redis_server)[0])
        shorten(redis_server)
        assert await embed(proxy, "a") == f"hit; ttl={DAY}"
        await asyncio.sleep(0.1)
        assert ttls(redis_server)[0] <= 60


@pytest.mark.parametrize("hot_bytes", [0, 1 << 20])
async def test_each_kind_of_hit_renews_what_it_served(
    hot_bytes: int, simulator: Simulator, redis_server: RedisServer
) -> None:
    async with before(simulator, redis_server, hot_bytes=hot_bytes) as proxy:
        assert await embed(proxy, "a") == f"fwd=miss; stored; ttl={IDLE}"
        assert b'"idle":3200' in redis_server.client().get(stored(redis_server)[0])
        await renewed(redis_server)  # it is written so

        shorten(redis_server)
        assert await embed(proxy, "a") == f"hit; ttl={IDLE}"
        await renewed(redis_server)

        await forget(proxy)
        shorten(redis_server)
        assert "known=1; of=2" in await embed(proxy, "a", "b")
        await renewed(redis_server, 2)

        await forget(proxy)
        shorten(redis_server)
        assert "known=1; of=2" in await embed(proxy, "b", "c")
        await renewed(redis_server, 2)
        assert len(ttls(redis_server)) == 3, "a was in no response"


@pytest.mark.parametrize("hot_bytes", [0, 1 << 20])
async def test_a_hit_of_the_fast_path_renews_too(
    hot_bytes: int, simulator: Simulator, redis_server: RedisServer
) -> None:
    async with before(simulator, redis_server, hot_bytes=hot_bytes) as proxy:
        fast = proxy.running.exchanges.fast_path
        connection = await RawConnection.open(proxy.url)
        for count in range(4):
            if count == 3:
                assert len(fast._all) == 1
                await forget(proxy)
                shorten(redis_server)
            connection.send("POST", SINGLE[0], body=json.dumps(SINGLE[1]).encode())
            answer = await connection.answer()
            await proxy.kept()
        assert said(answer) == f"hit; ttl={IDLE}"
        assert len(fast._all) == 1, "a hit of the ordinary way would have made another"
        await renewed(redis_server)
        connection.close()


async def test_nothing_else_renews(simulator: Simulator, redis_server: RedisServer) -> None:
    async with before(simulator, redis_server) as proxy:
        await embed(proxy, "a")
        shorten(redis_server)
        body = {"model": MODEL, "input": ["a"]}
        explained = json.loads((await post(proxy, "/api/cache/explain", {"path": "/api/embed", "body": body})).body)
        assert (explained["result"], explained["lifetime"], explained["ttl"]) == ("hit", "idle", IDLE)
        listed = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
        assert [(row["lifetimeKind"], row["lifetime"], row["idle"], row["ttl"]) for row in listed] == [
            ("idle", 90 * DAY, IDLE, IDLE)
        ]
        assert (await ask(proxy.url, "GET", f"/api/cache/entries/{listed[0]['key']}")).status == 200
        for directives in ("min-fresh=3201, only-if-cached", "no-cache, only-if-cached"):
            assert "detail=only-if-cached" in await embed(proxy, "a", Cache_Control=directives)
        await asyncio.sleep(0.1)
        assert ttls(redis_server)[0] <= 60


async def test_what_has_a_time_of_its_own_is_not_renewed(simulator: Simulator, redis_server: RedisServer) -> None:
    async with before(simulator, redis_server) as proxy:
        assert await embed(proxy, "a", X_Cache_TTL="600") == "fwd=miss; stored; ttl=600"
        generate = {"model": "tiny", "prompt": "why", "stream": False}
        assert said(await post(proxy, "/api/generate", generate)) == "fwd=miss; stored; ttl=3600"
        await proxy.kept()
        shorten(redis_server)
        assert await embed(proxy, "a") == "hit; ttl=600"
        assert said(await post(proxy, "/api/generate", generate)) == "hit; ttl=3600"
        await asyncio.sleep(0.1)
        assert max(ttls(redis_server)) <= 60
        listed = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
        assert [(row["lifetimeKind"], row["idle"]) for row in listed] == [("fixed", None)] * 2


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "memory"])
async def test_an_entry_lives_as_long_as_it_is_asked_for_and_no_longer_than_the_longest_lifetime(
    redis: bool, simulator: Simulator, redis_server: RedisServer, clock: Callable[[float], None]
) -> None:
    async with before(simulator, redis_server if redis else None, max_lifetime=4 * 3000) as proxy:
        await embed(proxy, "a")
        for age in (3000, 6000, 9000):
            clock(3000)
            answer = await post(proxy, "/api/embed", {"model": MODEL, "input": ["a"]})
            left = min(IDLE, 12_000 - age)
            assert said(answer) in (f"hit; ttl={left}", f"hit; ttl={left - 1}")
            assert answer.field("Age") in (str(age), str(age + 1)), "which counts from storing"
        clock(2990)
        assert (await embed(proxy, "a")).startswith("hit; ttl=")
        assert "detail=only-if-cached" in await embed(proxy, "a", Cache_Control="max-age=11000, only-if-cached")
        clock(10)
        assert (await embed(proxy, "a")).startswith("fwd=")


async def test_in_memory_an_entry_ends_when_nobody_asks_for_it(
    simulator: Simulator, clock: Callable[[float], None]
) -> None:
    async with before(simulator, None) as proxy:
        for text in ("a", "b"):
            await embed(proxy, text)
        clock(3000)
        assert await embed(proxy, "a") == f"hit; ttl={IDLE}"
        clock(3000)
        assert await embed(proxy, "b") == f"fwd=miss; stored; ttl={IDLE}"
        assert await embed(proxy, "a") == f"hit; ttl={IDLE}"
        clock(3201)
        assert (await embed(proxy, "a")).startswith("fwd=miss")


async def test_whoever_lengthens_its_time_in_redis_lengthens_it_no_further_than_its_bytes_allow(
    simulator: Simulator, redis_server: RedisServer, clock: Callable[[float], None]
) -> None:
    async with before(simulator, redis_server, max_lifetime=7000) as proxy:
        await embed(proxy, "a")
        redis_server.client().persist(stored(redis_server)[0])
        clock(7000)
        assert await embed(proxy, "a") == f"fwd=stale; stored; ttl={IDLE}"


@pytest.mark.parametrize("hot_bytes", [0, 1 << 20])
async def test_a_hit_of_one_proxy_keeps_the_entry_for_another(
    hot_bytes: int, simulator: Simulator, redis_server: RedisServer
) -> None:
    async with (
        before(simulator, redis_server, hot_bytes=hot_bytes) as one,
        proxy_before(simulator.url, redis_url=redis_server.url, hot_bytes=hot_bytes) as other,
    ):
        await embed(one, "a")
        shorten(redis_server)
        assert await embed(other, "a") == f"hit; ttl={IDLE}", "its settings say fixed, the entry's bytes idle"
        await renewed(redis_server)
        assert await embed(other, "b") == f"fwd=miss; stored; ttl={DAY}"
        shorten(redis_server)
        assert await embed(one, "b") == f"hit; ttl={DAY}"
        await asyncio.sleep(0.1)
        assert max(ttls(redis_server)) <= 60


async def test_renewals_that_wait_are_told_at_the_end(
    simulator: Simulator, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "RENEW_EVERY", 60.0)
    async with before(simulator, redis_server) as proxy:
        await embed(proxy, "a")
        shorten(redis_server)
        assert await embed(proxy, "a") == f"hit; ttl={IDLE}"
    await renewed(redis_server)


# models and categories

TABLES: dict[str, Any] = {
    "models": {"ALL-MINILM:latest": {"ttl": "2d", "lifetime": "fixed"}, "nobody-has-it": {"cache": "off"}},
    "categories": {"docs": {"lifetime": "idle"}, "hour": {"ttl": "1h"}, "no": {"cache": "off"}},
}


@pytest.mark.parametrize(
    ("fields", "expected", "kind"),
    [
        pytest.param({}, f"fwd=miss; stored; ttl={2 * DAY}", "fixed", id="its model's"),
        pytest.param({"X_Cache_Category": "x"}, f"fwd=miss; stored; ttl={2 * DAY}", "fixed", id="no such category"),
        pytest.param({"X_Cache_Category": "docs"}, f"fwd=miss; stored; ttl={2 * DAY}", "idle", id="of either one"),
        pytest.param({"X_Cache_Category": "hour"}, "fwd=miss; stored; ttl=3600", "fixed", id="its category's"),
        pytest.param(
            {"X_Cache_Category": "docs", "X_Cache_TTL": "60"}, "fwd=miss; stored; ttl=60", "fixed", id="its own"
        ),
        pytest.param({"X_Cache_Category": "no"}, "fwd=bypass; detail=opt-in", None, id="off"),
    ],
)
async def test_the_request_s_own_word_comes_first_then_its_category_then_its_model(
    fields: dict[str, str], expected: str, kind: str | None, simulator: Simulator
) -> None:
    async with before(simulator, None, lifetime="until-evicted", **TABLES) as proxy:
        assert await embed(proxy, "a", **fields) == expected
        listed = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
        assert [row["lifetimeKind"] for row in listed] == ([] if kind is None else [kind])


async def test_a_category_beyond_those_that_are_counted_has_its_table(simulator: Simulator) -> None:
    async with before(simulator, None, **TABLES) as proxy:
        for number in range(40):
            await embed(proxy, "b", X_Cache_Category=f"c{number}")
        assert await embed(proxy, "a", X_Cache_Category="hour") == "fwd=miss; stored; ttl=3600"


async def test_a_model_s_policy_takes_the_place_of_its_endpoint_s(simulator: Simulator) -> None:
    models = {"tiny": {"cache": "always"}, MODEL: {"cache": "off"}}
    chat = {"messages": [{"role": "user", "content": "hi"}], "stream": False}
    async with before(simulator, None, models=models) as proxy:
        assert await embed(proxy, "a") == "fwd=bypass; detail=opt-in"
        assert said(await post(proxy, "/api/chat", chat | {"model": "tiny"})).startswith("fwd=miss; stored")
        await proxy.kept()
        assert said(await post(proxy, "/api/chat", chat | {"model": "tiny"})).startswith("hit")
        for name in (MODEL, "llama3.2"):
            assert said(await post(proxy, "/api/chat", chat | {"model": name})) == "fwd=bypass; detail=opt-in"


async def test_a_reload_changes_what_is_stored_from_then_on(simulator: Simulator, redis_server: RedisServer) -> None:
    async with before(simulator, redis_server, lifetime="fixed") as proxy:
        assert await embed(proxy, "a") == f"fwd=miss; stored; ttl={IDLE}"
        shorten(redis_server)
        given = proxy.running.settings.model_dump() | {"lifetime": "idle", "models": {MODEL: {"ttl": "1h"}}}
        await proxy.running.reload(load(None, given))
        assert await embed(proxy, "a") == f"hit; ttl={IDLE}"
        assert await embed(proxy, "b") == "fwd=miss; stored; ttl=3600"
        await asyncio.sleep(0.1)
        assert [ttl <= 60 for ttl in sorted(ttls(redis_server))] == [True, False], "what was stored before is as it was"


# until evicted


@pytest.fixture
def evicting() -> Iterator[RedisServer]:
    server = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    server.start()
    yield server
    server.close()


async def test_until_evicted_redis_is_told_no_time(simulator: Simulator, evicting: RedisServer) -> None:
    async with before(simulator, evicting, lifetime="until-evicted") as proxy:
        assert await embed(proxy, "a") == "fwd=miss; stored; ttl=2147483648"
        assert ttls(evicting) == [-1]
        assert (await embed(proxy, "a")).startswith("hit; ttl=21474836")
        listed = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
        assert [row["lifetimeKind"] for row in listed] == ["until-evicted"]


@pytest.mark.parametrize(
    ("policy", "maxmemory", "why"),
    [
        ("noeviction", "64mb", r"evicts nothing when it is full \(noeviction\)"),
        ("volatile-lru", "64mb", r"evicts only what expires \(volatile-lru\)"),
        ("allkeys-lru", "0", r"has no memory limit \(maxmemory 0\)"),
    ],
)
async def test_it_is_refused_where_redis_would_never_evict(
    policy: str, maxmemory: str, why: str, simulator: Simulator, evicting: RedisServer
) -> None:
    client = evicting.client()
    refused = rf"\Alifetime: 'until-evicted' is not allowed: {evicting.name} {why}\Z"
    async with before(simulator, evicting) as proxy:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", maxmemory)
        tables = {"models": {MODEL: {"lifetime": "until-evicted"}}}
        given = proxy.running.settings.model_dump() | tables
        with pytest.raises(SettingsError, match=refused):
            await proxy.running.reload(load(None, given))
        assert await embed(proxy, "a") == f"fwd=miss; stored; ttl={IDLE}", "everything stays as it was"
    for settings in ({"lifetime": "until-evicted"}, tables):
        with pytest.raises(SettingsError, match=refused):
            async with before(simulator, evicting, **settings):
                pass


async def test_a_redis_that_is_away_at_the_start_is_asked_when_it_is_back(
    simulator: Simulator, evicting: RedisServer
) -> None:
    evicting.kill()
    async with before(simulator, evicting, lifetime="until-evicted") as proxy:
        assert "does not answer, so it is not known whether it makes room" in proxy.log.getvalue()
        evicting.start()
        await until(lambda: proxy.running.store.writable and evicting.client().exists("ocp:1:generation"))
        for text in "abcdefghij":
            if "stored" in await embed(proxy, text):
                break
            await asyncio.sleep(0.2)
        assert ttls(evicting) == [-1]
