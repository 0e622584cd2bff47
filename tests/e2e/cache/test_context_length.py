"""A changed context length of a model is a changed epoch for it, end to end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Fault, Simulator
from ollama_cache_proxy.upstream import loaded_contexts
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE = "/api/generate"
EMBED = "/api/embed"


@pytest.fixture(autouse=True)
def looking_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_contexts, "EVERY", 0.0)
    monkeypatch.setattr(loaded_contexts, "AGAIN", 0.0)
    monkeypatch.setattr(loaded_contexts, "_WITHIN", 5.0)


@pytest.fixture
async def proxy(simulator: Simulator, redis_server: RedisServer) -> AsyncIterator[Proxy]:
    simulator.behaviour = replace(simulator.behaviour, context_length=256)
    async with proxy_before(simulator.url, redis_url=redis_server.url) as running:
        yield running


def set_length(simulator: Simulator, length: int) -> None:
    """Start Ollama anew with another OLLAMA_CONTEXT_LENGTH; what was loaded is gone."""
    simulator.behaviour = replace(simulator.behaviour, context_length=length)
    for resident in simulator.residence.loaded():
        simulator.residence.unload(resident.model)


async def post(proxy: Proxy, text: str, path: str = GENERATE, **more: Any) -> str | None:
    """Ask, wait until what comes after the response is done, and return X-Cache."""
    asked = {"prompt": text, "stream": False} if path == GENERATE else {"input": [text]}
    body = {"model": "tiny" if path == GENERATE else "all-minilm", **asked, **more}
    answer = await ask(proxy.url, "POST", path, body=json.dumps(body).encode())
    assert answer.status == 200
    await proxy.kept()
    await settled(proxy)
    return answer.field("X-Cache")


async def settled(proxy: Proxy) -> None:
    models: Any = proxy.running.exchanges._intake._lookup._models
    await until(lambda: not any(model.looking for model in models._contexts._models.values()))
    await asyncio.sleep(0.01)  # a withdrawal is sent


async def context(proxy: Proxy, path: str = GENERATE) -> Any:
    """Return what an explanation tells of the context length."""
    model = "tiny" if path == GENERATE else "all-minilm"
    body = {"model": model, "prompt": "x", "input": "x", "stream": False}
    asked = json.dumps({"path": path, "body": body}).encode()
    answer = await ask(proxy.url, "POST", "/api/cache/explain", body=asked)
    return json.loads(answer.body).get("context")


@pytest.mark.parametrize("path", [GENERATE, EMBED])
async def test_entries_of_another_context_length_are_not_used_until_it_comes_back(
    proxy: Proxy, simulator: Simulator, path: str
) -> None:
    assert [await post(proxy, text, path) for text in ("a", "b", "a", "b")] == ["MISS", "MISS", "HIT", "HIT"]
    set_length(simulator, 128)
    assert await post(proxy, "a", path) == "HIT", "nothing has shown the change yet"
    assert [await post(proxy, text, path) for text in ("c", "d")] == ["MISS", "MISS"]
    assert [await post(proxy, text, path) for text in ("a", "b", "c", "d")] == ["MISS"] * 4
    assert [await post(proxy, text, path) for text in ("a", "b", "c", "d")] == ["HIT"] * 4
    told = await context(proxy, path)
    assert told.pop("since") > 0
    assert told == {"length": 128, "first": 256, "before": 256, "epoch": "ctx=128"}
    set_length(simulator, 256)
    assert [await post(proxy, text, path) for text in ("e", "f")] == ["MISS", "MISS"]
    assert [await post(proxy, text, path) for text in ("a", "b", "c", "e")] == ["HIT", "HIT", "MISS", "MISS"]


async def test_who_never_changes_it_has_the_keys_of_always(proxy: Proxy) -> None:
    for text in ("a", "b", "c"):
        await post(proxy, text)
    assert [await post(proxy, text) for text in ("a", "b", "c")] == ["HIT"] * 3
    assert (await context(proxy))["epoch"] == ""
    assert "Context length" not in proxy.log.getvalue()


async def test_a_context_of_a_request_s_own_changes_nothing(proxy: Proxy, simulator: Simulator) -> None:
    for text in ("a", "b"):
        await post(proxy, text)
    for text in ("a", "b", "c", "d"):
        assert await post(proxy, text, options={"num_ctx": 64}) == "MISS"
        assert {resident.context for resident in simulator.residence.loaded()} == {64}
    assert [await post(proxy, text) for text in ("a", "b")] == ["HIT", "HIT"]
    assert (await context(proxy))["length"] == 256


async def test_alternating_lengths_are_those_of_the_requests(proxy: Proxy) -> None:
    """Each request has the model loaded anew, so what is told right after a response belongs to it."""
    for number in range(4):
        await post(proxy, f"{number}")
        await post(proxy, f"{number}", options={"num_ctx": 64})
    assert [await post(proxy, f"{number}") for number in range(4)] == ["HIT"] * 4
    assert (await context(proxy))["epoch"] == ""


async def test_nothing_counts_while_a_request_with_a_context_of_its_own_is_under_way(
    proxy: Proxy, simulator: Simulator
) -> None:
    for text in ("a", "b"):
        await post(proxy, text)
    set_length(simulator, 128)
    simulator.fault = lambda received: Fault.HANG if received.target == "/api/chat" else None
    async with await RawConnection.open(proxy.url) as connection:
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "options": {"num_ctx": 64}}
        connection.send("POST", "/api/chat", body=json.dumps(chat).encode())
        await until(lambda: "/api/chat" in [one.target for one in simulator.received])
        assert [await post(proxy, text) for text in ("c", "d", "e", "a")] == ["MISS", "MISS", "MISS", "HIT"]
    await until(lambda: not proxy.running.exchanges.serving)
    assert [await post(proxy, text) for text in ("f", "g", "a", "c")] == ["MISS"] * 4


async def test_a_hit_asks_ollama_nothing(proxy: Proxy, simulator: Simulator) -> None:
    for text in ("a", "b"):
        await post(proxy, text)
    looks = [one.target for one in simulator.received].count("/api/ps")
    assert looks == 2
    for _ in range(5):
        assert await post(proxy, "a") == "HIT"
    assert [one.target for one in simulator.received].count("/api/ps") == looks


async def test_a_hit_by_its_bytes_is_not_one_after_the_change(proxy: Proxy, simulator: Simulator) -> None:
    for text in ("a", "b", "a", "a", "a"):
        await post(proxy, text)
    assert proxy.running.exchanges.fast_path._notes
    set_length(simulator, 128)
    for text in ("c", "d"):
        await post(proxy, text)
    assert [await post(proxy, "a") for _ in range(3)] == ["MISS", "HIT", "HIT"]


async def test_a_restart_uses_the_entries_of_the_length_that_was_known(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    simulator.behaviour = replace(simulator.behaviour, context_length=256)
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        for text in ("a", "b"):
            await post(proxy, text)
        set_length(simulator, 128)
        for text in ("c", "d", "a"):
            await post(proxy, text)
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        assert [await post(proxy, text) for text in ("a", "b", "b")] == ["HIT", "MISS", "HIT"]
        assert (await context(proxy))["length"] == 128
        assert "Context length" not in proxy.log.getvalue()


async def test_the_log_says_once_what_has_changed(proxy: Proxy, simulator: Simulator) -> None:
    for text in ("a", "b"):
        await post(proxy, text)
    set_length(simulator, 128)
    for text in ("c", "d", "e", "f"):
        await post(proxy, text)
    lines = [line for line in proxy.log.getvalue().splitlines() if "Context length" in line]
    assert len(lines) == 1
    assert "from 256 to 128 tokens" in lines[0]
    assert "tiny" in lines[0]
    assert "prompt" not in lines[0]
