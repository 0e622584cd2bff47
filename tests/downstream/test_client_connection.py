"""How a connection carries out its gate's steps with sockets and timers; the gate itself is tested in test_gate.py."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from ollama_cache_proxy.downstream import client_connection
from ollama_cache_proxy.downstream.client_connection import KEEP_OPEN, ClientConnection
from ollama_cache_proxy.downstream.gate import Phase
from ollama_cache_proxy.downstream.refusals import BAD_REQUEST, FULL, TIMEOUT
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.upstream import answering, byte_upstream, whole
from tests.support.waiting import until

HEAD = b"POST /known HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
KNOWN, STORED, NEW = (HEAD + body for body in (b"hello", b"store", b"other"))
RESPONSE, FOUND, SERVED = (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body for body in (b"r", b"f", b"s"))


class Wire(asyncio.Transport):
    """A transport that records what was sent, and whether reading is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.reads = True
        self.closed = self.aborted = False
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class Owner:
    """A listener whose fast path knows two requests; others are served immediately."""

    def __init__(self) -> None:
        self.fast_path: Any = self
        self.clock: Any = self
        self.now = 1000.0
        self.head_timeout, self.body_timeout = 60.0, 60.0
        self.keep_alive: float | None = None
        self.idle_ends = 0
        self.draining = False
        self.room = True
        self.count = 0
        self.working: set[object] = set()
        self.failures: list[str] = []
        self.store: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.served: list[bytes] = []

    def monotonic(self) -> float:
        return self.now

    def answer(self, raw: bytes) -> Any:
        return {KNOWN: RESPONSE, STORED: self.store}.get(raw)

    def first(self, data: bytes) -> tuple[int, bool]:
        return (len(KNOWN), True) if data.startswith((KNOWN[:-5], STORED[:-5])) else (0, False)

    def knows_head(self, data: bytes) -> bool:
        return data == HEAD

    def track(self, work: object) -> None:
        self.working.add(work)

    def untrack(self, work: object) -> None:
        self.working.discard(work)

    def opened(self, _: object) -> bool:
        self.count += self.room
        return self.room

    def closed(self, _: object) -> None:
        self.count -= 1

    def timed_out(self) -> None:
        self.idle_ends += 1

    def failed(self, error: str, /) -> None:
        self.failures.append(error)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection, transport = request.protocol, request.transport
        assert isinstance(connection, ClientConnection)
        assert transport is not None
        self.served.append(await request.content.read())
        transport.write(SERVED)
        connection.responded()
        return KEEP_OPEN


@pytest.fixture
async def owner() -> Owner:
    return Owner()


@pytest.fixture
async def connect(owner: Owner) -> AsyncIterator[Callable[[], tuple[ClientConnection, Wire]]]:
    server = web.Server(owner.serve, handler_cancellation=True)
    made: list[ClientConnection] = []

    def connect() -> tuple[ClientConnection, Wire]:
        connection, wire = ClientConnection(owner, server, asyncio.get_running_loop()), Wire()
        made.append(connection)
        connection.connection_made(wire)
        return connection, wire

    yield connect
    for connection in made:
        connection.connection_lost(None)
    await asyncio.sleep(0)
    assert owner.count == 0
    assert not owner.working


Connect = Callable[[], tuple[ClientConnection, Wire]]


async def test_a_known_request_is_answered_before_the_parser_and_counts_as_use(owner: Owner, connect: Connect) -> None:
    connection, wire = connect()
    for owner.now in (2000.0, 3000.0):
        connection.data_received(KNOWN)
        assert connection._next_keepalive_close_time == owner.now + client_connection._NEVER
    assert wire.sent == [RESPONSE, RESPONSE]
    assert owner.served == []


async def test_a_held_head_is_released_after_a_while(
    owner: Owner, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "_HOLD_SECONDS", 0.005)
    connection, wire = connect()
    connection.data_received(HEAD)
    connection.data_received(b"hello")
    assert wire.sent == [RESPONSE]
    await asyncio.sleep(0.02)
    connection.data_received(HEAD)
    assert connection.gate.phase is Phase.HELD
    await until(lambda: connection.gate.phase is Phase.PARSED)
    connection.data_received(b"hello")
    await until(lambda: owner.served == [b"hello"])


async def test_nothing_is_released_of_a_client_that_has_left(owner: Owner, connect: Connect) -> None:
    connection, _ = connect()
    connection.data_received(HEAD)
    timer = connection._release_timer
    assert timer is not None
    connection.connection_lost(None)
    assert timer.cancelled()


@pytest.mark.parametrize("found", [FOUND, None, OSError()])
async def test_data_that_arrives_during_a_lookup_waits_for_its_end(
    found: bytes | OSError | None, owner: Owner, connect: Connect
) -> None:
    connection, wire = connect()
    connection.data_received(STORED)
    assert owner.working == {connection}
    connection.data_received(NEW)
    assert not wire.reads
    if isinstance(found, OSError):
        owner.store.set_exception(found)
    else:
        owner.store.set_result(found)
    await until(lambda: len(wire.sent) == 2)
    assert wire.reads
    assert wire.sent == [FOUND if found == FOUND else SERVED, SERVED]
    assert owner.working == set()


async def test_a_lookup_ends_with_its_connection(owner: Owner, connect: Connect) -> None:
    connection, wire = connect()
    connection.data_received(STORED)
    connection.connection_lost(None)
    await until(lambda: not owner.working)
    assert owner.store.cancelled()
    assert wire.sent == []


@pytest.mark.parametrize("why", ["draining", "congested", "closing"])
async def test_a_known_request_is_parsed_if_its_response_cannot_be_written_now(
    why: str, owner: Owner, connect: Connect
) -> None:
    connection, wire = connect()
    await asyncio.sleep(0)
    if why == "draining":
        owner.draining = True
    elif why == "congested":
        connection.pause_writing()
    else:
        connection.close()
    connection.data_received(KNOWN)
    if why == "closing":
        await asyncio.sleep(0.02)
    else:
        await until(lambda: wire.sent)
    assert wire.sent == ([] if why == "closing" else [SERVED])
    if why == "congested":
        connection.resume_writing()
        connection.data_received(KNOWN)
        assert wire.sent == [SERVED, RESPONSE]


async def test_reading_is_resumed_only_where_it_was_paused(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[bytes] = []
    connection, wire = connect()
    connection.data_received(HEAD)
    connection.data_received(b"o")
    monkeypatch.setattr(web.RequestHandler, "data_received", lambda self, data: fed.append(data))
    connection.resume_reading()
    assert fed == []
    connection.pause_reading()
    assert not wire.reads
    connection.resume_reading()
    connection.resume_reading()
    assert wire.reads
    assert fed == [b""]


async def test_a_connection_above_the_limit_gets_a_503_and_is_not_counted(owner: Owner, connect: Connect) -> None:
    owner.room = False
    _, wire = connect()
    assert (wire.sent, wire.closed) == ([FULL], True)


@pytest.mark.parametrize("came", [b"", HEAD[:-1], KNOWN + b"G", NEW + b"G", NEW[:-1]])
async def test_only_a_head_has_a_deadline_and_a_partial_one_gets_a_408(
    came: bytes, owner: Owner, connect: Connect
) -> None:
    owner.head_timeout = 0.01
    connection, wire = connect()
    if came:
        connection.data_received(came)
    begun = {HEAD[:-1]: [TIMEOUT], KNOWN + b"G": [RESPONSE, TIMEOUT], NEW + b"G": [SERVED, TIMEOUT]}
    expected = begun | {b"": [], NEW[:-1]: []}
    closes = came == b"" or came in begun
    await until(lambda: wire.closed == closes and wire.sent == expected[came])
    await asyncio.sleep(0.05)
    assert (wire.sent, wire.closed) == (expected[came], closes)


async def test_a_head_that_begins_on_a_connection_that_was_used_has_a_deadline_as_well(
    owner: Owner, connect: Connect
) -> None:
    owner.head_timeout = 0.01
    connection, wire = connect()
    connection.data_received(NEW)
    await until(lambda: wire.sent == [SERVED])
    await asyncio.sleep(0.05)
    assert not wire.closed
    connection.data_received(b"G")
    await until(lambda: wire.closed)
    assert wire.sent == [SERVED, TIMEOUT]


# Idleness.


async def settled(connection: ClientConnection) -> None:
    """Wait until its loop waits for a request."""
    await until(lambda: connection._waiter is not None and not connection._waiter.done())


async def test_a_new_connection_is_not_idle_before_its_client_has_had_time_to_ask(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "_ABOUT_TO_SEND", 600.0)
    connection, _ = connect()
    await settled(connection)
    opened = asyncio.get_running_loop().time()
    since = connection.idle_since()
    assert since is not None
    assert opened < since < opened + 601


@pytest.mark.parametrize("request_bytes", [KNOWN, NEW], ids=["before the parser", "parsed"])
async def test_a_connection_is_idle_since_its_last_request(
    request_bytes: bytes, owner: Owner, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "_ABOUT_TO_SEND", 600.0)
    connection, wire = connect()
    await settled(connection)
    owner.now = asyncio.get_running_loop().time()
    connection.data_received(request_bytes)
    await until(lambda: bool(wire.sent))
    await settled(connection)
    since = connection.idle_since()
    assert since is not None
    assert owner.now - 1 <= since <= asyncio.get_running_loop().time() + 1, "and not later, as for a new one"


@pytest.mark.parametrize(
    "came",
    [HEAD, HEAD[:-1], NEW[:-1], STORED, b"\r\n"],
    ids=["held head", "part of a head", "part of a body", "lookup", "empty line"],
)
async def test_a_connection_with_a_request_under_way_is_not_idle(came: bytes, owner: Owner, connect: Connect) -> None:
    connection, _ = connect()
    await settled(connection)
    connection.data_received(came)
    assert connection.idle_since() is None
    assert owner.count == 1


async def test_a_connection_is_not_idle_while_its_response_is_still_to_be_read(connect: Connect) -> None:
    connection, wire = connect()
    connection.data_received(NEW)
    await until(lambda: bool(wire.sent))
    await settled(connection)
    connection.pause_writing()
    assert connection.idle_since() is None
    connection.resume_writing()
    assert connection.idle_since() is not None


async def test_several_requests_are_served_one_after_the_other(owner: Owner, connect: Connect) -> None:
    connection, wire = connect()
    connection.data_received(NEW + NEW + KNOWN + NEW)
    await until(lambda: wire.sent == [SERVED, SERVED, RESPONSE, SERVED])
    await settled(connection)
    assert len(owner.served) == 3
    assert connection.gate.phase is Phase.BETWEEN
    assert connection.idle_since() is not None


async def test_where_a_part_of_a_head_may_be_hidden_a_connection_is_idle_later(owner: Owner, connect: Connect) -> None:
    connection, wire = connect()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
    await until(lambda: wire.sent == [SERVED, SERVED])
    await settled(connection)
    assert connection.gate.phase is Phase.PARSED
    since = connection.idle_since()
    assert since is not None
    assert since > asyncio.get_running_loop().time() + owner.head_timeout - 1


async def test_an_idle_connection_leaves_unless_something_has_arrived(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, wire = connect()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(wire, "get_extra_info", {"socket": ours}.get)
        theirs.send(b"G")
        assert not connection.leave()
        assert not wire.closed
        ours.recv(1)
        assert connection.leave()
        assert wire.closed
        assert not connection.leave(), "it has left"


@pytest.mark.parametrize("how", ["end", "end of both directions", "reset"])
async def test_an_idle_connection_whose_client_has_left_makes_room(
    how: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many clients that leave at once: the next one came before the event loop had seen them go, and was refused."""
    connection, wire = connect()
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, theirs:
        monkeypatch.setattr(wire, "get_extra_info", {"socket": ours}.get)
        if how == "end":
            theirs.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
        assert select.select([ours], [], [], 10)[0]
        assert connection.leave()
        assert wire.closed


async def test_an_idle_connection_stays_whose_client_has_asked_and_then_ended_its_side(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, wire = connect()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(wire, "get_extra_info", {"socket": ours}.get)
        theirs.send(b"G")
        theirs.shutdown(socket.SHUT_WR)
        assert not connection.leave()
        assert not wire.closed


async def test_an_idle_connection_over_tls_stays_while_anything_has_arrived(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is cannot be seen before it is decrypted."""
    connection, wire = connect()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(wire, "get_extra_info", {"socket": ours, "ssl_object": object()}.get)
        theirs.send(b"G")
        assert not connection.leave()


async def test_an_idle_connection_stays_while_its_client_has_not_read_the_last_response(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count as closed, and hold its descriptor for as long as its client likes."""
    connection, wire = connect()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        monkeypatch.setattr(wire, "get_extra_info", {"socket": ours}.get)
        wire.unsent = 1
        assert not connection.leave()
        wire.unsent, filled = 0, 0
        with suppress(BlockingIOError):
            while True:
                filled += ours.send(bytes(4096))
        assert not connection.leave()
        assert not wire.closed
        while filled:
            filled -= len(theirs.recv(65_536))
        assert connection.leave()


async def test_a_connection_over_tls_leaves_even_if_its_client_does_not_end_its_side(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "_CLOSE_WITHIN", 0.001)
    connection, wire = connect()
    monkeypatch.setattr(wire, "get_extra_info", {"ssl_object": object()}.get)
    assert connection.leave()
    await until(lambda: wire.aborted)


async def test_an_idle_connection_is_closed_after_the_time_that_is_set(
    owner: Owner, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "_ABOUT_TO_SEND", 0.0)
    monkeypatch.setattr(owner, "monotonic", time.monotonic)
    owner.keep_alive = 0.01
    connection, wire = connect()
    connection.data_received(NEW[:-1])
    await asyncio.sleep(0.05)
    assert not wire.closed, "its request is under way"
    connection.data_received(NEW[-1:])
    await until(lambda: wire.closed)
    assert wire.sent == [SERVED]
    assert owner.idle_ends == 1


async def test_a_connection_that_is_used_is_not_closed_before_its_time(
    owner: Owner, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "monotonic", time.monotonic)
    owner.keep_alive = 60.0
    connection, wire = connect()
    await settled(connection)
    connection._next_keepalive_close_time -= 59.9
    connection.data_received(KNOWN)
    connection._may_leave(60.0)
    assert (wire.closed, owner.idle_ends) == (False, 0)
    connection._next_keepalive_close_time -= 60.1
    connection._may_leave(60.0)
    assert (wire.closed, owner.idle_ends) == (True, 1)


async def test_invalid_http_gets_a_400_that_repeats_nothing_of_it(owner: Owner, connect: Connect) -> None:
    connection, wire = connect()
    connection.data_received(b"\x16\x03\x01 secret\r\n\r\n")
    await until(lambda: wire.closed)
    assert wire.sent == [BAD_REQUEST]
    assert owner.failures == []


async def test_an_aborted_connection_is_reset(connect: Connect) -> None:
    connection, wire = connect()
    connection.abort()
    assert wire.aborted
    connection.abort()


@pytest.mark.parametrize("size", [1, 1000])
async def test_the_parser_is_fed_what_comes_and_nothing_else(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    feed = web.RequestHandler.data_received

    def data_received(self: web.RequestHandler, data: bytes) -> None:
        fed.append(len(data))
        feed(self, data)

    monkeypatch.setattr(web.RequestHandler, "data_received", data_received)
    body = b"x" * size
    async with byte_upstream(answering(whole(b"{}"))) as upstream, proxy_before(upstream.url) as proxy:
        answer = await ask(proxy.url, "POST", "/anything", body=body)
        assert (answer.status, upstream.seen[0].body) == (200, body)
    assert sum(fed) > size
    assert 0 not in fed


@pytest.mark.parametrize("lines", [b"", b"User-Agent: a\r\nUser-Agent: b\r\n"], ids=["plain", "read once more"])
async def test_a_connection_that_has_ended_is_freed_without_the_garbage_collector(owner: Owner, lines: bytes) -> None:
    """Its parser, which knows the connection, was once kept beside aiohttp's own reference to it."""

    def alive() -> list[int]:
        return [id(thing) for thing in gc.get_objects() if type(thing) is ClientConnection]

    gc.collect()
    gc.disable()
    try:
        before = alive()
        server = web.Server(owner.serve, handler_cancellation=True)
        connection = ClientConnection(owner, server, asyncio.get_running_loop())
        connection.connection_made(Wire())
        connection.data_received(b"GET /x HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
        await until(lambda: bool(owner.served))
        connection.connection_lost(None)
        del connection
        await until(lambda: alive() == before)
    finally:
        gc.enable()
