"""How a response is framed for its client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import streams
from aiohttp.http import HttpVersion
from aiohttp.test_utils import make_mocked_request

from ollama_cache_proxy.core.errors import ClientLeft
from ollama_cache_proxy.downstream.gate import Gate
from ollama_cache_proxy.downstream.http_client import HttpClient
from ollama_cache_proxy.policy.chunked import LAST, framed
from ollama_cache_proxy.policy.messages import ResponseHead

HEAD = ResponseHead(status=200, reason="OK", fields=())
LARGE = b"x" * 70_000


class Transport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closing = False
        self.lingers: object = None

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else None

    def setsockopt(self, *options: object) -> None:
        self.lingers = options[1:]


class Connection:
    """The parts of a connection that HttpClient uses."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.gate = Gate(None)  # type: ignore[arg-type] # it is asked nothing
        self.stopped = True
        self.congested = False

    def responded(self) -> None:
        self.gate.responded()


class Owner:
    draining = False
    body_timeout = 1.0

    def __init__(self) -> None:
        self.clock = self

    def monotonic(self) -> float:
        return 7.0


def client(method: str = "GET", minor: int = 1, **fields: str) -> tuple[HttpClient, Transport]:
    transport = Transport()
    read = make_mocked_request(
        method, "/x", {"Host": "localhost"} | fields, version=HttpVersion(1, minor), payload=streams.EMPTY_PAYLOAD
    )
    request: Any = SimpleNamespace(
        **{name: getattr(read, name) for name in ("method", "version", "headers", "content", "writer")},
        keep_alive=fields.get("Connection") == "keep-alive" if minor == 0 else fields.get("Connection") != "close",
        transport=transport,
        protocol=Connection(transport),
    )
    owner: Any = Owner()
    return HttpClient(request, owner), transport


def body(transport: Transport) -> tuple[bytes, bytes]:
    head, _, rest = b"".join(transport.sent).partition(b"\r\n\r\n")
    return head, rest


@pytest.mark.parametrize("chunk", [b"a", b"x" * 65_536, b"x" * 65_537, LARGE])
@pytest.mark.parametrize("last", [b"", b"z", LARGE])
async def test_a_body_of_unknown_length_goes_out_in_its_chunks(chunk: bytes, last: bytes) -> None:
    sender, transport = client()
    await sender.begin(HEAD, None)
    assert sender.put(chunk, None)
    assert sender.put(b"b", framed(b"b"))
    await sender.write(b"c")
    await sender.finish(last)
    head, rest = body(transport)
    assert head.endswith(b"Transfer-Encoding: chunked")
    assert rest == framed(chunk) + framed(b"b") + framed(b"c") + (framed(last) if last else b"") + LAST
    assert sender.sent == len(chunk) + 2 + len(last)
    assert (sender.keep_alive, sender.ended, sender.first_byte_at) == (True, True, 7.0)
    assert max(map(len, transport.sent)) < 80_000


@pytest.mark.parametrize("length", [None, 5])
@pytest.mark.parametrize("minor", [0, 1])
async def test_a_body_that_is_not_chunked_is_sent_without_framing(minor: int, length: int | None) -> None:
    sender, transport = client(minor=minor, Connection="keep-alive")
    await sender.begin(HEAD, length)
    for chunk in (b"he", b"l"):
        sender.put(chunk, framed(chunk))
    await sender.finish(b"lo")
    head, rest = body(transport)
    chunks = minor == 1 and length is None
    assert rest == (framed(b"he") + framed(b"l") + framed(b"lo") + LAST if chunks else b"hello")
    assert sender.sent == 5
    assert sender.keep_alive == (minor == 1 or length is not None)
    assert (b"Connection: close" in head) == (not sender.keep_alive)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_response_without_a_body_is_sent_none(method: str, status: int) -> None:
    sender, transport = client(method)
    await sender.begin(ResponseHead(status=status, reason="", fields=()), None)
    assert sender.put(b"hello", framed(b"hello"))
    await sender.finish(b"!")
    assert body(transport)[1] == b""
    assert sender.sent == 0


async def test_a_client_that_has_left_is_sent_nothing_and_put_raises_nothing() -> None:
    sender, transport = client()
    await sender.begin(HEAD, None)
    transport.closing = True
    sent = len(transport.sent)
    assert not sender.put(b"a", framed(b"a"))
    await sender.finish()
    with pytest.raises(ClientLeft):
        await sender.write(b"b")
    with pytest.raises(ClientLeft):
        await sender.finish(b"c")
    assert len(transport.sent) == sent


async def test_put_is_false_while_the_client_does_not_read() -> None:
    sender, _ = client()
    await sender.begin(HEAD, None)
    connection: Any = sender._connection
    connection.congested = True
    assert not sender.put(b"a", framed(b"a"))
    assert not sender.put(b"a", None)
    connection.congested = False
    assert sender.put(b"a", None)


async def test_an_aborted_response_ends_with_a_reset() -> None:
    sender, transport = client()
    await sender.begin(HEAD, 5)
    sender.abort()
    assert (transport.closing, sender.keep_alive, sender.ended) == (True, False, True)
    assert transport.lingers is not None


@pytest.mark.parametrize(
    ("fields", "minor", "kept_alive"),
    [  # the parser has stopped at an Upgrade somewhere on this connection
        ({}, 1, True),
        ({"Connection": "close"}, 1, False),
        ({"Upgrade": "websocket"}, 1, False),
        ({}, 0, False),
        ({"Connection": "keep-alive"}, 0, True),
        ({"Connection": "keep-alive", "Transfer-Encoding": "chunked"}, 0, False),
    ],
)
async def test_whether_a_connection_is_kept_alive(fields: dict[str, str], minor: int, kept_alive: bool) -> None:
    sender, transport = client(minor=minor, **fields)
    await sender.send(HEAD, b"hello")
    assert sender.keep_alive == kept_alive
    connection: Any = sender._connection
    assert connection.gate.serving == (2 if kept_alive else 1)
    assert transport.sent[0].endswith(b"\r\n\r\nhello")
