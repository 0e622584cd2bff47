"""Recorded streams on the fast path: the bytes of the ordinary way, in one write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest

from ollama_cache_proxy.core import fast_notes, fast_path
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.fast_paths import Watch
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before

SETTINGS: Final[dict[str, Any]] = {"cache_streams": True, "cache_chat": "always", "cache_v1_chat": "always"}
MESSAGES: Final = [{"role": "user", "content": "why"}]
ROUTES: Final[dict[str, dict[str, Any]]] = {
    "/api/generate": {"model": "tiny", "prompt": "why"},
    "/api/chat": {"model": "tiny", "messages": MESSAGES},
    "/v1/chat/completions": {"model": "tiny", "messages": MESSAGES, "stream": True},
}
STILL: Final = Behaviour(completion_delay=0)


async def post(
    connection: RawConnection, path: str = "/api/generate", fields: Mapping[str, str] | None = None, **more: Any
) -> RawAnswer:
    connection.send("POST", path, body=json.dumps(ROUTES[path] | more).encode(), fields=fields)
    return await connection.answer()


def settled(answer: RawAnswer) -> tuple[str, tuple[tuple[str, str], ...], tuple[bytes, ...], bool]:
    """Return all of an answer but its age."""
    fields = ((name, "" if name in {"Age", "Cache-Status"} else value) for name, value in answer.fields)
    return answer.status_line, tuple(fields), answer.chunks, answer.closed


async def known(proxy: Proxy, connection: RawConnection, path: str = "/api/generate", **more: Any) -> RawAnswer:
    """Ask until the answer is a hit of the ordinary way, and return that."""
    await post(connection, path, **more)
    await proxy.kept()
    answer = await post(connection, path, **more)
    assert "; hit" in str(answer.field("Cache-Status"))
    return answer


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("unbuffered", [False, True])
async def test_the_chunks_are_those_of_the_ordinary_way(path: str, unbuffered: bool) -> None:
    settings = SETTINGS | {"unbuffered_streams": unbuffered}
    async with Simulator(STILL) as simulator, proxy_before(simulator.url, **settings) as proxy:
        watch = Watch(proxy)
        async with await RawConnection.open(proxy.url) as connection:
            ordinary = await known(proxy, connection, path)
            assert watch.taken == 0
            for number in range(1, 4):
                short = await post(connection, path)
                assert settled(short) == settled(ordinary)
                assert watch.taken == number
        assert len(ordinary.chunks) > 2
        assert (ordinary.field("X-Accel-Buffering") == "no") is unbuffered


async def test_a_stream_in_other_bytes_and_with_another_trace_is_known() -> None:
    async with Simulator(STILL) as simulator, proxy_before(simulator.url, **SETTINGS) as proxy:
        watch = Watch(proxy)
        async with await RawConnection.open(proxy.url) as connection:
            ordinary = await known(proxy, connection, stream=True)
            again = await post(connection, fields={"X-Request-Id": "7"}, stream=True, keep_alive="1h")
        assert settled(again) == settled(ordinary)
        assert watch.taken == 1


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"stream_pace": "recorded"}, {}),
        ({"line_pace_for": ["generate"]}, {}),
        ({"line_pace_for": ["agent:node"]}, {"User-Agent": "node"}),
    ],
    ids=["recorded", "lines", "lines for a client"],
)
async def test_a_stream_with_pauses_takes_its_time(settings: dict[str, Any], fields: dict[str, str]) -> None:
    async with Simulator(STILL) as simulator, proxy_before(simulator.url, **SETTINGS, **settings) as proxy:
        watch = Watch(proxy)
        async with await RawConnection.open(proxy.url) as connection:
            await known(proxy, connection)
            for _ in range(3):
                assert (await post(connection, fields=fields)).chunks
            taken = watch.taken
            if fields:
                await post(connection)
                await post(connection, fields=fields)
        assert (taken, watch.taken) == (0, 1 if fields else 0)


async def test_a_stream_of_many_chunks_is_sent_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_MOST_CHUNKS", 2)
    async with Simulator(STILL) as simulator, proxy_before(simulator.url, **SETTINGS) as proxy:
        watch = Watch(proxy)
        async with await RawConnection.open(proxy.url) as connection:
            await known(proxy, connection)
            await post(connection)
        assert watch.taken == 0


async def test_the_framed_bodies_are_part_of_what_notes_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "CAPACITY", 20_000)
    async with Simulator(STILL) as simulator, proxy_before(simulator.url, **SETTINGS) as proxy:
        real = Watch(proxy).real
        async with await RawConnection.open(proxy.url) as connection:
            for number in range(12):
                await known(proxy, connection, prompt=f"question {number}")
                assert real._size == sum(note.size for note in real._all) <= 20_000
        assert all(note.size == fast_notes.NOTE_BYTES + len(note.body) for note in real._all)
        assert all(note.body.endswith(b"\r\n0\r\n\r\n") for note in real._all)


async def test_each_has_a_first_token_in_the_metrics() -> None:
    async with Simulator(STILL) as simulator, proxy_before(simulator.url, **SETTINGS) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            for _ in range(5):
                await known(proxy, connection)
        proxy.running.exchanges.fast_path.report()
        metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
    count = 'time_to_first_token_seconds_count{cache="hit",endpoint="generate"} 9.0'
    assert f"ollama_cache_proxy_{count}" in metrics


async def test_those_that_this_process_never_sent_come_from_the_store(redis_server: RedisServer) -> None:
    settings = SETTINGS | {"redis_url": redis_server.url, "hot_bytes": 0}
    prompts = [f"question {number}" for number in range(20)]
    async with Simulator(STILL) as simulator:
        async with proxy_before(simulator.url, **settings) as proxy, await RawConnection.open(proxy.url) as connection:
            ordinary = [await known(proxy, connection, prompt=prompt) for prompt in prompts]
        async with proxy_before(simulator.url, **settings) as proxy:
            watch = Watch(proxy)
            async with await RawConnection.open(proxy.url) as connection:
                short = [await post(connection, prompt=prompt) for prompt in prompts]
            assert list(map(settled, short)) == list(map(settled, ordinary))
            assert watch.taken >= 10
