"""Chunks that skip the parser stay in order, and a body that the parser cannot read breaks off."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp.client_proto import ResponseHandler

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.policy.chunked import LAST, framed
from ollama_cache_proxy.upstream.connections import Connection
from ollama_cache_proxy.upstream.ollama_server import _Response
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.upstream import Conversation, byte_upstream
from tests.support.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport to read from; nothing is written."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError

    def close(self) -> None:
        """Nothing is open."""

    def pause_reading(self) -> None:
        """Do nothing: the test feeds the data."""

    def resume_reading(self) -> None:
        """Do nothing: the test feeds the data."""


async def response_over(connection: Connection, *came: bytes) -> _Response:
    connection.connection_made(Wire())
    connection.set_response_params(read_until_eof=True, auto_decompress=False)
    for data in came:
        connection.data_received(data)
    message, content = await connection.read()
    return _Response(message, content, connection)


@pytest.mark.parametrize("full_at", range(1, 7))
@pytest.mark.parametrize("before", range(4))
async def test_chunks_keep_their_order_when_take_refuses_more_at_any_point(full_at: int, before: int) -> None:
    chunks = [framed(b"%d" % number) for number in range(6)]
    connection = Connection(asyncio.get_running_loop())
    response = await response_over(connection, HEAD, *chunks[:before])
    taken: list[bytes] = []
    room = True

    def take(chunk: bytes, framed: bytes | None) -> bool:
        nonlocal room
        assert room
        taken.append(chunk)
        room = len(taken) != full_at
        return room

    pouring = asyncio.ensure_future(response.relay(take))
    await asyncio.sleep(0)
    for data in [*chunks[before:], b"0\r\n\r\n"]:  # without a turn of the event loop for the reader
        connection.data_received(data)
    while not await asyncio.wait_for(pouring, 5):
        room = True
        pouring = asyncio.ensure_future(response.relay(take))
    assert taken == [b"%d" % number for number in range(6)]
    assert response.content.at_eof()


async def test_complete_chunks_are_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(asyncio.get_running_loop())
    response = await response_over(connection, HEAD + framed(b"a"))
    taken: list[tuple[bytes, bytes | None]] = []

    def take(chunk: bytes, whole: bytes | None) -> bool:
        taken.append((chunk, whole))
        return True

    pouring = asyncio.ensure_future(response.relay(take))
    await asyncio.sleep(0)
    parsed: list[bytes] = []
    parse = ResponseHandler.data_received
    monkeypatch.setattr(ResponseHandler, "data_received", lambda self, data: (parsed.append(data), parse(self, data)))
    for data in (framed(b"b"), framed(b"c") + framed(b"d") + b"1\r", b"\ne\r\n"):
        connection.data_received(data)
    assert taken == [(b"a", None), *((chunk, framed(chunk)) for chunk in (b"b", b"c", b"d"))]
    assert parsed == [b"1\r", b"\ne\r\n"]
    await until(lambda: len(taken) == 5)
    for data in (framed(b"f"), framed(b"g" * 70_000), LAST):
        connection.data_received(data)
    assert await asyncio.wait_for(pouring, 5)
    assert taken[4:] == [(b"e", None), *((chunk, framed(chunk)) for chunk in (b"f", b"g" * 70_000))]
    assert parsed[2:] == [LAST]


async def test_after_a_refusal_the_rest_of_the_read_is_kept_for_the_next_call() -> None:
    connection = Connection(asyncio.get_running_loop())
    response = await response_over(connection, HEAD)
    taken: list[bytes] = []
    pouring = asyncio.ensure_future(response.relay(lambda chunk, whole: taken.append(chunk) or len(taken) != 2))
    await asyncio.sleep(0)
    connection.data_received(b"".join(map(framed, (b"a", b"b", b"c", b"d"))) + b"1\r\n")
    assert taken == [b"a", b"b"]
    assert not await asyncio.wait_for(pouring, 5)
    connection.data_received(b"e\r\n" + LAST)
    assert await asyncio.wait_for(response.relay(lambda chunk, whole: taken.append(chunk) or True), 5)
    assert taken == [b"a", b"b", b"c", b"d", b"e"]


async def test_a_cancelled_reader_is_ignored() -> None:
    connection = Connection(asyncio.get_running_loop())
    response = await response_over(connection, HEAD)
    pouring = asyncio.ensure_future(response.relay(lambda chunk, framed: False))
    await asyncio.sleep(0)
    pouring.cancel()
    connection.data_received(framed(b"a"))  # in the same turn
    connection.data_received(framed(b"b"))
    with pytest.raises(asyncio.CancelledError):
        await pouring


# Invalid framing in the middle of a body: its reader once waited without end.


@pytest.mark.parametrize("way", ["pour", "chunks"])
@pytest.mark.parametrize("before", [b"", framed(b"a")])
@pytest.mark.parametrize("nonsense", [b"zz\r\nhello\r\n", b"5\r\nhelloX", b"5\r\nhello\r\n0\r\n: y\r\n"])
async def test_a_body_with_invalid_framing_breaks_off(nonsense: bytes, before: bytes, way: str) -> None:
    connection = Connection(asyncio.get_running_loop())
    response = await response_over(connection, HEAD + before)
    taken: list[bytes] = []

    async def read() -> None:
        if way == "pour":
            await response.relay(lambda chunk, whole: taken.append(chunk) or True)
        else:
            taken.extend([chunk async for chunk in response.chunks()])

    reading = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    connection.data_received(nonsense)
    with pytest.raises(ProxyError):
        await asyncio.wait_for(reading, 5)


async def test_a_body_that_ends_with_its_connection_is_complete() -> None:
    connection = Connection(asyncio.get_running_loop())
    response = await response_over(connection, b"HTTP/1.1 200 OK\r\n\r\nhello")
    connection.connection_lost(None)
    assert [chunk async for chunk in response.chunks()] == [b"hello"]


@pytest.mark.parametrize("path", ["/x", "/api/show", "/api/generate"])
async def test_a_client_does_not_wait_for_a_body_with_invalid_framing(path: str) -> None:
    over = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + framed(b"{")
        )
        await asyncio.sleep(0.05)
        await talk.write(b"zz\r\n}\r\n")
        await over.wait()

    body = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        try:
            response = await asyncio.wait_for(ask(proxy.url, "POST", path, body=body), 5)
        except (ConnectionResetError, asyncio.IncompleteReadError):
            assert path != "/api/generate"
        else:
            assert (response.status, path) == (502, "/api/generate")
        finally:
            over.set()
