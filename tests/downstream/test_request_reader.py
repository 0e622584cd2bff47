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
    """A reader that is fed the bytes of one connection."""

    def __init__(self) -> None:
        self.made = 0
        self.read: list[tuple[Any, Any]] = []
        self.reader = RequestReader(self.make)

    def make(self) -> HttpRequestParser:
        self.made += 1
        protocol: Any = Protocol()
        return HttpRequestParser(protocol, asyncio.get_running_loop(), 2**16, max_line_size=32_768, max_field_size=32_768, max_headers=1024, auto_decompress=False)  # fmt: skip

    def feed(self, *pieces: bytes) -> list[bytes]:
        """Feed piece by piece; return the targets that were read."""
        for piece in pieces:
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


BEFORE = {
    "nothing": b"",
    "a request": NEXT,
    "several": NEXT * 3,
    "a body": LINE + b"Content-Length: 9\r\n\r\n0\r\n\r\n\r\n\r\n",
    "chunks": LINE + CHUNKS + b"\r\n9\r\n0\r\n\r\n\r\n\r\n\r\n0\r\nX: y\r\n\r\n",
    "an upgrade": LINE + H2C + b"\r\n",
    "a repeated field": LINE + TWICE + b"\r\n",
}


@pytest.mark.parametrize("pieces", [lambda data: [data], one_by_one], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("lines", [TWICE, LENGTHS, H2C, H2C + TWICE + CHUNKS])
@pytest.mark.parametrize("before", BEFORE)
async def test_what_go_takes_is_read_behind_others_too(before: str, lines: bytes, pieces: Any) -> None:
    fed = Fed()
    body = b"5\r\nhello\r\n0\r\n\r\n" if CHUNKS in lines else b"hello" if lines == LENGTHS else b""
    paths = fed.feed(*pieces(BEFORE[before] + LINE + lines + b"\r\n" + body + NEXT))
    assert paths[-2:] == [b"/x", b"/next"]
    assert len(paths) == BEFORE[before].count(b"HTTP/1.1") + 2
    assert tuple(fed.read[-2][0].raw_headers) == sent(lines.replace(LENGTHS, b"Content-Length: 5\r\n"))
    assert fed.body(-2) == (b"hello" if body else b"")
    assert all(fed.read[place][1].is_eof() for place in range(len(paths)))


async def test_what_is_wrong_behind_others_is_refused_after_them() -> None:
    fed = Fed()
    assert fed.feed(NEXT * 2 + LINE + TWICE + b"X A: b\r\n\r\n" + NEXT) == [b"/next"] * 2
    assert fed.reader.refused
    for _ in range(2):
        with pytest.raises(HttpProcessingError):
            fed.feed(b"")
    fed = Fed()
    assert fed.feed(NEXT + LINE + TWICE + CHUNKS + b"\r\nx\r\n" + NEXT) == [b"/next"]
    assert fed.reader.refused
    fed = Fed()
    assert fed.feed(NEXT + LINE + TWICE[:-2]) == [b"/next"]
    assert not fed.reader.refused, "it is held until all of it is there"
    assert fed.feed(b"\r\n\r\n" + NEXT) == [b"/next", b"/x", b"/next"]


@pytest.mark.parametrize(
    ("last", "body"), [(b"Connection: close\r\n", b""), (b"Connection: x, Close\r\nContent-Length: 5\r\n", b"hello")]
)
async def test_what_follows_a_request_that_closes_is_dropped(last: bytes, body: bytes) -> None:
    data = LINE + last + b"\r\n" + body
    for pieces in ([data + NEXT], [data, NEXT], [data + NEXT[:5], NEXT[5:]], one_by_one(data + NEXT)):
        fed = Fed()
        assert fed.feed(*pieces) == [b"/x"]
        assert fed.body() == body
        assert not fed.reader.refused
        assert fed.feed(NEXT, b"no HTTP at all\r\n\r\n") == [b"/x"]
    one_before = NEXT.replace(b"1.1", b"1.0", 1)
    fed = Fed()
    assert fed.feed(NEXT + one_before + NEXT) == [b"/next"] * 2


async def test_very_many_requests_at_once_are_read_when_there_is_room() -> None:
    fed = Fed()
    fed.feed((LINE + TWICE + b"\r\n") * 100)
    assert len(fed.read) == 32
    for count in (64, 96, 100, 100):
        fed.feed(b"")
        assert len(fed.read) == count
    assert fed.feed(NEXT)[-1] == b"/next"


@pytest.mark.parametrize("lines", [TWICE, LENGTHS])
async def test_where_it_is_uncertain_where_a_request_begins_it_is_refused(lines: bytes) -> None:
    """Of chunks that came in pieces it is not known where in a piece they end."""
    fed = Fed()
    assert fed.feed(LINE + CHUNKS + b"\r\n5\r\nhel") == [b"/x"]
    with pytest.raises(HttpProcessingError):
        fed.feed(b"lo\r\n0\r\n\r\n" + LINE + lines + b"\r\nhello")
    assert fed.body() == b"hello"
    fed = Fed()
    assert fed.feed(LINE + CHUNKS + b"\r\n5\r\nhel", b"lo\r\n0\r\n\r\n", LINE + lines + b"\r\nhello") == [b"/x"] * 2


@pytest.mark.parametrize("lines", [b"", b"Accept: a\r\nAccept: b\r\n", b"Content-Length: 0\r\n", b"Upgrade: h2c\r\n"])
async def test_an_ordinary_head_is_read_once(lines: bytes) -> None:
    fed = Fed()
    assert fed.feed(b"\r\n", LINE + lines + b"\r\n", NEXT) == [b"/x", b"/next"]
    assert fed.made == 1


async def test_empty_lines_before_a_request_are_skipped_in_its_plain_form_too() -> None:
    fed = Fed()
    assert fed.feed(b"\r\n\r\n" + LINE + TWICE + b"\r\n") == [b"/x"]
    assert fed.fields == sent(TWICE)
