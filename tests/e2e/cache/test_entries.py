"""The admin routes about entries, end to end: listing, describing, deleting, purging by what an entry is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE = {"model": "tiny", "prompt": "canary-prompt", "stream": False}
ABSENT = "0" * 64


@pytest.fixture(params=["redis", "memory"])
async def either(
    request: pytest.FixtureRequest, simulator: Simulator, redis_server: RedisServer
) -> AsyncIterator[Proxy]:
    """A proxy with one store, and one with the other."""
    settings = {"redis_url": redis_server.url} if request.param == "redis" else {}
    async with proxy_before(simulator.url, **settings) as proxy:
        yield proxy


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def entries(proxy: Proxy, query: str = "") -> list[dict[str, Any]]:
    """All entries, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = await ask(proxy.url, "GET", f"/api/cache/entries?cursor={cursor}&{query}")
        assert answer.status == 200, answer.body
        page = json.loads(answer.body)
        found += page["entries"]
        cursor = page["cursor"]
    return found


async def clear(proxy: Proxy, **filters: str) -> int:
    answer = await post(proxy.url, "/api/cache/clear", filters)
    assert answer.status == 200, answer.body
    return int(json.loads(answer.body)["cleared"])


async def fill(proxy: Proxy) -> None:
    """One completion for each of two models, a vector, two items, with and without category and namespace."""
    await post(proxy.url, "/api/generate", GENERATE)
    await post(proxy.url, "/api/generate", GENERATE | {"model": "TINY2:latest"}, X_Cache_Category="code")
    await post(proxy.url, "/api/embeddings", {"model": "all-minilm", "prompt": "a"}, X_Cache_Namespace="n")
    await post(proxy.url, "/api/embed", {"model": "all-minilm", "input": ["a", "b"]}, X_Cache_Category="rag")


async def test_an_entry_is_described_without_a_word_of_it(either: Proxy) -> None:
    answer = await post(either.url, "/api/generate", GENERATE, X_Cache_Category="code", X_Cache_Namespace="team")
    (entry,) = await entries(either)
    took = entry.pop("took")
    assert 0 <= took < 10
    assert isinstance(entry.pop("storedAt"), float)
    document = json.loads(answer.body)
    assert entry == {
        "key": entry["key"],
        "size": len(answer.body),
        "status": 200,
        "lifetime": 3600,
        "lifetimeKind": "fixed",
        "idle": None,
        "operation": "generate",
        "model": "tiny:latest",
        "category": "code",
        "namespace": "team",
        "promptTokens": document["prompt_eval_count"],
        "outputTokens": document["eval_count"],
        "streamed": False,
        "imported": False,
        "age": 0,
        "ttl": 3600,
    }
    one = await ask(either.url, "GET", f"/api/cache/entries/{entry['key']}")
    assert json.loads(one.body)["key"] == entry["key"]
    listed = (await ask(either.url, "GET", "/api/cache/entries")).body
    assert b"canary" not in listed + one.body
    assert document["response"].encode() not in listed + one.body


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_together_are_all_entries(limit: int, either: Proxy) -> None:
    for number in range(40):
        await post(either.url, "/api/generate", GENERATE | {"options": {"seed": number}})
    found = [entry["key"] for entry in await entries(either, f"limit={limit}")]
    assert (len(found), len(set(found))) == (40, 40)


@pytest.mark.parametrize("query", ["limit=x", "model=%20", "colour=red", "limit=1&category=a&colour=red"])
async def test_a_query_that_is_not_understood_is_a_400(query: str, either: Proxy) -> None:
    answer = await ask(either.url, "GET", f"/api/cache/entries?{query}")
    assert (answer.status, list(json.loads(answer.body))) == (400, ["error"])


async def test_a_cursor_that_is_none_is_a_400(proxy: Proxy) -> None:
    assert (await ask(proxy.url, "GET", "/api/cache/entries?cursor=x")).status == 400


FILTERS: list[tuple[dict[str, str], int]] = [
    ({"model": "tiny"}, 1),
    ({"model": "registry.ollama.ai/library/TINY2"}, 1),
    ({"model": "all-minilm:latest"}, 3),
    ({"model": "absent"}, 0),
    ({"operation": "generate"}, 2),
    ({"operation": "embed"}, 2),
    ({"operation": "v1-embeddings"}, 2),
    ({"operation": "embeddings"}, 1),
    ({"category": "code"}, 1),
    ({"category": ""}, 2),
    ({"category": "rag"}, 2),
    ({"namespace": "n"}, 1),
    ({"namespace": ""}, 4),
    ({"key": ABSENT}, 0),
    ({"key": "x"}, 0),
    ({"operation": "generate", "category": "code"}, 1),
    ({"operation": "embed", "category": "code"}, 0),
    ({}, 5),
]


@pytest.mark.parametrize(("filters", "count"), FILTERS, ids=str)
async def test_purging_deletes_what_is_meant_and_nothing_else(
    filters: dict[str, str], count: int, either: Proxy
) -> None:
    await fill(either)
    before = await entries(either)
    assert len(before) == 5
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    meant = {entry["key"] for entry in await entries(either, query)}
    assert len(meant) == count
    assert await clear(either, **filters) == count
    assert {entry["key"] for entry in await entries(either)} == {entry["key"] for entry in before} - meant


async def test_one_key_is_purged_described_and_deleted(either: Proxy) -> None:
    await fill(either)
    first, second, *rest = [entry["key"] for entry in await entries(either)]
    assert await clear(either, key=first, operation="nothing") == 0
    assert await clear(either, key=first) == 1
    target = f"/api/cache/entries/{second}"
    assert json.loads((await ask(either.url, "DELETE", target)).body) == {"cleared": 1}
    for method in ("GET", "DELETE"):
        assert (await ask(either.url, method, target)).status == 404
        assert (await ask(either.url, method, "/api/cache/entries/x")).status == 404
        assert (await ask(either.url, method, f"/api/cache/entries/{ABSENT}")).status == 404
    assert {entry["key"] for entry in await entries(either)} == set(rest)


@pytest.mark.parametrize(
    "body", [[], "x", {"model": 1}, {"model": None}, {"colour": "red"}, {"model": "a b"}, {"model": "tiny", "x": ""}]
)
async def test_a_filter_that_is_not_understood_clears_nothing(body: Any, either: Proxy) -> None:
    await fill(either)
    answer = await post(either.url, "/api/cache/clear", body)
    assert (answer.status, list(json.loads(answer.body))) == (400, ["error"])
    assert len(await entries(either)) == 5


@pytest.mark.parametrize(
    ("filters", "dropped"),
    [
        ({"model": "tiny:latest"}, True),
        ({"operation": "generate"}, True),
        ({"category": "code"}, True),
        ({"namespace": "n"}, True),
        ({"model": "tiny2"}, False),
        ({"category": "other"}, False),
    ],
    ids=str,
)
async def test_a_purge_also_means_what_is_still_on_its_way(
    filters: dict[str, str], dropped: bool, either: Proxy, simulator: Simulator
) -> None:
    simulator.gate.close()
    asking = asyncio.create_task(
        post(either.url, "/api/generate", GENERATE, X_Cache_Category="code", X_Cache_Namespace="n")
    )
    await simulator.arrived(1)
    assert await clear(either, **filters) == 0
    simulator.gate.open()
    answer = await asking
    status = "fwd=miss; detail=purged" if dropped else "fwd=miss; stored; ttl=3600"
    assert answer.field("Cache-Status") == f"ollama-cache-proxy; {status}"
    assert len(await entries(either)) == (not dropped)


async def test_a_purge_by_key_means_what_is_still_on_its_way(either: Proxy, simulator: Simulator) -> None:
    await post(either.url, "/api/generate", GENERATE)
    ((key,),) = [[entry["key"]] for entry in await entries(either)]
    simulator.gate.close()
    asking = asyncio.create_task(post(either.url, "/api/generate", GENERATE, Cache_Control="no-cache"))
    await simulator.arrived(2)
    assert await clear(either, key=key) == 1
    simulator.gate.open()
    assert (await asking).field("Cache-Status") == "ollama-cache-proxy; fwd=request; detail=purged"
    assert await entries(either) == []


async def test_a_list_on_its_way_is_dropped_whole(either: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    body = {"model": "all-minilm", "input": ["a", "b"]}
    asking = asyncio.create_task(post(either.url, "/v1/embeddings", body))
    await simulator.arrived(1)
    await clear(either, operation="embed")
    simulator.gate.open()
    assert "purged" in ((await asking).field("Cache-Status") or "")
    assert await entries(either) == []


async def test_a_flight_that_a_purge_has_ended_is_not_joined(either: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    before = asyncio.create_task(post(either.url, "/api/generate", GENERATE))
    await simulator.arrived(1)
    await clear(either, model="tiny")
    after = asyncio.create_task(post(either.url, "/api/generate", GENERATE))
    await simulator.arrived(2)
    simulator.gate.open()
    assert [(await task).field("X-Cache") for task in (before, after)] == ["MISS", "MISS"]
    assert len(await entries(either)) == 1


async def test_without_a_store_there_is_a_503(simulator: Simulator, redis_process: RedisServer) -> None:
    own = RedisServer()
    own.start()
    try:
        async with proxy_before(simulator.url, redis_url=own.url) as proxy:
            await post(proxy.url, "/api/generate", GENERATE)
            await until(lambda: own.client().keys("ocp:1:e:*"))
            (entry,) = await entries(proxy)
            own.kill()
            for method, path, body in (
                ("GET", "/api/cache/entries", None),
                ("GET", f"/api/cache/entries/{entry['key']}", None),
                ("POST", "/api/cache/clear", None),
                ("POST", "/api/cache/clear", b'{"model":"tiny"}'),
                ("POST", "/api/cache/clear", json.dumps({"key": entry["key"]}).encode()),
                ("DELETE", f"/api/cache/entries/{entry['key']}", None),
            ):
                answer = await ask(proxy.url, method, path, body=body)
                assert (answer.status, list(json.loads(answer.body))) == (503, ["error"]), (method, path)
    finally:
        own.close()


async def test_changing_follows_the_rules_for_changes(either: Proxy) -> None:
    for method, path in (("DELETE", f"/api/cache/entries/{ABSENT}"), ("POST", "/api/cache/explain")):
        assert (await ask(either.url, method, path, fields={"Origin": "http://evil.example"})).status == 403
    for method, path, allow in (
        ("POST", "/api/cache/entries", "GET, HEAD"),
        ("POST", f"/api/cache/entries/{ABSENT}", "GET, HEAD, DELETE"),
        ("GET", "/api/cache/explain", "POST"),
    ):
        answer = await ask(either.url, method, path)
        assert (answer.status, answer.field("Allow")) == (405, allow)


async def test_what_could_not_be_deleted_is_not_said_to_be(proxy: Proxy, redis_server: RedisServer) -> None:
    await post(proxy.url, "/api/generate", GENERATE)
    await until(lambda: redis_server.client().keys("ocp:1:e:*"))
    (entry,) = await entries(proxy)
    redis_server.client().config_set("min-replicas-to-write", 1)
    try:
        for method, path, body in (
            ("DELETE", f"/api/cache/entries/{entry['key']}", None),
            ("POST", "/api/cache/clear", json.dumps({"key": entry["key"]}).encode()),
            ("POST", "/api/cache/clear", b'{"model":"tiny"}'),
        ):
            assert (await ask(proxy.url, method, path, body=body)).status == 503
    finally:
        redis_server.client().config_set("min-replicas-to-write", 0)


async def test_who_may_list_entries_where_others_can_reach_the_listener(simulator: Simulator) -> None:
    """Their keys and namespaces tell more than figures do."""
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token="secret") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        for path in ("/api/cache/entries", f"/api/cache/entries/{ABSENT}", "/api/cache/entries?limit=1"):
            assert (await ask(url, "GET", path)).status == 401
            assert (await ask(url, "HEAD", path)).status == 401
            assert (await ask(url, "GET", path, fields={"Authorization": "Bearer secret"})).status in (200, 404)


async def test_a_long_namespace_separates_and_takes_no_room(either: Proxy) -> None:
    names = ["n" * 200, "n" * 201, "n" * 128]
    for expected in ("MISS", "HIT"):
        for name in names:
            answer = await post(either.url, "/api/generate", GENERATE, X_Cache_Namespace=name)
            assert answer.field("X-Cache") == expected
    found = {entry["namespace"] for entry in await entries(either)}
    assert len(found) == 3
    assert max(map(len, found)) == 128


async def test_a_purge_of_one_item_drops_the_list_that_is_on_its_way(either: Proxy, simulator: Simulator) -> None:
    await post(either.url, "/api/embed", {"model": "all-minilm", "input": "a"})
    (item,) = await entries(either)
    simulator.gate.close()
    body = {"model": "all-minilm", "input": ["a", "b"]}
    asking = asyncio.create_task(post(either.url, "/api/embed", body, Cache_Control="no-cache"))
    await simulator.arrived(2)
    assert await clear(either, key=item["key"]) == 1
    simulator.gate.open()
    assert (await asking).field("Cache-Status") == "ollama-cache-proxy; fwd=request; detail=purged"
    assert await entries(either) == []


async def test_each_clear_begins_a_generation_that_nobody_can_guess(proxy: Proxy, redis_server: RedisServer) -> None:
    tokens = set()
    for _ in range(3):
        assert await clear(proxy) == 0
        tokens.add(redis_server.client().get("ocp:1:generation"))
    assert len(tokens) == 3
    assert {len(bytes.fromhex(token.decode())) for token in tokens} == {16}


async def test_the_items_of_a_list_share_the_time_that_it_took(redis_server: RedisServer) -> None:
    async with Simulator(Behaviour(embedding_delay=0.4)) as simulator:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
            begun = time.monotonic()
            await post(proxy.url, "/api/embed", {"model": "all-minilm", "input": list("abcd")})
            elapsed = time.monotonic() - begun
            await until(lambda: len(redis_server.client().keys("ocp:1:e:*")) == 4)
            took = [entry["took"] for entry in await entries(proxy)]
            assert 0.4 <= sum(took) <= elapsed


async def test_a_single_vector_has_the_limit_of_lists(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, max_entry_bytes=1024) as proxy:
        body = {"model": "all-minilm", "prompt": "a"}
        assert [(await post(proxy.url, "/api/embeddings", body)).field("X-Cache") for _ in range(2)] == ["MISS", "HIT"]
    async with proxy_before(simulator.url, max_list_bytes=1024) as proxy:
        for _ in range(2):
            answer = await post(proxy.url, "/api/embeddings", body)
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=answer-too-large"
