"""Settings for clients that read streams in ways of their own, and for an nginx between them and the proxy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.core.delivery import LINE_PAUSE
from ollama_cache_proxy.simulator import Simulator
from tests.support.nginx import nginx_before
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.upstream import Conversation, answering, byte_upstream

STREAMS: dict[str, Any] = {"cache_streams": True, "cache_chat": "always", "cache_v1_chat": "always"}
MESSAGES = [{"role": "user", "content": "why"}]
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("/api/generate", {"model": "tiny", "prompt": "why"}),
    "chat": ("/api/chat", {"model": "tiny", "messages": MESSAGES}),
    "v1-chat": ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "stream": True}),
}
PATH, BODY = ROUTES["generate"]
LINE = b'{"model":"tiny","response":"x","done":false}\n'
LAST = b'{"model":"tiny","response":"","done":true,"done_reason":"stop","prompt_eval_count":3,"eval_count":2}\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
GO = {"User-Agent": "Go-http-client/1.1", "Cache-Control": "no-cache"}


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + (b"0\r\n\r\n" if end else b"")


async def post(proxy: Proxy, route: str, fields: dict[str, str | None] | None = None, **more: Any) -> RawAnswer:
    path, body = ROUTES[route]
    answer = await ask(proxy.url, "POST", path, body=json.dumps(body | more).encode(), fields=fields)
    await proxy.kept()
    return answer


def told(answer: RawAnswer) -> str:
    return str(answer.field("Cache-Status")).removeprefix("ollama-cache-proxy; ").replace("ttl=3600; ", "")


# ignore_no_cache.


@pytest.mark.parametrize("setting", ["v1-chat", "agent:Go-http-client/"])
async def test_a_stream_whose_no_cache_is_not_heard_is_a_hit(setting: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS, ignore_no_cache=[setting]) as proxy:
        first = await post(proxy, "v1-chat", GO)
        assert told(first) == "fwd=miss; detail=recording"
        again = await post(proxy, "v1-chat", GO)
        assert (told(again), again.chunks) == ("hit; detail=directives-ignored", first.chunks)
        plain = await post(proxy, "v1-chat")
        assert told(plain) == "hit; ttl=3600"
        pragma = {"User-Agent": GO["User-Agent"], "Pragma": "no-cache"}
        assert told(await post(proxy, "v1-chat", pragma)) == "hit; detail=directives-ignored"


async def test_nothing_is_ignored_by_default(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        for _ in range(2):
            assert told(await post(proxy, "v1-chat", GO)) == "fwd=request; detail=recording"


@pytest.mark.parametrize(
    ("route", "fields", "result"),
    [
        pytest.param("v1-chat", {"Cache-Control": "no-store"}, "fwd=bypass; detail=no-store", id="no-store"),
        pytest.param("v1-chat", {"Cache-Control": "no-cache, no-store"}, "fwd=bypass; detail=no-store", id="both"),
        pytest.param("v1-chat", {"X-Cache-TTL": "0"}, "fwd=bypass; detail=no-store", id="no lifetime"),
        pytest.param("v1-chat", {"Cache-Control": "no-cache, max-age=0"}, "hit; detail=directives-ignored", id="an entry of this second is no older than max-age=0"),
        pytest.param("chat", {}, "fwd=request; detail=recording", id="another operation"),
    ],
)  # fmt: skip
async def test_no_other_directive_is_ignored(
    route: str, fields: dict[str, str | None], result: str, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, **STREAMS, ignore_no_cache="v1-chat") as proxy:
        proxy.running.exchanges._clock.now = lambda: 1_800_000_000.0  # type: ignore[method-assign]
        await post(proxy, route)
        assert told(await post(proxy, route, GO | fields)) == result


async def test_a_request_for_a_whole_response_means_its_no_cache(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS, ignore_no_cache="v1-chat,agent:Go-http-client/") as proxy:
        for _ in range(2):
            answer = await post(proxy, "v1-chat", GO, stream=False)
            assert told(answer) == "fwd=request; stored; ttl=3600"


async def test_streams_in_flight_are_joined_and_explain_says_hit(simulator: Simulator) -> None:
    simulator.gate.close()
    async with proxy_before(simulator.url, **STREAMS, ignore_no_cache="v1-chat") as proxy:
        asked = [asyncio.create_task(post(proxy, "v1-chat", GO)) for _ in range(2)]
        await simulator.arrived(1)
        simulator.gate.open()
        assert sorted([told(await answer) for answer in asked]) == [
            "fwd=miss; collapsed; detail=directives-ignored",
            "fwd=miss; detail=recording",
        ]
        path, body = ROUTES["v1-chat"]
        question = json.dumps({"path": path, "body": body, "headers": GO}).encode()
        explained = json.loads((await ask(proxy.url, "POST", "/api/cache/explain", body=question)).body)
        assert explained["result"] == "hit"


# The pace of lines.


@pytest.mark.parametrize(
    ("settings", "fields", "by_line"),
    [
        pytest.param({"stream_pace": "line"}, {}, True, id="for all"),
        pytest.param({"line_pace_for": ["generate"]}, {}, True, id="for the operation"),
        pytest.param({"line_pace_for": ["agent:node"]}, {"User-Agent": "node"}, True, id="for the client"),
        pytest.param({"line_pace_for": ["agent:node"], "stream_pace": "recorded"}, {"User-Agent": "node"}, True, id="rather than recorded"),
        pytest.param({"line_pace_for": ["agent:node", "chat"]}, {"User-Agent": "x"}, False, id="for another one"),
        pytest.param({}, {}, False, id="for none"),
    ],
)  # fmt: skip
async def test_a_stream_is_replayed_line_by_line(
    settings: dict[str, Any], fields: dict[str, str | None], by_line: bool
) -> None:
    """One chunk of the recording has two lines, and one line comes in two chunks."""
    recorded = [LINE + LINE, LINE + LAST[:9], LAST[9:]]
    async with byte_upstream(answering(HEAD + chunked(*recorded))) as upstream:
        async with proxy_before(upstream.url, **STREAMS, **settings) as proxy:
            await post(proxy, "generate")
            pauses: list[float] = []

            async def noted(seconds: float) -> None:
                pauses.append(seconds)

            proxy.running.exchanges._clock.sleep = noted  # type: ignore[method-assign]
            again = await post(proxy, "generate", fields)
            assert again.field("X-Cache") == "HIT"
            assert list(again.chunks) == ([LINE, LINE, LINE, LAST] if by_line else recorded)
            assert pauses == ([LINE_PAUSE] * 3 if by_line else [])


async def test_events_are_replayed_whole(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS, stream_pace="line") as proxy:
        first, again = [await post(proxy, "v1-chat") for _ in range(2)]
        assert again.field("X-Cache") == "HIT"
        assert again.body == first.body
        assert all(chunk.startswith(b"data: ") and chunk.count(b"\n\n") == 1 for chunk in again.chunks)


async def test_who_joins_late_gets_lines_too() -> None:
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunked(LINE + LINE + LINE, end=False))
        await go_on.wait()
        await talk.write(chunked(LAST))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **STREAMS, stream_pace="line") as proxy:
        async with await RawConnection.open(proxy.url) as first, await RawConnection.open(proxy.url) as late:
            for connection in (first, late):
                connection.send("POST", PATH, body=json.dumps(BODY).encode())
                await connection.head()
                assert [await connection.chunk() for _ in range(3)] == [LINE, LINE, LINE]
            go_on.set()
            assert [await late.chunk(), await late.chunk()] == [LAST, b""]


# unbuffered_streams.


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("route", ROUTES)
async def test_streams_say_that_they_are_not_to_be_held_back(route: str, on: bool, simulator: Simulator) -> None:
    for caching in (True, False):
        async with proxy_before(
            simulator.url, **(STREAMS | {"cache_streams": caching}), unbuffered_streams=on
        ) as proxy:
            streams = [await post(proxy, route) for _ in range(2)]
            assert [answer.field("X-Accel-Buffering") for answer in streams] == ["no" if on else None] * 2
            whole = [await post(proxy, route, stream=False) for _ in range(2)]
            assert [answer.field("X-Accel-Buffering") for answer in whole] == [None] * 2


@pytest.mark.parametrize("cached", [True, False], ids=["recorded", "passed on"])
async def test_an_nginx_in_front_hands_on_each_line(cached: bool, tmp_path: Path) -> None:
    """Its defaults would hold a small stream back until its end, which here never comes before its first line is read."""
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunked(LINE, end=False))
        await go_on.wait()
        await talk.write(chunked(LAST))

    settings = STREAMS | {"cache_streams": cached, "unbuffered_streams": True}
    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **settings) as proxy:
        async with nginx_before(proxy.url, tmp_path, "") as url, await RawConnection.open(url) as connection:
            connection.send("POST", PATH, body=json.dumps(BODY).encode())
            _, fields = await connection.head()
            assert "x-accel-buffering" not in {name.lower() for name, _ in fields}, "nginx takes it for itself"
            assert await asyncio.wait_for(connection.chunk(), 10) == LINE
            go_on.set()
            assert [await connection.chunk(), await connection.chunk()] == [LAST, b""]
