"""Clients that leave, drip, or never come back cost nobody else anything."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.downstream import client_connection
from ollama_cache_proxy.policy import crowding
from ollama_cache_proxy.service.settings import OPERATIONS, setting_of
from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask, request_bytes
from tests.support.servers import Proxy, proxy_before
from tests.support.tls import CERTIFICATE, KEY, trusting
from tests.support.upstream import Conversation, byte_upstream
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": canary.PROMPT}], "stream": False}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": [canary.PROMPT, "b"]}
EVERYTHING: dict[str, Any] = {"cache_streams": True} | {setting_of(operation): "always" for operation in OPERATIONS}
settings = pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["defaults", "everything"])


async def post(proxy: Proxy, path: str, body: Any) -> RawAnswer:
    return await ask(proxy.url, "POST", path, body=json.dumps(body).encode())


def prompted(body: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Put another prompt into a question of any kind."""
    if "messages" in body:
        return body | {"messages": [{"role": "user", "content": prompt}]}
    return body | ({"input": [prompt]} if "input" in body else {"prompt": prompt})


def leave(connection: RawConnection, *, reset: bool) -> None:
    """Close, or vanish as a killed client does."""
    if reset:
        linger = struct.pack("ii", 1, 0)
        connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.writer.transport.abort()
    else:
        connection.close()


# Row 17: a client leaves.

LEFT: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", GENERATE),
    ("/api/generate", GENERATE | {"stream": True}),
    ("/api/chat", CHAT),
    ("/api/chat", CHAT | {"stream": True}),
    ("/v1/completions", {"model": "tiny", "prompt": canary.PROMPT, "stream": True}),
]


class Patient:
    """An upstream that begins a stream where one is asked for, then says nothing until it is left."""

    def __init__(self) -> None:
        self.begun = 0
        self.left_at: list[float] = []

    async def __call__(self, talk: Conversation) -> None:
        if b'"stream": true' in await talk.read_body():
            await talk.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        self.begun += 1
        try:
            await talk.reader.read()
        finally:
            self.left_at.append(time.monotonic())
        raise ConnectionResetError

    @property
    def open(self) -> int:
        return self.begun - len(self.left_at)


def files() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.row(17)
@settings
async def test_ollama_is_told_at_once_that_a_client_has_left(settings: dict[str, Any], measured: Measured) -> None:
    """50 clients that leave in the middle, by closing and by vanishing."""
    patient = Patient()
    async with byte_upstream(patient) as upstream, proxy_before(upstream.url, **settings) as proxy:
        before = None
        for number in range(55):
            path, body = LEFT[number % len(LEFT)]
            connection = await RawConnection.open(proxy.url)
            connection.send("POST", path, body=json.dumps(prompted(body, f"{canary.PROMPT} {number}")).encode())
            if body.get("stream"):
                await connection.head()
                await connection.chunk()
            await until(lambda: patient.open == 1)
            left_at = time.monotonic()
            leave(connection, reset=number % 2 == 1)
            await until(lambda: patient.open == 0)
            measured(17, "cancel", (patient.left_at[-1] - left_at) * 1000)
            if number == 4:  # what stays open, to ask for the models, is open now
                before = files()
        assert before is not None
        await settled(lambda: files() <= before)
        measured(17, "leaked", max(0, files() - before))


async def settled(condition: Callable[[], bool]) -> None:
    """Wait for what is to become so in a moment; whether it did is the caller's to see."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0.01)


@pytest.mark.row(17)
@settings
async def test_ollama_is_told_when_the_last_of_several_has_left(settings: dict[str, Any], measured: Measured) -> None:
    patient = Patient()
    async with byte_upstream(patient) as upstream, proxy_before(upstream.url, **settings) as proxy:
        for number in range(5):
            data = json.dumps(GENERATE | {"prompt": f"{canary.PROMPT} {number}"}).encode()
            connections = [await RawConnection.open(proxy.url) for _ in range(5)]
            for connection in connections:
                connection.send("POST", "/api/generate", body=data)
            await until(lambda: proxy.running.exchanges.waiting == 5)
            await until(lambda: patient.open == 1)
            for connection in connections[:-1]:
                leave(connection, reset=False)
            await until(lambda: proxy.running.exchanges.waiting == 1)
            assert patient.open == 1
            left_at = time.monotonic()
            leave(connections[-1], reset=False)
            await until(lambda: patient.open == 0)
            measured(17, "cancel", (patient.left_at[-1] - left_at) * 1000)


@pytest.mark.row(17)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", EMBED),
        ("/api/embeddings", {"model": "all-minilm", "prompt": canary.PROMPT}),
        ("/v1/embeddings", {"model": "all-minilm", "input": canary.PROMPT}),
    ],
)
async def test_embeddings_that_nobody_waits_for_are_finished_and_kept(
    path: str, body: dict[str, Any], proxy: Proxy, simulator: Simulator
) -> None:
    simulator.gate.close()
    async with await RawConnection.open(proxy.url) as connection:
        connection.send("POST", path, body=json.dumps(body).encode())
        await simulator.arrived(1)
    await until(lambda: proxy.running.exchanges.waiting == 0)
    simulator.gate.open()
    await until(lambda: "Cached: " in proxy.log.getvalue())
    assert (await post(proxy, path, body)).field("X-Cache") == "HIT"
    assert (simulator.inferences, simulator.cancelled) == (1, 0)


@pytest.mark.row(17)
async def test_embeddings_that_nobody_waits_for_end_with_their_bound(simulator: Simulator, measured: Measured) -> None:
    async with proxy_before(simulator.url, linger=0.3) as proxy:
        simulator.gate.close()
        connection = await RawConnection.open(proxy.url)
        connection.send("POST", "/api/embed", body=json.dumps(EMBED).encode())
        await simulator.arrived(1)
        left_at = time.monotonic()
        leave(connection, reset=False)
        await asyncio.wait_for(simulator.departed(1), 10)
        seconds = time.monotonic() - left_at
        assert seconds > 0.25, "its bound was its own"
        measured(17, "cancel", (seconds - 0.3) * 1000)


# Row 18: the first of several leaves.

SHARED: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", GENERATE),
    ("/api/generate", GENERATE | {"stream": True}),
    ("/api/chat", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/responses", {"model": "tiny", "input": "why", "stream": True}),
    ("/v1/messages", CHAT | {"max_tokens": 8, "stream": True}),
    ("/api/embed", EMBED),
]


@pytest.mark.row(18)
@pytest.mark.parametrize(("path", "body"), SHARED)
@pytest.mark.parametrize("reset", [False, True], ids=["closes", "vanishes"])
async def test_the_first_of_several_equal_misses_leaves_and_the_others_have_their_answer(
    reset: bool, path: str, body: dict[str, Any], simulator: Simulator, measured: Measured
) -> None:
    """Ollama is asked once: the request was everybody's, not the first one's."""
    async with proxy_before(simulator.url, **EVERYTHING) as proxy:
        simulator.gate.close()
        first = await RawConnection.open(proxy.url)
        first.send("POST", path, body=json.dumps(body).encode())
        await simulator.arrived(1)
        others = [asyncio.create_task(post(proxy, path, body)) for _ in range(9)]
        await until(lambda: proxy.running.exchanges.waiting == 10)
        leave(first, reset=reset)
        await until(lambda: proxy.running.exchanges.waiting == 9)
        simulator.gate.open()
        answers = await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 10)
        good = [answer for answer in answers if isinstance(answer, RawAnswer) and answer.status == 200]
        measured(18, "errors", len(answers) - len(good))
        assert len({answer.body for answer in good}) == 1
        assert (simulator.inferences, simulator.cancelled) == (1, 0)
        await until(lambda: "Cached: " in proxy.log.getvalue())
        again = await post(proxy, path, body)
        assert (again.field("X-Cache"), again.body) == ("HIT", good[0].body)


@pytest.mark.row(18)
async def test_the_first_of_several_leaves_in_the_middle_of_a_stream(measured: Measured) -> None:
    """The others have all of it, what came before they joined included."""
    rest = asyncio.Event()
    pieces = [b'{"model":"tiny","response":"%d","done":false}\n' % number for number in range(9)]
    pieces.append(b'{"model":"tiny","response":"","done":true}\n')

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, piece in enumerate(pieces):
            if number == 4:
                await rest.wait()
            await talk.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await talk.write(b"0\r\n\r\n")

    body = json.dumps(GENERATE | {"stream": True}).encode()
    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **EVERYTHING) as proxy:
        first = await RawConnection.open(proxy.url)
        first.send("POST", "/api/generate", body=body)
        await first.head()
        assert [await first.chunk() for _ in range(4)] == pieces[:4]
        others = [asyncio.create_task(ask(proxy.url, "POST", "/api/generate", body=body)) for _ in range(9)]
        await until(lambda: proxy.running.exchanges.waiting == 10)
        leave(first, reset=True)
        await until(lambda: proxy.running.exchanges.waiting == 9)
        rest.set()
        answers = await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 10)
        whole = [answer for answer in answers if isinstance(answer, RawAnswer) and answer.chunks == tuple(pieces)]
        measured(18, "errors", len(answers) - len(whole))
        assert len(upstream.seen) == 1


# Row 20: slow heads.

SLOW = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + canary.PROMPT.encode() + b"a" * 1000


async def drip(connection: RawConnection, begun: float) -> float:
    """Send a byte of a head every tenth of a second; gives after how many seconds the connection was closed."""

    async def send() -> None:
        for at in range(len(SLOW)):
            connection.writer.write(SLOW[at : at + 1])
            await asyncio.sleep(0.1)

    sending = asyncio.create_task(send())
    with suppress(ConnectionError):
        await connection.reader.read()
    sending.cancel()
    connection.close()
    return time.monotonic() - begun


@pytest.mark.row(20)
async def test_300_slow_heads_hold_nobody_up_and_are_closed(simulator: Simulator, measured: Measured) -> None:
    """What comes in time puts no deadline off."""
    deadline, hits = 2.0, list[float]()
    async with proxy_before(simulator.url, head_timeout=deadline) as proxy:
        await post(proxy, "/api/generate", GENERATE)
        dripping: list[asyncio.Task[float]] = []
        for _ in range(300):
            begun = time.monotonic()
            dripping.append(asyncio.create_task(drip(await RawConnection.open(proxy.url), begun)))

        async def ask_on() -> None:
            async with await RawConnection.open(proxy.url) as connection:
                while not all(task.done() for task in dripping):
                    begun = time.monotonic()
                    connection.send("POST", "/api/generate", body=json.dumps(GENERATE).encode())
                    answer = await connection.answer()
                    hits.append((time.monotonic() - begun) * 1000)
                    assert (answer.status, answer.field("X-Cache")) == (200, "HIT")
                    await asyncio.sleep(0.005)

        await asyncio.wait_for(asyncio.gather(*(ask_on() for _ in range(4))), 30)
        ends = [await task for task in dripping]
        assert len(hits) > 100
        measured(20, "p99", sorted(hits)[len(hits) * 99 // 100])
        measured(20, "late", max(ends) - deadline)
        assert min(ends) > deadline - 0.1, "nobody was closed before"


# Row 41: clients that stay connected and say nothing more.

PLACES = 30


async def use(connection: RawConnection, path: str, body: dict[str, Any]) -> int:
    """Ask over a connection that stays open; gives the status, 0 where it was closed instead."""
    connection.send("POST", path, body=json.dumps(body).encode())
    try:
        return (await asyncio.wait_for(connection.answer(), 10)).status
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0


async def connected(proxy: Proxy, bodies: list[dict[str, Any]]) -> list[RawConnection]:
    """Connect a client for each question, which gets its answer and stays."""
    connections = [await RawConnection.open(proxy.url) for _ in bodies]
    for connection, body in zip(connections, bodies, strict=True):
        assert await use(connection, "/api/generate", body) == 200
    return connections


@pytest.mark.row(41)
async def test_idle_clients_make_room_for_new_ones_longest_idle_first(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    """Hits and misses, whole responses and streams; who waits for a response keeps the place."""
    monkeypatch.setattr(crowding, "SETTLED", 600.0)  # so that it matters nothing how long this takes
    monkeypatch.setattr(client_connection, "_ABOUT_TO_SEND", 600.0)
    async with proxy_before(simulator.url, max_connections=PLACES, **EVERYTHING) as proxy:
        waiting = [await RawConnection.open(proxy.url) for _ in range(5)]
        idle = await connected(proxy, [prompted(GENERATE, str(number % 10)) for number in range(PLACES - 5)])
        simulator.gate.close()
        for number, connection in enumerate(waiting):
            connection.send("POST", "/api/chat", body=json.dumps(prompted(CHAT, f"w{number}")).encode())
        await simulator.arrived(5)
        for number in (0, 1):  # used again: others are idle for longer now
            assert await use(idle[number], "/api/generate", prompted(GENERATE, "0")) == 200
        new = [await RawConnection.open(proxy.url) for _ in range(10)]
        statuses = [await use(connection, "/api/generate", prompted(GENERATE, "1")) for connection in new[:5]]
        statuses += [await use(connection, "/api/tags", {}) for connection in new[5:8]]
        simulator.gate.open()
        statuses += [await use(connection, "/api/chat", CHAT | {"stream": True}) for connection in new[8:]]
        measured(41, "refused", len([status for status in statuses if status in (0, 503)]))
        answers = [await asyncio.wait_for(connection.answer(), 10) for connection in waiting]
        measured(41, "cut", len([answer for answer in answers if answer.status != 200]))
        closed = [connection.reader.at_eof() for connection in idle]
        assert closed == [False] * 2 + [True] * 10 + [False] * (PLACES - 17), "those used again come last"
        for connection in idle[12:]:
            assert await use(connection, "/api/generate", prompted(GENERATE, "0")) == 200
        metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert 'ollama_cache_proxy_closed_connections_total{reason="places"} ' in metrics
        assert f"ollama_cache_proxy_connection_limit {PLACES}.0" in metrics
        assert proxy.log.getvalue().count("idle connections are closed") == 1
        for connection in (*waiting, *idle, *new):
            connection.close()


@pytest.mark.row(41)
async def test_idle_clients_over_tls_make_room_even_if_they_do_not_notice(
    simulator: Simulator, measured: Measured
) -> None:
    """They read nothing, so they do not end their side either."""

    def ask_and_stay() -> ssl.SSLSocket:
        context = trusting()
        sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="localhost")
        sock.sendall(request_bytes("GET", "/healthz", host="localhost"))
        statuses.append(int(sock.recv(65_536).split()[1]))
        return sock

    statuses: list[int] = []
    async with proxy_before(simulator.url, max_connections=5, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        clients = [await asyncio.to_thread(ask_and_stay) for _ in range(15)]
        measured(41, "refused", len([status for status in statuses if status != 200]))
        await until(lambda: proxy.running.listener.connections <= 5)
        for client in clients:
            client.close()


@pytest.mark.row(41)
async def test_clients_that_never_ask_make_room_after_a_moment(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    monkeypatch.setattr(client_connection, "_ABOUT_TO_SEND", 0.2)
    async with proxy_before(simulator.url, max_connections=PLACES) as proxy:
        silent = [await RawConnection.open(proxy.url) for _ in range(PLACES)]
        await until(lambda: proxy.running.listener.connections == PLACES)
        await asyncio.sleep(0.25)
        measured(41, "refused", (await post(proxy, "/api/generate", GENERATE)).status != 200)
        for connection in silent:
            connection.close()


@pytest.mark.row(41)
async def test_when_every_client_waits_for_a_response_nobody_is_cut_and_a_new_one_is_told(
    simulator: Simulator, measured: Measured
) -> None:
    async with proxy_before(simulator.url, max_connections=5) as proxy:
        simulator.gate.close()
        waiting = [asyncio.create_task(post(proxy, "/api/generate", prompted(GENERATE, str(at)))) for at in range(5)]
        await simulator.arrived(5)
        answer = await ask(proxy.url, "GET", "/healthz")
        assert (answer.status, answer.field("Retry-After")) == (503, "1")
        assert "Every place for clients is in use" in proxy.log.getvalue()
        simulator.gate.open()
        answers = [await task for task in waiting]
        measured(41, "cut", len([answer for answer in answers if answer.status != 200]))


async def test_an_upgrade_takes_no_place_for_longer_than_its_response(proxy: Proxy) -> None:
    """The upgrade is ignored, and what may have come behind it in the other protocol is not known: it is closed."""
    async with await RawConnection.open(proxy.url) as connection:
        fields = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "a",
            "Sec-WebSocket-Version": "13",
        }
        connection.send("GET", "/api/tags", fields=fields)
        assert (await connection.answer()).status == 200
    await until(lambda: proxy.running.listener.connections == 0)


async def test_idle_clients_leave_after_the_time_that_is_set(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, keep_alive=0.2) as proxy:
        (connection,) = await connected(proxy, [GENERATE])
        assert await asyncio.wait_for(connection.reader.read(), 10) == b""
        metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert 'ollama_cache_proxy_closed_connections_total{reason="keep-alive"} 1.0' in metrics
        connection.close()
