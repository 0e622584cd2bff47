from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator

import pytest

from ollama_cache_proxy.service.port_holder import Answer, Holder, holder_of, not_permitted, recognised, way_out
from ollama_cache_proxy.simulator import Simulator
from tests.support.neighbours import airplay, gateway, listening, look_alike, ollama
from tests.support.servers import Proxy, RedisServer, free_port, proxy_before
from tests.support.tls import CERTIFICATE, KEY

SHORT = 0.3
"""Seconds that a server which says nothing is waited for here."""


@pytest.mark.parametrize(
    ("answer", "holder"),
    [
        (gateway, Holder.GATEWAY),
        (ollama, Holder.OLLAMA),
        (airplay, Holder.AIRPLAY),
        (look_alike, Holder.UNKNOWN),
        (lambda _path: b"220 smtp.example ESMTP\r\n", Holder.UNKNOWN),
        (lambda _path: b"", Holder.UNKNOWN),
        (lambda _path: b"HTTP/1.1 abc\r\n\r\n", Holder.UNKNOWN),
        (lambda _path: b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"hitRate"', Holder.UNKNOWN),
    ],
)
async def test_who_answers(answer: Callable[[str], bytes], holder: Holder) -> None:
    async with listening(answer) as port:
        assert await asyncio.to_thread(holder_of, f"http://127.0.0.1:{port}") is holder


async def test_a_proxy_of_ours_is_known_even_in_front_of_the_gateway_s_twin(proxy: Proxy) -> None:
    assert await asyncio.to_thread(holder_of, proxy.url) is Holder.PROXY
    async with listening(gateway) as port, proxy_before(f"http://127.0.0.1:{port}") as other:
        assert await asyncio.to_thread(holder_of, other.url) is Holder.PROXY


async def test_a_proxy_whose_store_is_down_is_known(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        redis_server.kill()
        try:
            assert await asyncio.to_thread(holder_of, proxy.url) is Holder.PROXY
        finally:
            redis_server.start()


async def test_a_proxy_with_a_certificate_is_known_by_https_alone(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        assert await asyncio.to_thread(holder_of, proxy.url) is Holder.PROXY
        assert await asyncio.to_thread(holder_of, proxy.url.replace("https", "http")) is Holder.UNKNOWN


async def test_the_simulator_is_ollama(simulator: Simulator) -> None:
    assert await asyncio.to_thread(holder_of, simulator.url) is Holder.OLLAMA


def test_where_nobody_listens_there_is_no_holder() -> None:
    assert holder_of(f"http://127.0.0.1:{free_port()}") is None


async def test_a_server_that_says_nothing_is_not_waited_for_for_long() -> None:
    async with listening(lambda _path: None) as port, asyncio.timeout(20):
        assert await asyncio.to_thread(holder_of, f"http://127.0.0.1:{port}", within=SHORT) is Holder.UNKNOWN


async def test_a_server_that_never_ends_is_not_read_for_ever() -> None:
    """One that sends something now and then keeps within each timeout of a socket; the deadline is for the whole."""

    def fields(_path: str) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        yield from itertools.repeat(b"X-More: x\r\n")

    async with listening(fields) as port, asyncio.timeout(20):
        assert await asyncio.to_thread(holder_of, f"http://127.0.0.1:{port}", within=SHORT) is Holder.UNKNOWN


def test_a_port_that_accepts_nothing_more_is_not_waited_for_for_long() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        assert holder_of(url, within=SHORT) is Holder.UNKNOWN


@pytest.mark.parametrize(
    ("path", "answer", "holder"),
    [
        ("/api/cache/stats", Answer(status=200, fields={}, body=b'{"hitRate":0,"store":{}}'), Holder.PROXY),
        ("/api/cache/stats", Answer(status=503, fields={}, body=b'{"hitRate":0,"store":{}}'), None),
        ("/api/cache/stats", Answer(status=200, fields={}, body=b'["hitRate","store"]'), None),
        ("/api/cache/stats", Answer(status=200, fields={}, body=b"<html>hitRate"), None),
        ("/api/cache/stats", Answer(status=204, fields={"x-ollama-claude-gateway": "1"}, body=b""), None),
        ("/_ollama/health", Answer(status=204, fields={"x-ollama-claude-gateway": "1"}, body=b""), Holder.GATEWAY),
        ("/_ollama/health", Answer(status=204, fields={}, body=b""), None),
        ("/_ollama/health", Answer(status=200, fields={"x-ollama-claude-gateway": "1"}, body=b""), None),
        ("/", Answer(status=200, fields={}, body=b"Ollama is running"), Holder.OLLAMA),
        ("/", Answer(status=200, fields={"server": "AirTunes/1"}, body=b""), Holder.AIRPLAY),
        ("/", Answer(status=200, fields={}, body=b"Welcome to nginx"), None),
    ],
)
def test_an_answer_tells_by_what_no_other_says(path: str, answer: Answer, holder: Holder | None) -> None:
    assert recognised(path, answer) is holder


@pytest.mark.parametrize(
    ("holder", "port", "platform", "said"),
    [
        (Holder.PROXY, 11494, "linux", "another ollama-cache-proxy listens there: use or stop that one, or CHOOSE"),
        (Holder.GATEWAY, 11435, "darwin", "Ollama's macOS application has it for Claude Desktop, since 0.33: CHOOSE"),
        (Holder.OLLAMA, 11434, "linux", "Ollama itself listens there: CHOOSE, and name Ollama with --upstream"),
        (Holder.AIRPLAY, 5000, "darwin", "AirPlay Receiver of macOS has it: turn it off in System Settings, General,"),
        (Holder.UNKNOWN, 5000, "darwin", "probably AirPlay Receiver (turn it off in System Settings, General,"),
        (Holder.UNKNOWN, 7000, "darwin", "probably AirPlay Receiver (turn it off in System Settings, General,"),
        (Holder.UNKNOWN, 5000, "linux", "another program listens there; `ss -ltnp sport = :5000` shows what has it"),
        (Holder.UNKNOWN, 11435, "darwin", "probably Ollama's macOS application, which has it for Claude Desktop"),
        (Holder.UNKNOWN, 11435, "linux", "probably a second Ollama, or a proxy in front of one, such as NemoClaw's"),
        (Holder.UNKNOWN, 11434, "win32", "probably Ollama itself; `netstat -ano | findstr :11434` shows what has it"),
        (Holder.UNKNOWN, 8080, "darwin", "another program listens there; `lsof -nP -iTCP:8080 -sTCP:LISTEN` shows"),
        (None, 8080, "freebsd14", "another program listens there; `ss -ltnp sport = :8080` shows what has it: CHOOSE"),
    ],
)
def test_the_way_out_by_holder_port_and_platform(holder: Holder | None, port: int, platform: str, said: str) -> None:
    text = way_out(holder, port, platform, "CHOOSE")
    assert text.startswith(said)
    assert "CHOOSE" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("port", "platform", "said"),
    [(80, "linux", "below 1024"), (5000, "linux", "this user"), (50_000, "win32", "excludedportrange")],
)
def test_a_port_that_may_not_be_bound(port: int, platform: str, said: str) -> None:
    assert said in not_permitted(port, platform)
