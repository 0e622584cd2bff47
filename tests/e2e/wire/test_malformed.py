"""What is no HTTP, or could be taken for two things, reaches the other side as what it was or not at all.

The rows are in malformed.py; strict.py reads them without guessing. Bytes go in and out over raw sockets on both sides.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field

import pytest

from tests.e2e.wire import strict
from tests.e2e.wire.malformed import ANSWERS, ENDLESS, PASSES, REQUESTS, SECOND, WRONG_ANSWERS, Row
from tests.e2e.wire.strict import Read
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.upstream import ByteUpstream, Conversation, byte_upstream, whole

AFTER = Read(b"GET", b"/after", b"")
PATIENCE = 10.0
SHORTER = 0.4
"""For what is known to wait in vain."""
DEADLINES = {"head_timeout": 1.0, "body_timeout": 1.0}
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer"}
OWN = {b"cache-status", b"x-cache", b"connection", b"transfer-encoding"}


def distinct(table: dict[str, tuple[Row, ...]]) -> int:
    data = [row.data for rows in table.values() for row in rows]
    assert len(data) == len(set(data))
    return len(data)


def test_there_are_enough_rows_and_no_two_are_the_same() -> None:
    assert distinct(REQUESTS) >= 300
    assert distinct(ANSWERS | WRONG_ANSWERS) >= 40


def test_rows_say_what_the_strict_reader_says() -> None:
    """A row that passes is one for it, or stands beside one that is; a row without an end is none."""
    for row in (row for rows in REQUESTS.values() for row in rows):
        read = strict.read(row.data)
        assert row.fate is not PASSES or strict.read(row.as_if or row.data)[1] is strict.End.WHOLE, row.name
        assert not row.as_if or read[1] is strict.End.WRONG, row.name
        assert row.fate is not ENDLESS or not read[0], row.name
    for row in (row for rows in ANSWERS.values() for row in rows):
        assert row.fate is not PASSES or isinstance(strict.answer(row.as_if or row.data), strict.Answer), row.name
        assert not row.as_if or isinstance(strict.answer(row.data), strict.End), row.name


# Requests.


@dataclass(slots=True)
class Arrivals:
    """What reached the upstream, whole and in order."""

    requests: list[Read] = field(default_factory=list)

    async def script(self, talk: Conversation) -> None:
        try:
            await talk.read_body()
        except ValueError as error:  # the end of the connection in the place of a chunk's size
            raise ConnectionResetError from error
        method, target, version = talk.request_line.split(b" ")
        assert version == b"HTTP/1.1"
        self.requests.append(Read(method, target, talk.body))
        await talk.write(whole(b"{}"))

    def taken(self) -> list[Read]:
        taken, self.requests = self.requests, []
        return taken


async def first_answer(connection: RawConnection, method: str = "GET") -> RawAnswer | None:
    """Give one answer, None where the connection ends without a byte of one."""
    try:
        return await asyncio.wait_for(connection.answer(method), PATIENCE)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise AssertionError("half an answer") from error
        return None
    except ConnectionResetError:
        return None


async def refused(row: Row, url: str) -> None:
    """Hold that a request gets an error that closes, or nothing but the end of the connection."""
    async with await RawConnection.open(url) as connection:
        connection.writer.write(row.data)
        answer = await first_answer(connection)
        if answer is None:
            return
        assert 400 <= answer.status < 600, answer.status_line
        assert answer.status != 500
        assert canary.PROMPT.encode() not in answer.body
        if answer.status != 403:  # Ollama's rule for Host, which is no fault of the connection
            assert answer.field("Connection") == "close", answer
            assert await ended(connection), "the connection goes on"


async def ended(connection: RawConnection) -> bool:
    try:
        return not await asyncio.wait_for(connection.reader.read(), PATIENCE)
    except ConnectionResetError:
        return True


async def passed(expected: list[Read], row: Row, url: str) -> None:
    async with await RawConnection.open(url) as connection:
        connection.writer.write(row.data)
        for request in expected:
            answer = await first_answer(connection, request.method.decode())
            assert answer is not None, "no answer"
            assert answer.status == 200, answer.status_line


async def hold(row: Row, proxy: Proxy, upstream: ByteUpstream, arrivals: Arrivals) -> None:
    """Hold one row, and that nothing of it is left over in front of the next request."""
    expected = strict.read(row.as_if or row.data)[0] if row.fate is PASSES else []
    await (passed(expected, row, proxy.url) if expected else refused(row, proxy.url))
    assert (await asyncio.wait_for(ask(proxy.url, "GET", "/after"), PATIENCE)).status == 200
    assert arrivals.taken() == [*expected, AFTER]
    heads = [talk.head for talk in upstream.seen]
    upstream.seen.clear()
    assert all(strict.framed_once(head) for head in heads), heads


def clean(proxy: Proxy, capfd: pytest.CaptureFixture[str]) -> None:
    """Hold that nothing of a request was told, and that no error was the proxy's own."""
    text = proxy.log.getvalue() + "".join(capfd.readouterr())
    for word in (canary.PROMPT, "smuggled", "Traceback", "error of the proxy"):
        assert word not in text


@pytest.mark.parametrize("group", [name for name in REQUESTS if name != "endless"])
async def test_no_request_reaches_the_upstream_as_something_else(group: str, capfd: pytest.CaptureFixture[str]) -> None:
    arrivals, wrong = Arrivals(), []
    async with byte_upstream(arrivals.script) as upstream, proxy_before(upstream.url) as proxy:
        for row in REQUESTS[group]:
            try:
                await hold(row, proxy, upstream, arrivals)
            except (AssertionError, TimeoutError) as error:
                wrong.append(f"{row.name}: {error!r}")
                arrivals.taken()
        clean(proxy, capfd)
    assert not wrong, "\n".join(wrong)


async def test_a_request_without_an_end_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    """All of them wait for their deadline at once."""
    arrivals = Arrivals()
    async with byte_upstream(arrivals.script) as upstream, proxy_before(upstream.url, **DEADLINES) as proxy:
        held = await asyncio.gather(*(refused(row, proxy.url) for row in REQUESTS["endless"]), return_exceptions=True)
        wrong = [f"{row.name}: {error!r}" for row, error in zip(REQUESTS["endless"], held, strict=True) if error]
        assert not wrong, "\n".join(wrong)
        assert (await ask(proxy.url, "GET", "/after")).status == 200
        assert arrivals.taken() == [AFTER]
        assert all(strict.framed_once(talk.head) for talk in upstream.seen)
        clean(proxy, capfd)


def known(table: dict[str, tuple[Row, ...]]) -> list[object]:
    return [
        pytest.param(row, id=row.name, marks=pytest.mark.xfail(strict=True, reason=reason))
        for reason, rows in table.items()
        for row in rows
    ]


SEEDS = [
    row.data
    for group in ("harmless", "repeated")
    for row in REQUESTS[group]
    if row.fate is PASSES and len(row.data) < 1000
]
PIECES = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"5", b"-", b"\xff", b"\r\n\r\n", b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
          b"chunked", b"Content-Length", b"Host", b"HTTP/1.0", b"GET /smuggled HTTP/1.1\r\n"]  # fmt: skip


def mutant(number: int) -> bytes:
    """Give a harmless request with one to three changes: a piece put in, bytes taken out, doubled or replaced."""
    chance = random.Random(number)
    data = chance.choice(SEEDS)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        to = at + chance.choice((0, 0, 1, 1, 2, 5))
        data = data[:at] + chance.choice((b"", chance.choice(PIECES), data[at : to + 3] * 2)) + data[to:]
    return data


def allowed(data: bytes) -> list[Read]:
    """Give what a strict reader takes from some bytes, with or without the empty lines before them."""
    return strict.read(data)[0] + strict.read(data.lstrip(b"\r\n"))[0]


async def test_mutants_of_harmless_requests(capfd: pytest.CaptureFixture[str]) -> None:
    """What arrives of 500 random ones is something that the strict reader takes from one of them."""
    arrivals = Arrivals()
    mutants = [mutant(number) for number in range(500)]

    async def send(data: bytes) -> None:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(data)
            try:
                async with asyncio.timeout(1.5 * DEADLINES["head_timeout"]):
                    received = await connection.reader.read()
            except (TimeoutError, ConnectionResetError):
                return
            assert b" 500 " not in received.partition(b"\r\n")[0]

    async with byte_upstream(arrivals.script) as upstream, proxy_before(upstream.url, **DEADLINES) as proxy:
        await asyncio.gather(*map(send, mutants))
        assert (await ask(proxy.url, "GET", "/after")).status == 200
        assert all(strict.framed_once(talk.head) for talk in upstream.seen)
        clean(proxy, capfd)
    expected = {(read.method, read.target, read.body) for data in mutants for read in [*allowed(data), AFTER]}
    strange = [read for read in arrivals.requests if (read.method, read.target, read.body) not in expected]
    assert not strange


# Answers.


@dataclass(slots=True)
class Answering:
    """Answers what it is told, and /after by itself; then closes, unless it `stays`."""

    data: bytes = b""
    stays: bool = False
    talks: list[Conversation] = field(default_factory=list)

    async def script(self, talk: Conversation) -> None:
        self.talks.append(talk)
        await talk.read_body()
        if talk.request_line.startswith(b"GET /after"):
            await talk.write(whole(talk.request_line.split()[1]))
            return
        await talk.write(self.data)
        if not self.stays:
            raise ConnectionResetError


def end_to_end(fields: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    return [line for line in fields if line[0] not in HOP_BY_HOP]


async def hold_answer(row: Row, number: int, path: str, proxy: Proxy) -> None:
    """Hold that the client gets what the row says, and that the next request gets its own answer."""
    method, body = (
        ("GET", None) if path == "/x" else ("POST", b'{"model":"tiny","prompt":"%d","stream":false}' % number)
    )
    answer: RawAnswer | None = None
    async with await RawConnection.open(proxy.url) as connection:
        connection.send(method, path, body=body)
        try:
            answer = await asyncio.wait_for(connection.answer(), PATIENCE)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            assert row.fate is not PASSES, "broken off"
    after = await asyncio.wait_for(ask(proxy.url, "GET", f"/after{number}"), PATIENCE)
    assert (after.status, after.body) == (200, b"/after%d" % number), "not the answer of that request"
    if answer is None:
        return
    if row.fate is not PASSES:
        assert answer.status == 502, answer
        assert list(json.loads(answer.body)) == ["error"]
        return
    expected = strict.answer(row.as_if or row.data)
    assert isinstance(expected, strict.Answer)
    assert answer.status_line.encode("latin-1").split(b" ", 1)[1] == b"%d %b" % (expected.status, expected.reason)
    assert answer.body == expected.body
    fields = tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.fields)
    assert [line for line in fields if line[0] not in OWN] == end_to_end(expected.fields)


@pytest.mark.parametrize("path", ["/x", "/api/generate"])
@pytest.mark.parametrize("group", ANSWERS)
async def test_no_answer_reaches_the_client_as_something_else(
    group: str, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answering, wrong = Answering(), []
    async with byte_upstream(answering.script) as upstream, proxy_before(upstream.url) as proxy:
        for number, row in enumerate(ANSWERS[group]):
            answering.data = row.data
            try:
                await hold_answer(row, number, path, proxy)
            except (AssertionError, TimeoutError) as error:
                wrong.append(f"{row.name}: {error!r}")
        clean(proxy, capfd)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("row", known(WRONG_ANSWERS))
async def test_answers_that_should_be_refused(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PATIENCE", SHORTER)
    answering = Answering(row.data)
    async with byte_upstream(answering.script) as upstream, proxy_before(upstream.url) as proxy:
        await hold_answer(row, 0, "/x", proxy)


FIRST = {
    "a length": whole(b"one"),
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
    "no length": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a length of nothing": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
}
LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
SURPLUS = {
    "an answer": SECOND, "two answers": SECOND * 2, "an answer that closes": LATE, "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n", "the beginning of an answer": SECOND[:-3],
    "half a status line": b"HTTP/1.1 2", "a line end": b"\r\n", "a letter": b"x", "NUL": b"\0", "a chunk": b"3\r\none\r\n",
}  # fmt: skip


@pytest.mark.parametrize("surplus", SURPLUS)
@pytest.mark.parametrize("first", FIRST)
async def test_what_follows_an_answer_at_once_is_no_answer(first: str, surplus: str) -> None:
    answering = Answering(FIRST[first] + SURPLUS[surplus], stays=True)
    async with byte_upstream(answering.script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("GET", "/x")
            status_line, _ = await asyncio.wait_for(connection.head(), PATIENCE)
            assert status_line.split()[1] in (FIRST[first].split()[1].decode(), "502")
        await expect_their_own(proxy)


@pytest.mark.parametrize("first", ["a length", "chunks"])
@pytest.mark.parametrize("surplus", SURPLUS)
async def test_what_comes_on_an_idle_connection_is_no_answer(first: str, surplus: str) -> None:
    answering = Answering(FIRST[first], stays=True)
    async with byte_upstream(answering.script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("GET", "/x")
            await asyncio.wait_for(connection.head(), PATIENCE)
        await ask(proxy.url, "GET", "/healthz")
        await answering.talks[0].write(SURPLUS[surplus])
        for _ in range(3):  # each a turn of the loop in which the proxy reads what has come
            await ask(proxy.url, "GET", "/healthz")
        await expect_their_own(proxy)


async def expect_their_own(proxy: Proxy) -> None:
    """Ask more than there are connections."""
    for number in range(4):
        answer = await asyncio.wait_for(ask(proxy.url, "GET", f"/after{number}"), PATIENCE)
        assert answer.body == b"/after%d" % number
