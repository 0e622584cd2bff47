"""Where chunks end is known from the bytes alone, or not at all; what is written is what is read."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from ollama_cache_proxy.policy.chunked import END, LAST, Chunks, framed, size_line, small_chunk, whole_chunks

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
def test_a_single_whole_chunk_is_recognised_however_the_rest_arrives(seed: int) -> None:
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
        found = small_chunk(data) if chunks.between else None
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
def test_a_chunk_in_another_form_is_not_split_off_and_ends_the_tracking(came: bytes) -> None:
    assert after(HEAD).between
    assert small_chunk(came) is None
    assert not after(HEAD, came).between


@pytest.mark.parametrize("data", [b"", b"1", b"1\r\n", b"1\r\nx", b"1\r\nx\r", b"1\r\nx\r\n1", b"1\r\nx\r\n1\r\ny\r\n"])
def test_less_than_a_chunk_or_more_is_not_one(data: bytes) -> None:
    assert small_chunk(data) is None


def test_chunks_of_up_to_three_digits_are_small() -> None:
    for size in range(1, 5000):
        payload = bytes(size)
        assert small_chunk(written(payload)) == (payload if size < 0x1000 else None)


@pytest.mark.parametrize("size", range(len(HEAD)))
def test_nothing_is_tracked_before_the_end_of_the_head(size: int) -> None:
    assert not after(HEAD[:size]).between
    assert after(HEAD[:size], HEAD[size:]).between


def test_bytes_that_were_not_tracked_end_the_tracking() -> None:
    chunks = after(HEAD, b"1\r\nx\r\n")
    assert chunks.between
    chunks.lose()
    chunks.add(b"1\r\nx\r\n")
    assert not chunks.between


# Whole chunks


PLAIN = [b"a", b"\r\n", b"5\r\nhello\r\n", bytes(range(256)), b"x" * 0xFFF, b"x" * 0x1000, b"x" * 70_000]


@pytest.mark.parametrize("data", PLAIN)
def test_what_is_written_is_what_is_read(data: bytes) -> None:
    assert framed(data) == size_line(len(data)) + data + END == written(data)
    assert framed(data, LAST) == framed(data) + LAST
    assert list(whole_chunks(framed(data))) == [(data, framed(data))]
    assert small_chunk(framed(data)) == (data if len(data) < 0x1000 else None)
    assert after(HEAD + framed(data)).between
    assert not after(HEAD + framed(data) + LAST).between


@pytest.mark.parametrize("left", [b"", b"1", b"1\r", b"1\r\n", b"1\r\nx", b"1\r\nx\r", LAST, b"0", b"\r\n", b"A\r\n0123456789\r\n", b"01\r\nx\r\n",
                                  b"1;a\r\nx\r\n", b"1 \r\nx\r\n", b"1\r\nxy\r\n", b"1\nx\n", b"ffffffff\r\nx\r\n", b"100000000\r\nx\r\n", b"-1\r\nx\r\n", b"x" * 100])  # fmt: skip
@pytest.mark.parametrize("count", range(4))
def test_whole_chunks_are_split_off_before_the_rest(count: int, left: bytes) -> None:
    data = [b"%d" % number * (number + 1) for number in range(count)]
    assert list(whole_chunks(b"".join(map(framed, data)) + left)) == [(one, framed(one)) for one in data]


@pytest.mark.parametrize("seed", range(50))
def test_chunks_that_are_split_off_and_chunks_that_are_tracked_end_alike(seed: int) -> None:
    source = random.Random(seed)
    data = [
        source.choice(AWKWARD) if source.random() < 0.5 else source.randbytes(source.randint(1, 5000))
        for _ in range(60)
    ]
    begins = dict(zip(accumulate((len(framed(chunk)) for chunk in data), initial=0), data, strict=False))
    stream, at, found, chunks = b"".join(map(framed, data)), 0, 0, after(HEAD)
    while at < len(stream):
        ends = min(end for end in [*begins, len(stream)] if end > at)
        came = stream[at : source.choice((ends, ends, ends + 5, at + 1, at + 10, at + 10_000))]
        for chunk, text in whole_chunks(came) if chunks.between else ():
            assert chunk == begins[at]
            at, came, found = at + len(text), came[len(text) :], found + 1
        chunks.add(came)
        at += len(came)
        assert chunks.between == (at in begins or at == len(stream))
    assert found > 0


def test_tracking_that_has_ended_does_not_begin_anew_with_the_next_chunk() -> None:
    chunks = after(HEAD, b"1;a\r\nx\r\n1\r\nx\r\n")
    assert not chunks.between
    chunks.add(b"1\r\nx\r\n")
    assert not chunks.between
