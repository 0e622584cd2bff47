"""How the simulator reads requests. What a real Ollama makes of them: tests/e2e/wire/test_reads.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp.streams import EMPTY_PAYLOAD

from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.simulator.goreader import REFUSAL, GoReader, expects_continue
from tests.e2e.wire.reads import NEXT, REQUESTS
from tests.support.rawhttp import RawAnswer, RawConnection

BODY = b'{"model":"tiny","prompt":"why","stream":false}'
TYPES = "Content-Type: application/json\r\nContent-type: text/plain\r\n"
AGENTS = "User-Agent: a\r\nX: 1\r\nUser-Agent: b\r\n"
LENGTH = f"Content-Length: {len(BODY)}\r\n"


@pytest.fixture(params=["0.24", "0.33"])
async def simulator(request: pytest.FixtureRequest) -> AsyncIterator[Simulator]:
    async with Simulator(Behaviour(completion_delay=0, release=request.param)) as running:
        yield running


async def answers(simulator: Simulator, *requests: tuple[bytes, ...]) -> list[RawAnswer]:
    """Send requests over one connection, in these pieces, each after the response to the one before."""
    found = []
    async with await RawConnection.open(simulator.url) as connection:
        for pieces in requests:
            for piece in pieces:
                connection.writer.write(piece)
                await connection.writer.drain()
            found.append(await connection.answer())
    return found


H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"


def head(fields: str, line: str = "POST /api/generate") -> bytes:
    return f"{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode()


@pytest.mark.parametrize(
    "fields",
    [
        TYPES,
        AGENTS,
        LENGTH,
        TYPES + AGENTS,
        H2C,
        "Sec-WebSocket-Key1: x\r\n",
        "Server: a\r\nServer: b\r\nETag: c\r\nETag: d\r\n",
    ],
)
async def test_what_ollama_takes_twice_is_taken_on_each_request_of_a_connection(
    fields: str, simulator: Simulator
) -> None:
    data = head(fields + LENGTH)
    whole, cut, none = (
        (data + BODY,),
        (data, BODY[:9], BODY[9:]),
        (head(fields.replace(LENGTH, ""), "GET /api/version"),),
    )
    assert [answer.status for answer in await answers(simulator, whole, cut, none, whole)] == [200] * 4
    first = simulator.received[0]
    sent = [line.partition(": ")[::2] for line in fields.splitlines()]
    assert [(name.decode(), value.decode()) for name, value in first.fields][1:-1] == sent
    assert first.body == simulator.received[1].body == BODY


@pytest.mark.parametrize("fields", ["Host: localhost\r\n" + LENGTH, LENGTH + "Content-Length: 1\r\n"])
async def test_what_ollama_refuses_is_refused(fields: str, simulator: Simulator) -> None:
    (answer,) = await answers(simulator, (head(fields) + BODY,))
    assert (answer.status, simulator.received) == (400, [])


async def test_a_body_that_looks_like_a_head_is_left_alone(simulator: Simulator) -> None:
    body = head(TYPES)
    data = head(f"Content-Length: {len(body)}\r\n")
    chunked = head("Transfer-Encoding: chunked\r\n") + b"%x\r\n" % len(body)
    first, again = await answers(simulator, (data, body), (chunked, body, b"\r\n0\r\n\r\n"))
    assert (first.status, again.status) == (400, 400)  # it is no JSON
    assert [received.body for received in simulator.received] == [body, body]


class Protocol:
    """What a body needs of its connection."""

    _reading_paused = False

    def pause_reading(self) -> None: ...
    def resume_reading(self, resume_parser: bool = True) -> None: ...


def read(*pieces: bytes) -> list[tuple[object, ...]]:
    """Return what is read of a connection: each method, target, fields, whether it closes, and the body."""
    reader, found = GoReader(Protocol(), asyncio.get_running_loop()), []
    for piece in pieces:
        found += reader.feed_data(piece)[0]
    return [
        (message.method, message.path, message.raw_headers, message.should_close, body.is_eof(), getattr(body, "broken", None), b"".join(body.read_nowait(-1) for _ in range(body is not EMPTY_PAYLOAD and body.total_bytes > 0)))
        for message, body in found
    ]  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
async def test_what_comes_in_pieces_is_read_as_what_comes_at_once(name: str) -> None:
    data = REQUESTS[name] + NEXT
    if len(data) < 3000:
        assert read(*(data[at : at + 1] for at in range(len(data)))) == read(data)
    middle = len(data) // 2
    assert read(data[:middle], data[middle:]) == read(data)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("100-continue", True),
        ("x, 100-Continue", True),
        ("100-continue,x", True),
        ("100-continued", False),
        ("", False),
    ],
)
def test_what_expects_to_be_told_to_go_on(value: str, expected: bool) -> None:
    assert expects_continue(value) is expected


async def test_a_head_without_an_end_is_refused() -> None:
    ((method, _, fields, closes, *_),) = read(b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 140_000)
    assert (method, closes) == ("GET", True)
    assert fields == ((REFUSAL, b"431 Request Header Fields Too Large"),)
