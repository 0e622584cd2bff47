"""A guard in front of Ollama that checks a key on POST: no hit may pass that check."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ollama_cache_proxy.policy.endpoints import REUSABLE
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.service.settings import setting_of
from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import ByteUpstream, Conversation, byte_upstream, whole
from tests.support.waiting import until

ROUTES: dict[str, dict[str, Any]] = {
    "/api/generate": {"model": "tiny", "prompt": "why", "stream": False},
    "/api/chat": {"model": "tiny", "messages": [{"role": "user", "content": "why"}], "stream": False},
    "/api/embed": {"model": "all-minilm", "input": ["a", "b"]},
    "/api/embeddings": {"model": "all-minilm", "prompt": "a"},
    "/v1/embeddings": {"model": "all-minilm", "input": "a"},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "why"}]},
    "/v1/completions": {"model": "tiny", "prompt": "why"},
    "/v1/responses": {"model": "tiny", "input": "why"},
    "/v1/messages": {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "why"}]},
}
GENERATE = json.dumps(ROUTES["/api/generate"]).encode()
EVERYTHING = {setting_of(row.operation): "always" for row in REUSABLE}
REFUSED = b'{"error":"no valid key"}'


@asynccontextmanager
async def guard(simulator: Simulator, name: str, value: str) -> AsyncIterator[ByteUpstream]:
    """An upstream that lets a request through to the simulator if this field has this value, and else answers 401."""

    async def script(talk: Conversation) -> None:
        body = await talk.read_body()
        if talk.values(name.encode()) != [value.encode()]:
            await talk.write(whole(REFUSED, status="401 Unauthorized"))
            return
        answer = await ask(simulator.url, "POST", talk.request_line.split()[1].decode(), body=body)
        await talk.write(whole(answer.body, kind=answer.field("Content-Type") or ""))

    async with byte_upstream(script) as upstream:
        yield upstream


async def post(proxy: Proxy, path: str, body: bytes, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    answer = await ask(proxy.url, "POST", path, body=body, fields=named)
    await proxy.kept()
    return answer


def seen(answer: RawAnswer) -> tuple[int, str | None]:
    return answer.status, answer.field("X-Cache")


NAMES = ["X-API-Key", "api-key", "CF-Access-Client-Id", "CF-Access-Client-Secret", "Authorization"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", ROUTES)
async def test_a_hit_needs_the_key_that_the_guard_wants(path: str, name: str, simulator: Simulator) -> None:
    body = json.dumps(ROUTES[path]).encode()
    async with guard(simulator, name, "right") as upstream, proxy_before(upstream.url, **EVERYTHING) as proxy:
        assert seen(await post(proxy, path, body, **{name: "right"})) == (200, "MISS")
        assert seen(await post(proxy, path, body, **{name: "right"})) == (200, "HIT")
        assert seen(await post(proxy, path, body, **{name.upper(): "right"})) == (200, "HIT")
        for fields in ({}, {name: "wrong"}, {name: ""}, {name: "right", "Connection": name}):
            answer = await post(proxy, path, body, **fields)
            assert (seen(answer), answer.body) == ((401, "MISS"), REFUSED)
        assert seen(await post(proxy, path, body, **{name: "right"})) == (200, "HIT"), "a refusal takes nothing away"


async def test_a_key_that_connection_names_is_not_shown_to_ollama_and_not_in_the_key(simulator: Simulator) -> None:
    """What Ollama never saw is no reason to give it a response of its own."""
    async with proxy_before(simulator.url) as proxy:
        assert seen(await post(proxy, "/api/generate", GENERATE)) == (200, "MISS")
        hidden = {"X-API-Key": "k", "Connection": "x-api-key"}
        assert seen(await post(proxy, "/api/generate", GENERATE, **hidden)) == (200, "HIT")
        assert seen(await post(proxy, "/api/generate", GENERATE, Proxy_Authorization="Basic eDp5")) == (200, "HIT")
        assert seen(await post(proxy, "/api/generate", GENERATE, X_API_Key="k")) == (200, "MISS")


async def test_requests_with_different_keys_do_not_share_a_flight(simulator: Simulator) -> None:
    release = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await release.wait()
        key = b"".join(talk.values(b"X-API-Key"))
        await talk.write(whole(b'{"error":"%b"}' % key, status="401 Unauthorized"))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        asked = [asyncio.create_task(post(proxy, "/api/generate", GENERATE, X_API_Key=key)) for key in ("a", "b", "")]
        await until(lambda: len(upstream.seen) == 3)
        release.set()
        assert [(await task).body for task in asked] == [b'{"error":"a"}', b'{"error":"b"}', b'{"error":""}']


async def test_the_fast_path_tells_keys_apart(simulator: Simulator) -> None:
    async with guard(simulator, "X-API-Key", "right") as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            for key, expected in (*[("right", 200)] * 4, ("wrong", 401), ("right", 200), ("righ", 401), ("right", 200)):
                connection.send("POST", "/api/generate", fields={"X-API-Key": key}, body=GENERATE)
                assert (await connection.answer()).status == expected
                await proxy.kept()
        assert len(upstream.seen) == 3


async def test_a_field_that_a_setting_names_counts_too(simulator: Simulator) -> None:
    async with guard(simulator, "X-Team-Key", "right") as upstream:
        async with proxy_before(upstream.url, credential_fields=["x-team-key"]) as proxy:
            for expected in ("MISS", "HIT"):
                assert seen(await post(proxy, "/api/generate", GENERATE, X_Team_Key="right")) == (200, expected)
            assert seen(await post(proxy, "/api/generate", GENERATE)) == (401, "MISS")


async def test_proxies_share_if_they_have_equal_lists(simulator: Simulator, redis_server: RedisServer) -> None:
    """With another list, what was stored is not found: then it may be a response that the guard would refuse."""
    shared = {"redis_url": redis_server.url}
    one = {"credential_fields": ["x-a", "X-B"], "placeholder_credentials": ["ollama", "x"]}
    same = {"credential_fields": ["x-b", "X-A", "x-a"], "placeholder_credentials": ["x", "Bearer ollama"]}
    others: list[dict[str, Any]] = [{}, {"credential_fields": ["x-a"]}, one | {"placeholder_credentials": ["x"]}]
    async with proxy_before(simulator.url, **shared, **one) as proxy:
        assert seen(await post(proxy, "/api/generate", GENERATE)) == (200, "MISS")
    async with proxy_before(simulator.url, **shared, **same) as proxy:
        assert seen(await post(proxy, "/api/generate", GENERATE)) == (200, "HIT")
    for other in others:
        async with proxy_before(simulator.url, **shared, **other) as proxy:
            assert seen(await post(proxy, "/api/generate", GENERATE)) == (200, "MISS")


def old_key(kind: str, digest: bytes, body: bytes) -> str:
    """The key of release 0.2.0 (schema 1) for a request without Authorization, by its layout."""
    parts = (b"1", kind.encode(), b"", digest, b"0.24.0", b"", b"", b"", body)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


async def test_what_the_last_release_stored_for_a_key_is_not_given_to_a_request_without_one(
    simulator: Simulator,
) -> None:
    """Release 0.2.0 had no X-API-Key in its keys: one key for requests with it, and without."""
    entry = StoredResponse(
        status=200,
        reason="OK",
        fields=((b"Content-Type", b"application/json"),),
        body=b'{"secret":"of the one with the key"}',
        stored_at=time.time(),
        lifetime=3600,
        took=1.0,
        operation="generate",
        model="tiny:latest",
        category="",
        namespace="",
        prompt_tokens=1,
        output_tokens=1,
    )
    async with guard(simulator, "X-API-Key", "right") as upstream, proxy_before(upstream.url) as proxy:
        store = proxy.running.store
        key = old_key("generate", b"d1", b'{"model":"tiny","prompt":"why"}')
        assert await store.put([(key, entry)], (await store.get(key)).generation)
        assert (await store.get(key)).entry is not None
        assert seen(await post(proxy, "/api/generate", GENERATE)) == (401, "MISS")
        assert seen(await post(proxy, "/api/generate", GENERATE, X_API_Key="right")) == (200, "MISS")


# Placeholders


async def test_a_placeholder_shares_with_none_and_goes_to_ollama_as_it_came(simulator: Simulator) -> None:
    async with byte_upstream(to(simulator)) as upstream:
        settings = {"placeholder_credentials": ["ollama", "api-key-not-set", ""]}
        async with proxy_before(upstream.url, **settings) as proxy:
            body = json.dumps(ROUTES["/v1/embeddings"]).encode()
            assert seen(await post(proxy, "/v1/embeddings", body, Authorization="bearer ollama")) == (200, "MISS")
            assert upstream.seen[0].values(b"Authorization") == [b"bearer ollama"]
            for value in ("Bearer ollama", "Bearer api-key-not-set", "Bearer", "BEARER ollama"):
                assert seen(await post(proxy, "/v1/embeddings", body, Authorization=value)) == (200, "HIT")
            assert seen(await post(proxy, "/v1/embeddings", body)) == (200, "HIT")
            for value in ("Bearer Ollama", "Bearer x", "Basic ollama", "ollama"):
                assert seen(await post(proxy, "/v1/embeddings", body, Authorization=value)) == (200, "MISS")


async def test_without_the_setting_a_placeholder_is_a_credential_like_any_other(proxy: Proxy) -> None:
    assert seen(await post(proxy, "/api/generate", GENERATE, Authorization="Bearer ollama")) == (200, "MISS")
    assert seen(await post(proxy, "/api/generate", GENERATE)) == (200, "MISS")


def to(simulator: Simulator):
    async def script(talk: Conversation) -> None:
        body = await talk.read_body()
        answer = await ask(simulator.url, "POST", talk.request_line.split()[1].decode(), body=body)
        await talk.write(whole(answer.body, kind=answer.field("Content-Type") or ""))

    return script
