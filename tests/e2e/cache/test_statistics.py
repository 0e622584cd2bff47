"""What the statistics tell, and that they outlive processes and evictions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE = {"model": "tiny", "prompt": "why", "stream": False}
HASH = "ocp:1:statistics"


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def stats(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
    return found


async def test_every_exchange_is_counted_by_operation_category_and_model(proxy: Proxy) -> None:
    first = json.loads((await post(proxy.url, "/api/generate", GENERATE, X_Cache_Category="code")).body)
    await post(proxy.url, "/api/generate", GENERATE)
    await post(proxy.url, "/api/generate", GENERATE | {"model": "TINY:latest"}, X_Cache_Category="code")
    await post(proxy.url, "/api/embed", {"model": "all-minilm", "input": "a"})
    known = json.loads((await post(proxy.url, "/api/embed", {"model": "all-minilm", "input": "a"})).body)
    await post(proxy.url, "/api/embed", {"model": "all-minilm", "input": ["a", "a", "b"]}, X_Cache_Category="rag")
    await ask(proxy.url, "GET", "/api/tags")
    found = await stats(proxy)
    assert list(found)[:4] == ["hits", "misses", "hitRate", "keys"]
    assert (found["hits"], found["misses"], found["hitRate"], found["bypasses"]) == (2, 4, 33.3, 1)
    assert found["items"] == {"hits": 3, "misses": 2, "hitRate": 60.0}
    token = known["prompt_eval_count"]
    assert found["savedTokens"] == {"prompt": first["prompt_eval_count"] + 3 * token, "output": first["eval_count"]}
    assert found["savedSeconds"] > 0
    hits = {
        title: {label: (row["hits"], row["misses"]) for label, row in found[title].items()}
        for title in ("byOperation", "byCategory", "byModel")
    }
    assert hits == {
        "byOperation": {"embed": (1, 2), "generate": (1, 2), "tags": (0, 0)},
        "byCategory": {"code": (0, 2), "rag": (0, 1)},
        "byModel": {"all-minilm:latest": (1, 2), "tiny:latest": (1, 2)},
    }
    assert found["byCategory"]["rag"]["items"] == {"hits": 2, "misses": 1, "hitRate": 66.7}
    assert found["byModel"]["all-minilm:latest"]["savedTokens"]["prompt"] == 3 * token


async def test_a_refused_only_if_cached_is_neither_hit_nor_miss(proxy: Proxy) -> None:
    await post(proxy.url, "/api/generate", GENERATE, Cache_Control="only-if-cached")
    found = await stats(proxy)
    assert (found["hits"], found["misses"], found["bypasses"]) == (0, 0, 1)


async def test_clear_leaves_hits_and_misses_as_they_are(proxy: Proxy) -> None:
    for _ in range(2):
        await post(proxy.url, "/api/generate", GENERATE)
    await ask(proxy.url, "POST", "/api/cache/clear")
    found = await stats(proxy)
    assert (found["hits"], found["misses"], found["keys"]) == (1, 1, 0)


async def test_they_are_those_of_all_proxies_and_outlive_each(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as other:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as one:
            await post(one.url, "/api/generate", GENERATE)
            await one.kept()
            await post(other.url, "/api/generate", GENERATE)
        found = await stats(other)
        assert (found["hits"], found["misses"]) == (1, 1), "one was counted when it ended"
    async with proxy_before(simulator.url, redis_url=redis_server.url) as later:
        assert (await stats(later))["hits"] == 1


async def test_they_reach_the_store_by_themselves(proxy: Proxy, redis_server: RedisServer) -> None:
    await post(proxy.url, "/api/generate", GENERATE)
    await until(lambda: redis_server.client().hgetall(HASH).get(b"operation\ngenerate\nmisses") == b"1")


@pytest.mark.parametrize("loss", ["all", "some"])
async def test_they_survive_eviction(loss: str, simulator: Simulator, redis_server: RedisServer) -> None:
    client = redis_server.client()
    async with (
        proxy_before(simulator.url, redis_url=redis_server.url) as one,
        proxy_before(simulator.url, redis_url=redis_server.url) as other,
    ):
        for proxy in (one, other):
            await post(proxy.url, "/api/generate", GENERATE)
            await post(proxy.url, "/api/embed", {"model": "all-minilm", "input": "a"})
            await proxy.kept()
        before = [await stats(proxy) for proxy in (one, other, one)][-1]
        assert (before["hits"], before["misses"]) == (2, 2)
        if loss == "all":
            client.delete(HASH)
        else:
            client.hdel(HASH, "operation\ngenerate\nhits", "model\ntiny:latest\nhits")
        await post(one.url, "/api/generate", GENERATE)
        await post(other.url, "/api/generate", GENERATE)
        for proxy in (one, other, one):
            found = await stats(proxy)
        assert (found["hits"], found["misses"]) == (4, 2)
        assert found["byModel"]["tiny:latest"]["hits"] == 3
        assert found["byOperation"]["embed"] == before["byOperation"]["embed"]


async def test_without_a_store_they_go_on_and_are_added_later(simulator: Simulator) -> None:
    own = RedisServer()
    own.start()
    try:
        async with proxy_before(simulator.url, redis_url=own.url) as proxy:
            await post(proxy.url, "/api/generate", GENERATE)
            assert (await stats(proxy))["misses"] == 1
            own.kill()
            await post(proxy.url, "/api/generate", GENERATE)
            found = await stats(proxy)
            assert (found["misses"], found["keys"], found["store"]["state"]) == (2, None, "degraded")
            own.start()
            await until(lambda: json_misses(own) == 2)
    finally:
        own.close()


def json_misses(server: RedisServer) -> int:
    return int(server.client().hget(HASH, "operation\ngenerate\nmisses") or 0)


async def test_names_that_clients_choose_are_bounded(proxy: Proxy) -> None:
    for number in range(40):
        await post(proxy.url, "/api/generate", GENERATE, X_Cache_Category=f"c{number}")
    found = (await stats(proxy))["byCategory"]
    assert len(found) == 33
    assert found["other"]["hits"] == 8


async def test_saved_seconds_are_those_that_ollama_took(redis_server: RedisServer) -> None:
    async with (
        Simulator(Behaviour(completion_delay=0.2)) as simulator,
        proxy_before(simulator.url, redis_url=redis_server.url) as proxy,
    ):
        for _ in range(3):
            await post(proxy.url, "/api/generate", GENERATE)
        assert 0.4 <= (await stats(proxy))["savedSeconds"] < 20


async def test_categories_of_what_is_never_kept_take_no_place(proxy: Proxy) -> None:
    for number in range(40):
        fields = {"X-Cache-Category": f"c{number}"}
        await ask(proxy.url, "GET", "/nothing", fields=fields)
        await post(proxy.url, "/api/generate", GENERATE | {"prompt": ""}, X_Cache_Category=f"d{number}")
    await post(proxy.url, "/api/generate", GENERATE, X_Cache_Category="code")
    assert list((await stats(proxy))["byCategory"]) == ["code"]
