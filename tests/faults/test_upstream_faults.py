"""A fault of Ollama is a clear error for what needs it, and nothing for what does not."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from proxy.settings import OPERATIONS, setting_of
from proxy.simulator import Behaviour, Fault, Simulator
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


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", GENERATE),
    ("/api/generate", GENERATE | {"stream": True}),
    ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}),
    ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}),
    ("/v1/completions", {"model": "tiny", "prompt": "why"}),
    ("/api/embed", EMBED),
    ("/api/embeddings", {"model": "all-minilm", "prompt": "a"}),
    ("/v1/embeddings", {"model": "all-minilm", "input": ["a"], "encoding_format": "base64"}),
]
EVERYTHING: dict[str, Any] = {"cache_streams": True} | {setting_of(operation): "always" for operation in OPERATIONS}
settings = pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["defaults", "everything"])


async def keys(proxy: Proxy) -> int:
    return int(json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"])


@settings
async def test_what_breaks_off_never_looks_complete_and_is_never_kept(
    settings: dict[str, Any], simulator: Simulator, redis_server: RedisServer
) -> None:
    """200 answers of every kind that end in the middle: a 502 or a reset."""
    inference = {path for path, _ in QUESTIONS}
    async with proxy_before(simulator.url, redis_url=redis_server.url, **settings) as proxy:
        simulator.fault = lambda seen: Fault.RESET_MID_BODY if seen.target in inference else None
        ends: Counter[str] = Counter()
        for number in range(200):
            path, body = QUESTIONS[number % len(QUESTIONS)]
            try:
                answer = await post(proxy, path, body)
            except (ConnectionError, asyncio.IncompleteReadError):
                ends["reset"] += 1
            else:
                assert (answer.status, list(json.loads(answer.body))) == (502, ["error"]), path
                ends["502"] += 1
        assert sum(ends.values()) == 200
        assert min(ends.values()) >= 50
        assert await keys(proxy) == 0
        simulator.fault = None
        for path, body in QUESTIONS:
            answer = await post(proxy, path, body)
            assert (answer.status, answer.field("X-Cache") != "HIT") == (200, True)


@settings
@pytest.mark.parametrize("fault", [Fault.STATUS_500, Fault.JUNK, Fault.TWO_LENGTHS, Fault.REFUSE, Fault.ERROR_LINE])
async def test_what_is_no_good_answer_is_passed_on_or_a_502_and_never_kept(
    fault: Fault, settings: dict[str, Any], simulator: Simulator, redis_server: RedisServer
) -> None:
    inference = {path for path, _ in QUESTIONS}
    async with proxy_before(simulator.url, redis_url=redis_server.url, **settings) as proxy:
        simulator.fault = lambda seen: fault if seen.target in inference else None
        asked = [row for row in QUESTIONS if fault is not Fault.ERROR_LINE or "embed" not in row[0]]
        for path, body in asked * 2:
            answer = await post(proxy, path, body)
            if fault is Fault.ERROR_LINE and answer.status == 200:
                assert b"[DONE]" not in answer.body
                assert b'"done":true' not in answer.body
            else:
                assert answer.status == (500 if fault in (Fault.STATUS_500, Fault.ERROR_LINE) else 502)
            assert answer.field("X-Cache") != "HIT"
        assert await keys(proxy) == 0


async def test_no_request_is_lost_over_restarts_of_ollama(redis_server: RedisServer) -> None:
    """30 restarts, five requests after each: its pooled connections are gone, and nobody notices."""
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as simulator:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
            statuses: list[int] = []
            for number in range(30):
                await simulator.stop()
                await simulator.start(port=simulator.port)
                prompts = [GENERATE | {"prompt": f"{number} {at}", "stream": at > 2} for at in range(5)]
                answers = await asyncio.gather(*(post(proxy, "/api/generate", body) for body in prompts))
                statuses += [answer.status for answer in answers]
            assert statuses == [200] * 150
