"""`GET /api/cache/system`: its figures, compared with the requests that were sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ollama_cache_proxy.gpu.replay import Replay, recording
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, RedisServer, proxy_before

GENERATE = {"model": "tiny", "prompt": "why", "stream": False}


async def post(url: str, path: str, body: Any) -> None:
    await ask(url, "POST", path, body=json.dumps(body).encode())


async def system(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(url, "GET", "/api/cache/system")).body)
    return found


async def test_before_anything_was_asked(proxy: Proxy) -> None:
    found = await system(proxy.url)
    assert found["requests"] == {"total": 0, "hits": 0, "misses": 0, "bypasses": 0, "perSecond": 0.0}
    assert found["averageSeconds"] == dict.fromkeys(("hit", "miss", "overall", "withoutCache"))
    assert (found["hitRate"], found["tokensPerSecond"], found["models"]) == (0.0, None, [])
    assert found["store"]["keys"] == 0
    assert found["audit"] is None
    assert found["prompts"] == {"sentence": "", "tokens": 0, "reusedTokens": 0, "lostSeconds": 0.0}


async def test_what_was_audited_shows(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, audit="1%") as proxy:
        found = (await system(proxy.url))["audit"]
    assert (found["checked"], found["wrong"]) == (0, 0)
    assert found["since"] > 1_700_000_000


async def test_what_happened(redis_server: RedisServer) -> None:
    replay = Replay(recording("h100"))
    async with (
        Simulator(Behaviour(completion_delay=0.2, embedding_delay=0)) as simulator,
        proxy_before(simulator.url, redis_url=redis_server.url, nvml=lambda: replay) as proxy,
    ):
        for _ in range(4):
            await post(proxy.url, "/api/generate", GENERATE)
        await post(proxy.url, "/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x"}]})
        found = await system(proxy.url)
    assert found["requests"].items() >= {"total": 5, "hits": 3, "misses": 1, "bypasses": 1}.items()
    assert found["requests"]["perSecond"] > 0
    average = found["averageSeconds"]
    fastest, slowest = sorted((average["hit"], average["miss"]))
    assert fastest < average["overall"] < slowest
    assert average["overall"] == pytest.approx((3 * average["hit"] + average["miss"]) / 4, abs=1e-5)
    assert average["withoutCache"] == pytest.approx((average["miss"] + found["savedSeconds"]) / 4, abs=1e-3)
    assert average["withoutCache"] >= 0.19, "each hit stands for as long as Ollama took"
    assert found["tokensPerSecond"] > 0
    assert [model["name"] for model in found["models"]] == ["tiny:latest"]
    assert {gpu["name"] for gpu in found["gpus"]} == {"NVIDIA H100 80GB HBM3"}
    assert found["store"] == {"name": redis_server.name, "keys": 1, "state": "ok"}
    assert found["upstream"] == {"state": "ok"}


async def test_failures_are_in_no_average(proxy: Proxy, simulator: Simulator) -> None:
    await post(proxy.url, "/api/generate", GENERATE)
    before = (await system(proxy.url))["averageSeconds"]
    await simulator.stop()
    await post(proxy.url, "/api/generate", GENERATE | {"prompt": "another"})
    found = await system(proxy.url)
    assert found["requests"]["misses"] == 2
    assert found["averageSeconds"] == before
    assert found["upstream"]["state"] == "down"


async def test_averages_are_those_of_all_proxies(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as one:
        await post(one.url, "/api/generate", GENERATE)
        miss = (await system(one.url))["averageSeconds"]["miss"]
    async with proxy_before(simulator.url, redis_url=redis_server.url) as other:
        await post(other.url, "/api/generate", GENERATE)
        found = await system(other.url)
    assert found["averageSeconds"]["miss"] == miss
    assert found["averageSeconds"]["hit"] is not None
    assert found["requests"]["perSecond"] <= 1, "the rate is this proxy's own"


async def test_an_ollama_that_hangs_delays_the_figures_only_briefly(proxy: Proxy, simulator: Simulator) -> None:
    await post(proxy.url, "/api/generate", GENERATE)
    simulator.gate.close()
    try:
        async with asyncio.timeout(10):
            assert (await system(proxy.url))["requests"]["misses"] == 1
    finally:
        simulator.gate.open()


async def test_each_of_several_ollamas_shows_and_one_alone_does_not(simulator: Simulator) -> None:
    async with Simulator() as other:
        rows = [{"url": simulator.url, "name": "a"}, {"url": other.url, "name": "b"}]
        async with proxy_before(simulator.url, upstreams=rows) as proxy:
            await ask(proxy.url, "POST", "/api/cache/upstreams/b/drain", body=b"")
            found = (await system(proxy.url))["upstreams"]
        assert found == [
            {"name": "a", "state": "ok", "inFlight": 0, "loaded": 0},
            {"name": "b", "state": "draining", "inFlight": 0, "loaded": 0},
        ]
    async with proxy_before(simulator.url) as proxy:
        assert "upstreams" not in await system(proxy.url)
