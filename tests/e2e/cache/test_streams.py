"""Recorded streams, end to end: relayed as they come, kept only where they end well, replayed chunk for chunk."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Fault, Simulator
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import Conversation, byte_upstream
from tests.support.waiting import until

MESSAGES = [{"role": "user", "content": "why"}]
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("/api/generate", {"model": "tiny", "prompt": "why"}),
    "chat": ("/api/chat", {"model": "tiny", "messages": MESSAGES}),
    "v1-chat": ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "stream": True}),
    "v1-usage": (
        "/v1/chat/completions",
        {"model": "tiny", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "v1-completions": ("/v1/completions", {"model": "tiny", "prompt": "why", "stream": True}),
    "v1-responses": ("/v1/responses", {"model": "tiny", "input": "why", "stream": True}),
    "v1-messages": ("/v1/messages", {"model": "tiny", "max_tokens": 8, "messages": MESSAGES, "stream": True}),
}
STREAMS: dict[str, Any] = {
    "cache_streams": True,
    "cache_chat": "always",
    "cache_v1_chat": "always",
    "cache_v1_completions": "always",
    "cache_v1_responses": "always",
    "cache_v1_messages": "always",
}
PATH, BODY = ROUTES["generate"]
RECORDING = "ollama-cache-proxy; fwd=miss; detail=recording"


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def keys(proxy: Proxy) -> int:
    return int(json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"])


async def kept(proxy: Proxy, count: int = 1) -> None:
    """Wait until so many entries are there: a stream is kept after its last byte has gone out."""
    async with asyncio.timeout(10):
        while await keys(proxy) < count:  # noqa: ASYNC110 - it shows at a socket alone
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_stream_is_replayed_chunk_for_chunk(
    route: str, simulator: Simulator, redis_server: RedisServer
) -> None:
    path, body = ROUTES[route]
    async with proxy_before(simulator.url, redis_url=redis_server.url, **STREAMS) as proxy:
        first = await post(proxy.url, path, body)
        assert first.field("Cache-Status") == RECORDING
        await kept(proxy)
        again = await post(proxy.url, path, body)
        assert again.field("Cache-Status") == "ollama-cache-proxy; hit; ttl=3600"
        assert len(first.chunks) > 2
        assert again.chunks == first.chunks
        assert again.field("Content-Type") == first.field("Content-Type")
        assert again.field("Date") == first.field("Date")
        assert again.field("Age") == "0"
        assert again.field("Content-Length") is None
        assert sum(request.target == path for request in simulator.received) == 1


async def test_streams_pass_through_unless_the_switch_is_on(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **(STREAMS | {"cache_streams": False})) as proxy:
        for path, body in ROUTES.values():
            answer = await post(proxy.url, path, body)
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=stream"


async def test_the_switch_alone_records_no_chat(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_streams=True) as proxy:
        answer = await post(proxy.url, *ROUTES["chat"])
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=opt-in"


async def test_a_stream_and_a_whole_answer_are_two_entries(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        await post(proxy.url, PATH, BODY)
        await kept(proxy)
        whole = await post(proxy.url, PATH, BODY | {"stream": False})
        assert (whole.field("X-Cache"), whole.field("Content-Type")) == ("MISS", "application/json; charset=utf-8")
        assert (await post(proxy.url, PATH, BODY | {"stream": True})).field("X-Cache") == "HIT"
        assert (await post(proxy.url, PATH, BODY | {"stream": False})).body == whole.body


async def test_an_old_client_gets_the_replay_until_the_end_of_the_connection(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        first = await post(proxy.url, PATH, BODY)
        await kept(proxy)
        again = await ask(proxy.url, "POST", PATH, body=json.dumps(BODY).encode(), version="1.0")
        assert (again.body, again.closed, again.field("X-Cache")) == (first.body, True, "HIT")


LINE = b'{"model":"tiny","response":"x","done":false}\n'
LAST = b'{"model":"tiny","response":"","done":true,"done_reason":"stop","prompt_eval_count":3,"eval_count":2}\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + (b"0\r\n\r\n" if end else b"")


@pytest.mark.parametrize(
    ("chunks", "head", "detail"),
    [
        ((LINE, LAST), HEAD, None),
        ((LINE,), HEAD, "incomplete"),
        ((LINE, b'{"error":"x"}\n'), HEAD, "answer-error"),
        ((LINE, b'{"error":"x"}\n', LAST), HEAD, "answer-error"),
        ((LINE, LAST[:-1]), HEAD, "incomplete"),
        ((LINE, LAST, LINE), HEAD, "incomplete"),
        ((LINE, b"junk\n", LAST), HEAD, "incomplete"),
        ((LINE, LAST.replace(b'"stop"', b'"load"')), HEAD, "incomplete"),
        ((LINE * 40, LAST), HEAD, "answer-too-large"),
        ((LINE * 10, LINE * 10, LINE * 10, LAST), HEAD, "answer-too-large"),
    ],
    ids=range(10),
)
async def test_what_a_stream_must_have_to_be_kept(chunks: tuple[bytes, ...], head: bytes, detail: str | None) -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(head + chunked(*chunks))

    async with byte_upstream(script) as upstream:
        async with proxy_before(upstream.url, **STREAMS, max_entry_bytes=1024) as proxy:
            for count in (1, 2):
                answer = await post(proxy.url, PATH, BODY)
                assert answer.chunks == chunks
                if detail is None:
                    await kept(proxy)
                else:
                    await until(lambda: proxy.log.getvalue().count(f"({detail})") == count)  # noqa: B023
            assert len(upstream.seen) == (1 if detail is None else 2)
            assert await keys(proxy) == (detail is None)
            metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
            told = f'ollama_cache_proxy_unkept_total{{detail="{detail}",endpoint="generate"}} 2.0'
            assert (told in metrics) == (detail is not None)


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (HEAD.replace(b"200 OK", b"404 Not Found"), "status"),
        (HEAD.replace(b"200 OK", b"500 Oops"), "status"),
        (HEAD.replace(b"x-ndjson", b"json"), "content-type"),
        (HEAD.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"), "set-cookie"),
        (HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), "response-encoding"),
    ],
)
async def test_a_head_that_bars_keeping_says_so(head: bytes, detail: str) -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(head + chunked(LINE, LAST))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **STREAMS) as proxy:
        for _ in range(2):
            answer = await post(proxy.url, PATH, BODY)
            assert answer.field("Cache-Status") == f"ollama-cache-proxy; fwd=miss; detail={detail}"
            assert answer.chunks == (LINE, LAST)
        assert len(upstream.seen) == 2


async def test_chunks_arrive_while_the_rest_is_still_to_come_and_late_ones_join_from_the_beginning() -> None:
    """Equal streams at once are one request; each client gets all of it, whenever it came."""
    steps = [asyncio.Event() for _ in range(3)]

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD)
        for step, chunk in zip(steps, (LINE, LINE, LAST), strict=True):
            await step.wait()
            await talk.write(chunked(chunk, end=chunk is LAST))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **STREAMS) as proxy:
        async with await RawConnection.open(proxy.url) as first, await RawConnection.open(proxy.url) as late:
            body = json.dumps(BODY).encode()
            first.send("POST", PATH, body=body)
            steps[0].set()
            _, fields = await first.head()
            assert ("Cache-Status", RECORDING) in fields
            assert await first.chunk() == LINE
            steps[1].set()
            assert await first.chunk() == LINE
            late.send("POST", PATH, body=body)
            _, fields = await late.head()
            assert ("Cache-Status", "ollama-cache-proxy; fwd=miss; collapsed") in fields
            assert [await late.chunk(), await late.chunk()] == [LINE, LINE]
            steps[2].set()
            for connection in (first, late):
                assert [await connection.chunk(), await connection.chunk()] == [LAST, b""]
        assert len(upstream.seen) == 1
        await kept(proxy)


async def test_the_last_reader_to_leave_ends_the_stream_and_nothing_is_kept(simulator: Simulator) -> None:
    simulator.gate.close()
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        connections = [await RawConnection.open(proxy.url) for _ in range(2)]
        for connection in connections:
            connection.send("POST", PATH, body=json.dumps(BODY).encode())
        await until(lambda: proxy.running.exchanges.waiting == 2)
        await simulator.arrived(1)
        connections[0].close()
        await until(lambda: proxy.running.exchanges.waiting == 1)
        assert simulator.cancelled == 0
        connections[1].close()
        await asyncio.wait_for(simulator.departed(1), 5)
        assert await keys(proxy) == 0


@pytest.mark.parametrize("fault", [Fault.RESET_MID_BODY])
async def test_a_stream_that_breaks_off_ends_in_a_reset_and_is_not_kept(fault: Fault, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        simulator.fault = lambda seen: fault if seen.target == PATH else None
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await post(proxy.url, PATH, BODY)
        simulator.fault = None
        assert (await post(proxy.url, PATH, BODY)).field("X-Cache") == "MISS"


async def test_a_model_that_changes_while_a_stream_passes_keeps_nothing(simulator: Simulator) -> None:
    simulator.gate.close()
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        task = asyncio.create_task(post(proxy.url, PATH, BODY))
        await simulator.arrived(1)
        await post(proxy.url, "/api/create", {"model": "tiny", "from": "tiny2", "stream": False})
        simulator.gate.open()
        assert (await task).status == 200
        assert "keys" in json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        await until(lambda: "model-changed" in proxy.log.getvalue())
        assert await keys(proxy) == 0


async def test_no_cache_and_no_store_hold_for_streams(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        await post(proxy.url, PATH, BODY)
        await kept(proxy)
        renewed = await post(proxy.url, PATH, BODY, Cache_Control="no-cache")
        assert renewed.field("Cache-Status") == "ollama-cache-proxy; fwd=request; detail=recording"
        assert (await post(proxy.url, PATH, BODY, Cache_Control="no-store")).field("X-Cache") == "BYPASS"


async def test_a_stream_is_replayed_at_the_pace_that_it_had() -> None:
    """The second chunk came 200 ms after the first; a replay that is paced takes as long, one at once does not wait."""
    sleeps: list[float] = []

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunked(LINE, end=False))
        await asyncio.sleep(0.2)
        await talk.write(chunked(LAST))

    async def noted(seconds: float) -> None:
        sleeps.append(seconds)

    async with byte_upstream(script) as upstream:
        for pace, paced in (("recorded", True), ("at-once", False)):
            async with proxy_before(upstream.url, **STREAMS, stream_pace=pace) as proxy:
                first = await post(proxy.url, PATH, BODY)
                await kept(proxy)
                proxy.running.exchanges._clock.sleep = noted  # type: ignore[method-assign]
                again = await post(proxy.url, PATH, BODY)
                assert again.chunks == first.chunks
                assert len(sleeps) == (2 if paced else 0)
                if paced:
                    assert sleeps[1] - sleeps[0] > 0.15
                sleeps.clear()


async def test_a_client_that_leaves_with_the_last_chunk_leaves_a_recording() -> None:
    """The OpenAI SDKs close when they have read `[DONE]`; the end of the body comes after that."""
    end = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunked(LINE, LAST, end=False))
        await end.wait()
        await talk.write(chunked())

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **STREAMS) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", PATH, body=json.dumps(BODY).encode())
            await connection.head()
            assert [await connection.chunk(), await connection.chunk()] == [LINE, LAST]
        await until(lambda: proxy.running.exchanges.waiting == 0)
        end.set()
        await kept(proxy)
        assert (await post(proxy.url, PATH, BODY)).chunks == (LINE, LAST)


async def test_one_that_breaks_off_is_no_hit_for_anybody(simulator: Simulator) -> None:
    breaks = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunked(LINE, end=False))
        await breaks.wait()
        talk.writer.transport.abort()

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **STREAMS) as proxy:
        connections = [await RawConnection.open(proxy.url) for _ in range(3)]
        for connection in connections:
            connection.send("POST", PATH, body=json.dumps(BODY).encode())
        for connection in connections:
            await connection.head()
            assert await connection.chunk() == LINE
        breaks.set()
        for connection in connections:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await connection.chunk()
            connection.close()
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert (stats["hits"], stats["misses"]) == (0, 3)


async def test_who_leaves_in_mid_stream_is_counted_as_what_it_was(simulator: Simulator) -> None:
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunked(LINE, end=False))
        await go_on.wait()

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **STREAMS) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", PATH, body=json.dumps(BODY).encode())
            await connection.head()
            assert await connection.chunk() == LINE
        await until(lambda: "LEFT" in proxy.log.getvalue())
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert (stats["hits"], stats["misses"], stats["bypasses"]) == (0, 1, 0)
        assert list(stats["byModel"]) == ["tiny:latest"]
        go_on.set()


async def test_max_age_does_not_join_a_stream_that_may_have_begun_long_ago(simulator: Simulator) -> None:
    simulator.gate.close()
    async with proxy_before(simulator.url, **STREAMS) as proxy:
        first = asyncio.create_task(post(proxy.url, PATH, BODY))
        await simulator.arrived(1)
        second = asyncio.create_task(post(proxy.url, PATH, BODY, Cache_Control="max-age=1"))
        await simulator.arrived(2)
        simulator.gate.open()
        assert [(await task).field("X-Cache") for task in (first, second)] == ["MISS", "MISS"]


async def test_one_that_does_not_read_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is kept, the slowest reader sets the pace, but only while it reads."""
    monkeypatch.setattr("ollama_cache_proxy.core.flights.PATIENCE", 0.5)
    count, begins = 400, asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await begins.wait()
        await talk.write(HEAD)
        for _ in range(count):
            await talk.write(chunked(LINE * 1000, end=False))
        await talk.write(chunked(LAST))

    async with byte_upstream(script) as upstream:
        async with proxy_before(upstream.url, **STREAMS, max_entry_bytes=50_000) as proxy:
            async with await RawConnection.open(proxy.url) as stalled, await RawConnection.open(proxy.url) as reader:
                stalled.reader._limit = 1000
                for number, connection in enumerate((stalled, reader), 1):
                    connection.send("POST", PATH, body=json.dumps(BODY).encode())
                    await until(lambda: proxy.running.exchanges.waiting == number)  # noqa: B023
                begins.set()
                answer = await asyncio.wait_for(reader.answer(), 30)
                assert len(answer.body) == count * 1000 * len(LINE) + len(LAST)
                assert len(upstream.seen) == 1
