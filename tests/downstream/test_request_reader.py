"""What is read of a request byte by byte, with aiohttp's real parser."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError

from ollama_cache_proxy.downstream.request_reader import MAX_HEAD, RequestReader
from ollama_cache_proxy.policy.messages import Fields

LINE = b"POST /x HTTP/1.1\r\nHost: localhost\r\n"
TWICE = b"User-Agent: a\r\nUser-Agent: b\r\n"
LENGTHS = b"Content-Length: 5\r\nContent-Length: 5\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Protocol:
    """What the parser needs of its connection."""

    _reading_paused = False

    def pause_reading(self) -> None: ...
    def resume_reading(self, resume_parser: bool = True) -> None: ...


class Fed:
    """A reader that is fed the bytes of one connection; `known` says whether they begin with a request."""

    def __init__(self, *, known: bool = True) -> None:
        self.made = 0
        self.fed: list[bytes] = []
        self.read: list[tuple[Any, Any]] = []
        self.known = known
        self.reader = RequestReader(self.make, self.unread)

    def make(self) -> HttpRequestParser:
        self.made += 1
        protocol: Any = Protocol()
        return HttpRequestParser(protocol, asyncio.get_running_loop(), 2**16, max_line_size=32_768, max_field_size=32_768, max_headers=1024, auto_decompress=False)  # fmt: skip

    def unread(self) -> bytes | None:
        return b"".join(self.fed) if self.known and not self.read else None

    def feed(self, *pieces: bytes) -> list[bytes]:
        """Feed piece by piece; return the targets that were read."""
        for piece in pieces:
            self.fed.append(piece)
            self.read += self.reader.feed_data(piece)[0]
        return [message.path.encode() for message, _ in self.read]

    @property
    def fields(self) -> Fields:
        return tuple(self.read[0][0].raw_headers)

    def body(self, number: int = 0) -> bytes:
        payload = self.read[number][1]
        assert payload.is_eof()
        whole: bytes = payload.read_nowait(-1)
        return whole


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def sent(lines: bytes) -> Fields:
    pairs = [line.partition(b":") for line in (b"Host: localhost\r\n" + lines).split(b"\r\n")[:-1]]
    return tuple((name, value.strip()) for name, _, value in pairs)


@pytest.mark.parametrize("pieces", [lambda data: [data], one_by_one], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    ("lines", "body", "content"),
    [
        pytest.param(TWICE, b"", b"", id="twice"),
        pytest.param(b"Content-Type: a\r\n" * 3 + b"Content-Length: 5\r\n", b"hello", b"hello", id="three times"),
        pytest.param(TWICE + CHUNKS, b"5\r\nhello\r\n0\r\n\r\n", b"hello", id="with chunks"),
        pytest.param(H2C, b"", b"", id="h2c"),
        pytest.param(H2C + b"Content-Length: 5\r\n", b"hello", b"hello", id="h2c with a body"),
        pytest.param(H2C + CHUNKS, b"5\r\nhello\r\n0\r\n\r\n", b"hello", id="h2c with chunks"),
        pytest.param(H2C + TWICE, b"", b"", id="both"),
        pytest.param(b"Connection: upgrade\r\nUpgrade: WebSocket\r\n", b"", b"", id="websocket"),
        pytest.param(b"Sec-WebSocket-Key1: a\r\n", b"", b"", id="the key of an old draft"),
    ],
)
async def test_what_go_takes_is_read_under_its_own_names(
    lines: bytes, body: bytes, content: bytes, pieces: Any
) -> None:
    fed = Fed()
    assert fed.feed(*pieces(LINE + lines + b"\r\n" + body + NEXT)) == [b"/x", b"/next"]
    assert (fed.fields, fed.body()) == (sent(lines), content)
    assert not fed.read[0][0].upgrade
    assert "Upgrade" not in fed.read[0][0].headers, "or the connection would be closed"


@pytest.mark.parametrize("pieces", [lambda data: [data], one_by_one], ids=["at once", "byte by byte"])
async def test_equal_lengths_are_one(pieces: Any) -> None:
    fed = Fed()
    assert fed.feed(*pieces(LINE + LENGTHS + b"\r\nhello" + NEXT)) == [b"/x", b"/next"]
    assert (fed.fields, fed.body()) == (sent(b"Content-Length: 5\r\n"), b"hello")


@pytest.mark.parametrize("pieces", [lambda data: [data], one_by_one], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: x\r\nContent-Length: x\r\n",
        b"Content-Length: 5, 5\r\nContent-Length: 5, 5\r\n",
        LENGTHS + CHUNKS,
        CHUNKS + LENGTHS,
        CHUNKS * 2,
        b"Host: localhost\r\n",
        TWICE + b" folded\r\n",
        TWICE + b"X A: b\r\n",
        TWICE + b"X-A: b\nc\r\n",
        TWICE + CHUNKS + b"Content-Length: 5\r\n",
        TWICE * 1024,
    ],
)
async def test_what_the_parser_refuses_stays_refused(lines: bytes, pieces: Any) -> None:
    fed = Fed()
    with pytest.raises(HttpProcessingError):
        fed.feed(*pieces(LINE + lines + b"\r\n5\r\nhello\r\n0\r\n\r\n"))
    with pytest.raises(HttpProcessingError):  # for ever
        fed.feed(NEXT)
    assert fed.read == []


async def test_a_head_that_is_refused_is_not_held_for_longer_than_it_can_become_plain() -> None:
    for data in (LINE + b"X A", b"\x16\x03\x01\x02\x00", LINE + b"Host: localhost\r\nHost: "):
        with pytest.raises(HttpProcessingError):
            Fed().feed(data, b":\r\n")
    fed = Fed()
    assert fed.feed(LINE + TWICE) == []
    with pytest.raises(HttpProcessingError):
        fed.feed(*[b"X-A: " + b"b" * 30_000 + b"\r\n"] * (MAX_HEAD // 30_000 + 1))


@pytest.mark.parametrize("lines", [TWICE, LENGTHS])
async def test_where_it_is_uncertain_where_a_request_begins_it_is_refused(lines: bytes) -> None:
    with pytest.raises(HttpProcessingError):
        Fed(known=False).feed(LINE + lines + b"\r\nhello")
    fed = Fed()
    with pytest.raises(HttpProcessingError):
        fed.feed(NEXT + LINE + lines + b"\r\nhello")


async def test_an_upgrade_whose_beginning_is_uncertain_stops_the_parser() -> None:
    fed = Fed(known=False)
    assert fed.feed(LINE + H2C + b"\r\n" + NEXT) == [b"/x"]
    assert fed.read[-1][0].upgrade
    fed = Fed()
    assert fed.feed(NEXT + LINE + H2C + b"\r\n" + NEXT) == [b"/next", b"/x"]
    assert fed.read[-1][0].upgrade
    fed = Fed()
    assert fed.feed(LINE + H2C + b"\r\n" + LINE + H2C + b"\r\n" + NEXT) == [b"/x", b"/x"]
    assert fed.read[-1][0].upgrade


@pytest.mark.parametrize("lines", [b"", b"Accept: a\r\nAccept: b\r\n", b"Content-Length: 0\r\n", b"Upgrade: h2c\r\n"])
async def test_an_ordinary_head_is_read_once(lines: bytes) -> None:
    fed = Fed()
    assert fed.feed(b"\r\n", LINE + lines + b"\r\n", NEXT) == [b"/x", b"/next"]
    assert fed.made == 1


async def test_empty_lines_before_a_request_are_skipped_in_its_plain_form_too() -> None:
    fed = Fed()
    assert fed.feed(b"\r\n\r\n" + LINE + TWICE + b"\r\n") == [b"/x"]
    assert fed.fields == sent(TWICE)
