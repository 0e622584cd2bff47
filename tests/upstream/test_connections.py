"""Where chunks end is known by an answer's bytes alone, or not at all; what comes straight comes in its turn."""

from __future__ import annotations

import asyncio
import random

import pytest
from aiohttp.client_proto import ResponseHandler

from ollama_cache_proxy.upstream.connections import Chunks, Connection, alone
from ollama_cache_proxy.upstream.ollama_server import _Answer

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
AWKWARD = (b"5", b"5\r\n5", b"\r\n", b"0\r\n\r\n", b"a\r\n0123456789\r\n", b"\r", b"\n", HEAD)


def written(chunk: bytes, form: str = "%x") -> bytes:
    return (form % len(chunk)).encode() + b"\r\n" + chunk + b"\r\n"


def after(*came: bytes) -> Chunks:
    chunks = Chunks()
    for data in came:
        chunks.add(data)
    return chunks


@pytest.mark.parametrize("seed", range(200))
def test_what_is_one_whole_chunk_is_known_however_the_rest_comes(seed: int) -> None:
    source = random.Random(seed)
    payloads = [
        source.choice(AWKWARD) if source.random() < 0.5 else source.randbytes(source.randint(1, 40)) for _ in range(60)
    ]
    forms = [source.choice(("%x", "%x", "%X", "%04x")) for _ in payloads]
    body = [written(payload, form) for payload, form in zip(payloads, forms, strict=True)]
    ends = [len(HEAD)]
    for text in body:
        ends.append(ends[-1] + len(text))
    everything = HEAD + b"".join(body)
    cuts = {*source.sample(range(1, len(everything)), source.randint(0, 40)), *source.sample(ends, 40), ends[-1]}
    chunks, begin, known = Chunks(), 0, 0
    for end in sorted(cuts):
        data = everything[begin:end]
        found = alone(data) if chunks.between else None
        if begin in ends and ends.index(begin) + 1 < len(ends) and ends[ends.index(begin) + 1] == end:
            payload = payloads[ends.index(begin)]
            assert chunks.between
            assert found == (payload if data == written(payload) else None)
            known += found is not None
        else:
            assert found is None
        if found is None:
            chunks.add(data)
        begin = end
    assert known > 0


@pytest.mark.parametrize(
    "came",
    [
        b"1;a=b\r\nx\r\n",
        b"1 \r\nx\r\n",
        b" 1\r\nx\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b"1_0\r\n0123456789abcdef\r\n",
        b"000000001\r\nx\r\n",
        b"\r\n",
        b"1\r\nxy\r\n",
        b"2\r\nx\r\n",
        b"1\nx\n",
        b"1\r\nx\n\n",
        b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"0123456789",
    ],
)
def test_what_is_not_of_the_plainest_form_is_never_one_and_ends_what_is_known(came: bytes) -> None:
    assert after(HEAD).between
    assert alone(came) is None
    assert not after(HEAD, came).between


@pytest.mark.parametrize("data", [b"", b"1", b"1\r\n", b"1\r\nx", b"1\r\nx\r", b"1\r\nx\r\n1", b"1\r\nx\r\n1\r\ny\r\n"])
def test_less_than_a_chunk_or_more_is_not_one(data: bytes) -> None:
    assert alone(data) is None


def test_chunks_of_up_to_three_digits_are_small() -> None:
    for size in range(1, 5000):
        payload = bytes(size)
        assert alone(written(payload)) == (payload if size < 0x1000 else None)


@pytest.mark.parametrize("size", range(len(HEAD)))
def test_nothing_is_known_before_the_head_has_ended(size: int) -> None:
    assert not after(HEAD[:size]).between
    assert after(HEAD[:size], HEAD[size:]).between


def test_what_was_not_shown_ends_what_is_known() -> None:
    chunks = after(HEAD, b"1\r\nx\r\n")
    assert chunks.between
    chunks.lose()
    chunks.add(b"1\r\nx\r\n")
    assert not chunks.between


class Wire(asyncio.Transport):
    """What a connection reads from; nothing is written."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError

    def close(self) -> None:
        """Nothing is open."""

    def pause_reading(self) -> None:
        """What comes is up to the test."""

    def resume_reading(self) -> None:
        """What comes is up to the test."""


async def answer_over(connection: Connection, *came: bytes) -> _Answer:
    connection.connection_made(Wire())
    connection.set_response_params(read_until_eof=True, auto_decompress=False)
    for data in came:
        connection.data_received(data)
    message, content = await connection.read()
    return _Answer(message, content, connection)


@pytest.mark.parametrize("full_at", range(1, 7))
@pytest.mark.parametrize("before", range(4))
async def test_chunks_keep_their_order_whoever_has_no_room_and_whatever_comes_until_that_is_known(
    full_at: int, before: int
) -> None:
    chunks = [written(b"%d" % number) for number in range(6)]
    connection = Connection(asyncio.get_running_loop())
    answer = await answer_over(connection, HEAD, *chunks[:before])
    taken: list[bytes] = []
    room = True

    def take(chunk: bytes, framed: bytes | None) -> bool:
        nonlocal room
        assert room
        taken.append(chunk)
        room = len(taken) != full_at
        return room

    pouring = asyncio.ensure_future(answer.pour(take))
    await asyncio.sleep(0)
    for data in [*chunks[before:], b"0\r\n\r\n"]:  # no turn for who pours
        connection.data_received(data)
    while not await asyncio.wait_for(pouring, 5):
        room = True
        pouring = asyncio.ensure_future(answer.pour(take))
    assert taken == [b"%d" % number for number in range(6)]
    assert answer.content.at_eof()


async def test_a_chunk_that_comes_by_itself_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(asyncio.get_running_loop())
    answer = await answer_over(connection, HEAD + written(b"a"))
    taken: list[tuple[bytes, bytes | None]] = []

    def take(chunk: bytes, framed: bytes | None) -> bool:
        taken.append((chunk, framed))
        return True

    pouring = asyncio.ensure_future(answer.pour(take))
    await asyncio.sleep(0)
    parsed: list[bytes] = []
    parse = ResponseHandler.data_received
    monkeypatch.setattr(ResponseHandler, "data_received", lambda self, data: (parsed.append(data), parse(self, data)))
    for data in (written(b"b"), written(b"c") + b"1\r", b"\nd\r\n", written(b"e"), b"0\r\n\r\n"):
        connection.data_received(data)
    assert await asyncio.wait_for(pouring, 5)
    assert taken == [(b"a", None), (b"b", written(b"b")), (b"c", None), (b"d", None), (b"e", written(b"e"))]
    assert parsed == [written(b"c") + b"1\r", b"\nd\r\n", b"0\r\n\r\n"]


async def test_who_no_longer_waits_is_not_told() -> None:
    connection = Connection(asyncio.get_running_loop())
    answer = await answer_over(connection, HEAD)
    pouring = asyncio.ensure_future(answer.pour(lambda chunk, framed: False))
    await asyncio.sleep(0)
    pouring.cancel()
    connection.data_received(written(b"a"))  # in the same turn
    connection.data_received(written(b"b"))
    with pytest.raises(asyncio.CancelledError):
        await pouring
