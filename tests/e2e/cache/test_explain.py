"""`POST /api/cache/explain`, end to end: the same verdict as a real request gets, and what came nearest to a miss."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "canary-prompt", "stream": False, "options": {"seed": 1}}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": ["a", "b"]}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "stream": False,
    "messages": [{"role": "system", "content": "Monday"}, {"role": "user", "content": "why"}],
}


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def explain(proxy: Proxy, path: str, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    asked = {"path": path, "headers": headers or {}, "body": body}
    answer = await ask(proxy.url, "POST", "/api/cache/explain", body=json.dumps(asked).encode())
    assert answer.status == 200, answer.body
    assert b"canary" not in answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.fixture
async def marked(simulator: Simulator, redis_server: RedisServer):
    async with proxy_before(simulator.url, redis_url=redis_server.url, explain=True, cache_chat="always") as proxy:
        yield proxy


async def test_a_miss_and_then_a_hit_with_the_key_of_the_real_request(proxy: Proxy, simulator: Simulator) -> None:
    missed = await explain(proxy, "/api/generate", GENERATE)
    assert missed.pop("note")
    assert missed == {
        "operation": "generate",
        "policy": "always",
        "candidate": True,
        "model": "tiny:latest",
        "key": missed["key"],
        "lifetime": "fixed",
        "result": "miss",
        "fwd": "miss",
        "nearest": None,
    }
    assert not [request for request in simulator.received if request.method == "POST"]
    await post(proxy.url, "/api/generate", GENERATE)
    hit = await explain(proxy, "/api/generate", json.dumps(GENERATE))
    assert (hit["result"], hit["key"], hit["ttl"]) == ("hit", missed["key"], 3600)
    assert json.loads((await ask(proxy.url, "GET", f"/api/cache/entries/{hit['key']}")).body)["operation"] == "generate"
    assert json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["misses"] == 1, "it counts as nothing"


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/api/generate", GENERATE | {"stream": True}, {}),
        ("/api/generate", '{"model":"tiny","model":"tiny","prompt":"x","stream":false}', {}),
        ("/api/generate", '{"model":"tiny"', {}),
        ("/api/generate", "", {}),
        ("/api/generate?x=1", GENERATE, {}),
        ("/api/chat", CHAT, {}),
        ("/api/tags", "", {}),
        ("/api/generate", GENERATE, {"Cache-Control": "no-store"}),
        ("/api/generate", GENERATE, {"Cookie": "a=b"}),
        ("/api/generate", GENERATE | {"model": "absent"}, {}),
        ("/api/generate", GENERATE | {"prompt": ""}, {}),
    ],
    ids=range(11),
)
async def test_the_reason_is_the_one_that_the_request_itself_gets(
    path: str, body: Any, headers: dict[str, str], proxy: Proxy
) -> None:
    told = await explain(proxy, path, body, headers)
    raw = body if isinstance(body, str) else json.dumps(body)
    seen = await ask(proxy.url, "POST", path, body=raw.encode(), fields=headers)
    assert told["candidate"] is False
    assert f"detail={told['detail']}" in (seen.field("Cache-Status") or "")


NEAR: list[tuple[str, Any, dict[str, str], list[str]]] = [
    ("/api/generate", GENERATE | {"prompt": "other"}, {}, ["prompt"]),
    ("/api/generate", GENERATE | {"options": {"seed": 2}}, {}, ["options.seed"]),
    ("/api/generate", GENERATE | {"options": {"seed": 1, "top_k": 3}}, {}, ["options.top_k"]),
    ("/api/generate", GENERATE | {"model": "tiny:latest"}, {}, ["model"]),
    ("/api/generate", GENERATE | {"system": "x", "unknown": 1}, {}, ["system", "unknown"]),
    ("/api/generate", GENERATE, {"Origin": "http://localhost"}, ["(Origin)"]),
    ("/api/chat", CHAT | {"messages": [{"role": "system", "content": "Tuesday"}, CHAT["messages"][1]]}, {}, ["messages[0]"]),
    ("/api/chat", CHAT | {"messages": [*CHAT["messages"], {"role": "user", "content": "x"}]}, {}, ["messages[2]"]),
    ("/api/embed", EMBED | {"input": ["a", "c"]}, {}, ["input"]),
    ("/api/embed", EMBED | {"dimensions": 8}, {}, ["dimensions"]),
    ("/v1/embeddings", {"model": "all-minilm", "input": ["a"], "dimensions": 8}, {}, ["dimensions"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "headers", "differs"), NEAR, ids=range(len(NEAR)))
async def test_a_miss_names_the_nearest_entry_and_what_differs(
    path: str, body: Any, headers: dict[str, str], differs: list[str], marked: Proxy
) -> None:
    await post(marked.url, "/api/generate", GENERATE)
    await post(marked.url, "/api/generate", {"model": "tiny2", "prompt": "far", "stream": False, "raw": True})
    await post(marked.url, "/api/chat", CHAT)
    await post(marked.url, "/api/embed", EMBED)
    await until(lambda: marked.log.getvalue().count("Cached:") == 4)
    told = await explain(marked, path, body, headers)
    assert told["result"] == "miss"
    assert told["nearest"]["differs"] == differs
    assert (told["searched"], told["complete"]) == (5, True)
    assert (await ask(marked.url, "GET", f"/api/cache/entries/{told['nearest']['key']}")).status == 200


async def test_a_model_that_was_replaced_shows_as_its_digest(marked: Proxy) -> None:
    await post(marked.url, "/api/generate", GENERATE)
    await until(lambda: "Cached:" in marked.log.getvalue())
    await explain(marked, "/api/generate", GENERATE | {"model": "absent"})  # a look that confirms the entry
    await post(marked.url, "/api/create", {"model": "tiny", "from": "tiny", "system": "x", "stream": False})
    assert (await explain(marked, "/api/generate", GENERATE))["nearest"]["differs"] == ["(model digest)"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"X-Cache-Namespace": "n"},
        {"X-API-Key": "canary"},
        {"CF-Access-Client-Id": "i", "CF-Access-Client-Secret": "canary"},
    ],
    ids=str,
)
async def test_entries_of_others_are_never_named(headers: dict[str, str], marked: Proxy) -> None:
    await post(
        marked.url, "/api/generate", GENERATE, **{name.replace("-", "_"): text for name, text in headers.items()}
    )
    await until(lambda: "Cached:" in marked.log.getvalue())
    told = await explain(marked, "/api/generate", GENERATE)
    assert (told["nearest"], told["searched"]) == (None, 1)
    assert (await explain(marked, "/api/generate", GENERATE, headers))["result"] == "hit"


async def test_the_store_holds_no_text_and_two_proxies_compare_alike(
    marked: Proxy, simulator: Simulator, redis_server: RedisServer
) -> None:
    await post(marked.url, "/api/generate", GENERATE, Authorization="Bearer canary-token")
    client = redis_server.client()
    await until(lambda: client.keys("ocp:1:e:*"))
    (name,) = client.keys("ocp:1:e:*")
    value = client.get(name)
    assert b"canary" not in value
    assert value.count(b"options.seed") == 1
    async with proxy_before(simulator.url, redis_url=redis_server.url, explain=True) as other:
        headers = {"Authorization": "Bearer canary-token"}
        told = await explain(other, "/api/generate", GENERATE | {"prompt": "x"}, headers)
        assert told["nearest"]["differs"] == ["prompt"]


async def test_nothing_is_kept_unless_it_is_set(proxy: Proxy, redis_server: RedisServer) -> None:
    await post(proxy.url, "/api/generate", GENERATE)
    client = redis_server.client()
    await until(lambda: client.keys("ocp:1:e:*"))
    assert b"options.seed" not in client.get(client.keys("ocp:1:e:*")[0])
    assert client.get("ocp:1:marks-key") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"path":1}',
        b'{"path":"/api/generate","headers":[]}',
        b'{"path":"/api/generate","headers":{"a":1}}',
        b'{"path":"/api/generate","colour":"red"}',
        b'{"path":"/api/generate","method":1}',
        b'{"path":"/api/generate","body":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
async def test_what_is_not_understood_is_a_400(body: bytes, proxy: Proxy) -> None:
    answer = await ask(proxy.url, "POST", "/api/cache/explain", body=body)
    assert (answer.status, list(json.loads(answer.body))) == (400, ["error"])


async def test_a_body_as_text_is_read_as_it_is_and_a_deep_one_gets_its_reason(proxy: Proxy) -> None:
    deep = '{"model":"tiny","prompt":"x","stream":false,"x":' + "[" * 300 + "]" * 300 + "}"
    assert (await explain(proxy, "/api/generate", deep))["detail"] == "depth"


async def test_an_absolute_path_and_an_origin_of_our_own_are_read_as_in_a_request(proxy: Proxy) -> None:
    await post(proxy.url, "/api/generate", GENERATE)
    told = await explain(proxy, f"{proxy.url}/api/generate", GENERATE)
    assert told["result"] == "hit"
    assert (await explain(proxy, "/api/generate", GENERATE, {"Origin": proxy.url}))["result"] == "hit"


async def test_without_a_key_for_the_marks_nothing_is_named(simulator: Simulator, redis_server: RedisServer) -> None:
    """Marks that are missing on both sides are not equal ones."""
    client = redis_server.client()
    async with proxy_before(simulator.url, redis_url=redis_server.url) as plain:
        await post(plain.url, "/api/generate", GENERATE, Authorization="Bearer other")
        await until(lambda: client.keys("ocp:1:e:*"))
    client.config_set("min-replicas-to-write", 1)
    try:
        async with proxy_before(simulator.url, redis_url=redis_server.url, explain=True) as proxy:
            told = await explain(proxy, "/api/generate", GENERATE)
            assert (told["result"], told["nearest"]) == ("miss", None)
    finally:
        client.config_set("min-replicas-to-write", 0)


async def test_a_field_without_a_name_opens_no_other_ones_entries(marked: Proxy) -> None:
    await post(marked.url, "/api/generate", GENERATE | {"": 1}, Authorization="Bearer x", X_Cache_Namespace="n")
    await until(lambda: "Cached:" in marked.log.getvalue())
    assert (await explain(marked, "/api/generate", GENERATE | {"": 1, "prompt": "y"}))["nearest"] is None


async def test_a_list_with_a_blank_text_is_explained_by_its_other_texts(marked: Proxy) -> None:
    await post(marked.url, "/api/embed", EMBED)
    await marked.kept()
    for texts, known, of in ((["a", "", "x"], 1, 3), (["a", "b", ""], 2, 3), (["", "x"], 0, 2)):
        found = await explain(marked, "/api/embed", EMBED | {"input": texts})
        assert (found["candidate"], found["result"]) == (True, "miss")
        assert found["items"] == {"known": known, "of": of}
