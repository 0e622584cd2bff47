"""What is sampled of real requests, through a proxy, and what the forecast says of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from ollama_cache_proxy.policy.forecast.outlook import ENOUGH
from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, proxy_before

HALF = ENOUGH // 2


async def send(proxy: Proxy, path: str, documents: Iterable[dict[str, Any]], **fields: str) -> None:
    """Send requests one after the other, over one connection."""
    async with await RawConnection.open(proxy.url) as connection:
        for document in documents:
            connection.send("POST", path, body=json.dumps(document).encode(), fields=fields)
            assert (await connection.answer()).status == 200
            await proxy.kept()


async def forecast(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(proxy.url, "GET", "/api/cache/forecast")).body)
    return found


def generates(count: int = HALF, **more: Any) -> list[dict[str, Any]]:
    return [{"model": "tiny", "prompt": f"number {number}", "stream": False, **more} for number in range(count)]


def embed(texts: Sequence[str]) -> dict[str, Any]:
    return {"model": "all-minilm", "input": texts}


@pytest.mark.parametrize("quiet", [True, False])
async def test_completions_are_counted_those_of_the_fast_path_too(simulator: Simulator, quiet: bool) -> None:
    """The second time they are served the ordinary way, from the third on by the bytes of their requests."""
    async with proxy_before(simulator.url, log_requests="off" if quiet else "on") as proxy:
        for _ in range(4):
            await send(proxy, "/api/generate", generates())
        found = (await forecast(proxy))["completions"]
    assert found["requests"] == 4 * HALF
    assert found["now"]["texts"] == 75
    assert {row["texts"] for row in found["lifetimes"]} == {75}


async def test_the_texts_of_lists_are_counted_one_by_one(simulator: Simulator) -> None:
    texts = [f"text {number}" for number in range(HALF)]
    async with proxy_before(simulator.url) as proxy:
        await send(proxy, "/api/embed", [embed(texts), embed(texts), embed([*texts[: HALF // 2], "new"])])
        found = (await forecast(proxy))["embeddings"]
    assert (found["requests"], found["texts"]) == (3, 2 * HALF + HALF // 2 + 1)
    assert found["now"]["texts"] == pytest.approx(59.8, abs=0.1)
    assert found["now"]["requests"] == pytest.approx(33.3)
    for row in found["lifetimes"]:
        assert (row["texts"], row["requests"]) == (found["now"]["texts"], found["now"]["requests"])


async def test_clients_with_one_authorization_would_share(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        for name in ("anne", "bert"):
            texts = [f"text {number}" for number in range(HALF)]
            await send(proxy, "/api/embed", [embed(texts)], Authorization=f"Bearer {name}")
            await send(proxy, "/api/generate", generates(), Authorization=f"Bearer {name}")
        found = await forecast(proxy)
    for kind in ("embeddings", "completions"):
        assert found[kind]["now"]["texts"] == 0
        assert found[kind]["sharedAuthorization"]["texts"] == 50
        assert found[kind]["withoutLineNumbers"]["texts"] == 0


async def test_texts_without_their_line_numbers_would_be_known(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        for line in (3, 14):
            texts = [f"src/{number}.py:{line}\ncode" for number in range(HALF)]
            await send(proxy, "/api/embed", [embed(texts)])
            prompts = [{"model": "tiny", "prompt": text, "stream": False} for text in texts]
            await send(proxy, "/api/generate", prompts)
        found = await forecast(proxy)
    for kind in ("embeddings", "completions"):
        assert found[kind]["now"]["texts"] == 0
        assert found[kind]["withoutLineNumbers"]["texts"] == 50
        assert found[kind]["sharedAuthorization"]["texts"] == 0


@pytest.mark.parametrize(
    ("path", "document", "settings"),
    [
        ("/api/chat", {"stream": False}, {"cache_chat": "always"}),
        ("/api/chat", {"stream": False, "options": {"temperature": 0}}, {"cache_chat": "deterministic"}),
        ("/v1/messages", {"max_tokens": 5}, {"cache_v1_messages": "always"}),
        ("/api/chat", {}, {"cache_chat": "always", "cache_streams": True}),
    ],
)
async def test_bypassed_requests_would_be_hits(
    simulator: Simulator, path: str, document: dict[str, Any], settings: dict[str, Any]
) -> None:
    def chats() -> list[dict[str, Any]]:
        contents = (f"why {number}" for number in range(HALF))
        return [{"model": "tiny", "messages": [{"role": "user", "content": one}], **document} for one in contents]

    async with proxy_before(simulator.url) as proxy:
        for _ in range(2):
            await send(proxy, path, chats())
        found = await forecast(proxy)
    (row,) = found["whatIf"]
    assert (row["settings"], row["requests"], row["hits"]) == (settings, 2 * HALF, 50)
    assert found["advice"]["settings"] == settings


async def test_what_is_cleared_would_not_be_known(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        await send(proxy, "/api/generate", generates())
        assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 200
        await send(proxy, "/api/generate", generates())
        found = (await forecast(proxy))["completions"]
    assert {row["texts"] for row in found["lifetimes"]} == {found["now"]["texts"]}


@pytest.mark.parametrize(("path", "method"), [("/api/generate", "asked"), ("/api/chat", "passed")])
async def test_a_request_that_cannot_be_sampled_is_served_like_others(
    simulator: Simulator, path: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RecursionError

    async with proxy_before(simulator.url) as proxy:
        monkeypatch.setattr(proxy.running.exchanges._forecaster, method, fail)
        await send(proxy, path, generates(3, messages=[]))
        assert "Internal error: RecursionError" in proxy.log.getvalue()
