"""What happens at the bounds: nothing is refused that can be passed on, and what is refused is told so."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from typing import Any

import pytest

from ollama_cache_proxy.core.questions import Question
from ollama_cache_proxy.core.store_ports import Entries
from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer, ask, request_bytes
from tests.support.servers import RedisServer, proxy_before
from tests.support.upstream import Conversation, answering, byte_upstream, whole
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}
FULL = "ollama-cache-proxy; fwd=bypass; detail=buffers-full"
KB = 1000


async def post(url: str, body: dict[str, Any], path: str = "/api/generate") -> RawAnswer:
    return await ask(url, "POST", path, body=json.dumps(body).encode())


def completion(size: int) -> bytes:
    return json.dumps({"model": "tiny", "response": "x" * size, "done": True, "done_reason": "stop"}).encode()


async def test_a_request_without_room_is_streamed_on_whole_and_others_go_on() -> None:
    async with byte_upstream(answering(whole(completion(10)))) as upstream:
        async with proxy_before(upstream.url, max_buffered_bytes=200 * KB) as proxy:
            assert (await post(proxy.url, GENERATE)).field("X-Cache") == "MISS"
            large = GENERATE | {"prompt": "x" * 300 * KB}
            for _ in range(2):
                answer = await post(proxy.url, large)
                assert (answer.status, answer.field("Cache-Status")) == (200, FULL)
                assert upstream.seen[-1].body == json.dumps(large).encode()
            assert (await post(proxy.url, GENERATE)).field("X-Cache") == "HIT"
            for seed in range(5):  # all is given back each time, or the second would find no room
                kept = GENERATE | {"prompt": "y" * 100 * KB, "options": {"seed": seed}}
                assert [(await post(proxy.url, kept)).field("X-Cache") for _ in range(2)] == ["MISS", "HIT"]


async def test_small_values_count_for_the_memory_that_they_take() -> None:
    """40 KB of empty lists are megabytes of objects."""
    async with byte_upstream(answering(whole(completion(10)))) as upstream:
        async with proxy_before(upstream.url, max_buffered_bytes=200 * KB) as proxy:
            nested = GENERATE | {"context": [[]] * 20 * KB}
            assert (await post(proxy.url, nested)).field("Cache-Status") == FULL
            assert upstream.seen[-1].body == json.dumps(nested).encode()


async def test_an_answer_without_room_is_relayed_whole_and_not_kept() -> None:
    body = completion(300 * KB)
    async with byte_upstream(answering(whole(body))) as upstream:
        async with proxy_before(upstream.url, max_buffered_bytes=200 * KB) as proxy:
            for _ in range(3):
                answer = await post(proxy.url, GENERATE)
                assert answer.body == body
                assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=buffers-full"
            assert len(upstream.seen) == 3


async def test_a_stream_without_room_is_relayed_and_its_recording_dropped() -> None:
    lines = b"".join(b'{"model":"tiny","response":"%b","done":false}\n' % (b"x" * 1000) for _ in range(300))
    lines += b'{"model":"tiny","response":"","done":true,"done_reason":"stop"}\n'
    stream = whole(lines, kind="application/x-ndjson")
    async with byte_upstream(answering(stream)) as upstream:
        async with proxy_before(upstream.url, max_buffered_bytes=200 * KB, cache_streams=True) as proxy:
            for _ in range(2):
                assert (await post(proxy.url, GENERATE | {"stream": True})).body == lines
            metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
    assert [line for line in metrics.splitlines() if "unkept" in line and 'detail="buffers-full"' in line]
    assert len(upstream.seen) == 2


async def test_a_large_hit_without_room_is_asked_of_ollama_and_a_small_one_is_answered(
    redis_server: RedisServer,
) -> None:
    async def script(talk: Conversation) -> None:
        size = int(json.loads(await talk.read_body())["prompt"])
        await talk.write(whole(completion(size)))

    async with byte_upstream(script) as upstream:
        for settings, large, small in (({}, "MISS", "MISS"), ({"max_buffered_bytes": 100 * KB}, "BYPASS", "HIT")):
            async with proxy_before(upstream.url, redis_url=redis_server.url, **settings) as proxy:
                answers = [await post(proxy.url, GENERATE | {"prompt": str(size)}) for size in (300 * KB, 10)]
                assert [answer.field("X-Cache") for answer in answers] == [large, small]
                assert answers[0].body == completion(300 * KB)
                body = json.dumps(GENERATE | {"prompt": str(300 * KB)}).encode()
                wish = {"Cache-Control": "only-if-cached"}
                answer = await ask(proxy.url, "POST", "/api/generate", body=body, fields=wish)
                assert answer.field("X-Cache") == "HIT", "Ollama is not to be asked"
        assert answers[0].field("Cache-Status") == FULL


async def test_who_shares_an_answer_and_finds_no_room_for_it_asks_for_itself() -> None:
    """The first one reads nothing, so its 8 MB stay in memory."""
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await go_on.wait()
        await talk.write(whole(completion(8000 * KB)))

    bounds = {"max_buffered_bytes": 20_000 * KB, "max_entry_bytes": 20_000 * KB}
    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **bounds) as proxy:
        with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as slow:
            slow.sendall(request_bytes("POST", "/api/generate", host="localhost", body=json.dumps(GENERATE).encode()))
            await until(lambda: proxy.running.exchanges.waiting == 1)
            asking = asyncio.create_task(post(proxy.url, GENERATE))
            await until(lambda: proxy.running.exchanges.waiting == 2)
            go_on.set()
            answer = await asking
        assert answer.body == completion(8000 * KB)
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=buffers-full"
        assert len(upstream.seen) == 2


async def test_misses_of_a_model_past_their_bound_are_told_to_come_again(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, max_misses=1) as proxy:
        assert (await post(proxy.url, GENERATE | {"prompt": "known"})).field("X-Cache") == "MISS"
        simulator.gate.close()
        first = asyncio.create_task(post(proxy.url, GENERATE))
        await until(lambda: proxy.running.exchanges.waiting == 1)
        equal = asyncio.create_task(post(proxy.url, GENERATE))
        await until(lambda: proxy.running.exchanges.waiting == 2)
        refused = await post(proxy.url, GENERATE | {"prompt": "other"})
        assert (refused.status, refused.field("Retry-After"), refused.field("X-Cache")) == (503, "1", "BYPASS")
        assert refused.field("Cache-Status") == "ollama-cache-proxy; detail=busy"
        assert json.loads(refused.body) == {"error": "1 requests for this model are in flight (max_misses)"}
        assert (await post(proxy.url, GENERATE | {"prompt": "known"})).field("X-Cache") == "HIT"
        elsewhere = asyncio.create_task(post(proxy.url, {"model": "all-minilm", "input": "a"}, "/api/embed"))
        await until(lambda: proxy.running.exchanges.waiting == 3)
        simulator.gate.open()
        assert [(await task).status for task in (first, equal, elsewhere)] == [200, 200, 200]
        assert (await post(proxy.url, GENERATE | {"prompt": "other"})).field("X-Cache") == "MISS"


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_miss_that_ends_badly_makes_room_for_the_next(leaves: bool, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, max_misses=1) as proxy:
        await post(proxy.url, GENERATE | {"prompt": "known"})
        simulator.gate.close()
        asking = asyncio.create_task(post(proxy.url, GENERATE))
        await until(lambda: proxy.running.exchanges.waiting == 1)
        if leaves:
            asking.cancel()
        else:
            await simulator.stop()
        await asyncio.wait([asking])
        await until(lambda: proxy.running.exchanges.waiting == 0)
        simulator.gate.open()
        answer = await post(proxy.url, GENERATE | {"prompt": "next"})
        assert answer.status == (200 if leaves else 502), "and not 503"


async def test_an_answer_on_its_way_to_the_store_takes_no_miss_s_place(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy_before(simulator.url, max_misses=1) as proxy:
        put, written = proxy.running.store.put, asyncio.Event()

        async def slowly(entries: Entries, generation: str) -> bool:
            await written.wait()
            return await put(entries, generation)

        monkeypatch.setattr(proxy.running.store, "put", slowly)
        answers = [await post(proxy.url, GENERATE | {"prompt": text}) for text in ("one", "another", "one")]
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert answers[2].field("Cache-Status") == "ollama-cache-proxy; fwd=miss; collapsed"
        written.set()


async def test_nothing_is_left_of_a_question_that_is_answered_and_kept(simulator: Simulator) -> None:
    """Its answer waits to be confirmed by the next look at the models, which is no reason to hold what was asked."""
    async with proxy_before(simulator.url) as proxy:
        for path, body in (("/api/generate", GENERATE), ("/api/embed", {"model": "all-minilm", "input": ["a", "b"]})):
            assert (await post(proxy.url, body, path)).field("X-Cache") == "MISS"
        await proxy.kept()
        gc.collect()
        assert not [found for found in gc.get_objects() if isinstance(found, Question)]
