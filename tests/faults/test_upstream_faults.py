"""A fault of Ollama is a clear error for what needs it, and nothing for what does not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": ["a", "b"]}


async def post(proxy: Proxy, path: str, body: Any) -> RawAnswer:
    return await ask(proxy.url, "POST", path, body=json.dumps(body).encode())


@pytest.mark.parametrize("restarted", [False, True], ids=["", "and the proxy is started anew"])
async def test_while_ollama_is_down_hits_go_on_and_misses_are_told_at_once(
    restarted: bool, redis_server: RedisServer
) -> None:
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as simulator:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
            await post(proxy, "/api/generate", GENERATE)
            await post(proxy, "/api/embed", EMBED)
            if not restarted:
                await simulator.stop()
                await expect_what_is_known(proxy)
        if restarted:
            await simulator.stop()
            async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
                await expect_what_is_known(proxy)


async def expect_what_is_known(proxy: Proxy) -> None:
    for _ in range(20):
        for path, body in (("/api/generate", GENERATE), ("/api/embed", EMBED)):
            assert (await post(proxy, path, body)).field("X-Cache") == "HIT"
    missing = (
        ("/api/generate", GENERATE | {"prompt": "other"}),
        ("/api/generate", GENERATE | {"stream": True}),
        ("/api/embed", EMBED | {"input": ["a", "c"]}),
        ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}),
        ("/api/show", {"model": "tiny"}),
    )
    for path, body in missing:
        begun = time.monotonic()
        answer = await post(proxy, path, body)
        assert time.monotonic() - begun < 5, "the figure is one second"
        assert (answer.status, list(json.loads(answer.body))) == (502, ["error"])
    ready = await ask(proxy.url, "GET", "/readyz")
    assert (ready.status, json.loads(ready.body)["upstream"]) == (200, "down")
    assert (await ask(proxy.url, "GET", "/readyz?require=upstream")).status == 503
    metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
    assert "ollama_cache_proxy_upstream_up 0.0" in metrics
    assert 'ollama_cache_proxy_errors_total{source="upstream"} 5.0' in metrics
    assert proxy.log.getvalue().count("cannot be reached") == 1, "one line a change, not one a request"
