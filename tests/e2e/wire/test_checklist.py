"""What is asked of a reverse proxy, as tables: fields, framing, connections, and what it must not do by itself.

Beside test_passthrough.py, and in both directions where a rule has two. References are to RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import proxy_before
from tests.support.upstream import Conversation, answering, byte_upstream, whole

OK = whole(b"{}")
ADDED = ("Cache-Status", "X-Cache")
PATIENCE = 5.0


def answer(fields: bytes, body: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\n" + body


def request(fields: bytes = b"", body: bytes = b"", line: bytes = b"GET /x HTTP/1.1") -> bytes:
    return line + b"\r\nHost: localhost\r\n" + fields + b"\r\n" + body


async def heard(connection: RawConnection, method: str = "GET") -> RawAnswer:
    """Give one answer, however its length is known; 304 has none whatever its fields say."""
    status_line, fields = await asyncio.wait_for(connection.head(), PATIENCE)
    if method == "HEAD" or status_line.split()[1] in ("204", "304"):
        return RawAnswer(status_line=status_line, fields=fields, body=b"")
    named = {name.lower(): value for name, value in fields}
    if "transfer-encoding" in named:
        chunks: list[bytes] = []
        while chunk := await asyncio.wait_for(connection.chunk(), PATIENCE):
            chunks.append(chunk)
        return RawAnswer(status_line=status_line, fields=fields, body=b"".join(chunks), chunks=tuple(chunks))
    length = int(named["content-length"]) if "content-length" in named else -1
    reading = connection.reader.read() if length < 0 else connection.reader.readexactly(length)
    return RawAnswer(
        status_line=status_line, fields=fields, body=await asyncio.wait_for(reading, PATIENCE), closed=length < 0
    )


async def exchange(sent: bytes, said: bytes = OK, method: str = "GET") -> tuple[Conversation, RawAnswer]:
    """Send bytes to a proxy whose upstream answers with bytes; give what arrived on both sides."""
    async with byte_upstream(answering(said)) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(sent)
            received = await heard(connection, method)
    (talk,) = upstream.seen
    return talk, received


def own_lines(talk: Conversation) -> list[bytes]:
    """The fields that the client had sent: all but Host and our own Via."""
    return [line for line in talk.lines if not line.startswith((b"Host:", b"Via: 1.1 ollama-cache-proxy"))]


def theirs(received: RawAnswer) -> list[tuple[str, str]]:
    """The fields that the upstream had sent."""
    return [line for line in received.fields if line[0] not in ADDED]


# Fields.

HOP_BY_HOP = {
    "Connection": "keep-alive",
    "Keep-Alive": "timeout=5, max=100",
    "Proxy-Connection": "keep-alive",
    "Proxy-Authenticate": "Basic realm=x",
    "Proxy-Authorization": "Basic eDp5",
    "TE": "trailers, deflate;q=0.5",
    "Trailer": "X-Sum",
    "Upgrade": "foo/2",
}
SPELLINGS = (str, str.lower, str.upper)


@pytest.mark.parametrize("name", HOP_BY_HOP)
async def test_a_field_of_one_hop_goes_no_further(name: str) -> None:
    """Section 7.6.1 of RFC 9110, in any spelling and however often it is there."""
    lines = "".join(f"{spell(name)}: {HOP_BY_HOP[name]}\r\n" for spell in SPELLINGS).encode()
    talk, received = await exchange(
        request(lines + b"X-Kept: 1\r\n"), answer(lines + b"X-Kept: 2\r\nContent-Length: 2\r\n", b"{}")
    )
    assert own_lines(talk) == [b"X-Kept: 1"]
    kept = [line for line in theirs(received) if line != ("Connection", "close")]
    assert kept == [("X-Kept", "2"), ("Content-Length", "2")]


NAMED = {
    "one": ("X-A", "X-A: 1", "X-B: 2"),
    "two": ("X-A, X-B", "X-A: 1\r\nX-B: 2", "X-C: 3"),
    "in another spelling": ("x-a", "X-A: 1\r\nX-a: 2", "X-AB: 3"),
    "on two lines": ("X-A\r\nConnection: X-B", "X-B: 2\r\nX-A: 1", "X-C: 3"),
    "with close": ("close, X-A", "X-A: 1", "X-B: 2"),
    "between empty ones": (",, X-A ,,", "X-A: 1", "X-B: 2"),
    "between tabs": ("\tX-A\t,\tX-B\t", "X-A: 1\r\nX-B: 1", "X-C: 3"),
    "that is end-to-end otherwise": ("Authorization, Cache-Control", "Authorization: x\r\nCache-Control: no-store", "X-A: 1"),
    "that is not there": ("X-Nothing", "", "X-A: 1"),
    "twice": ("X-A, X-A", "X-A: 1", "X-B: 1"),
    "of odd bytes": ("!#$%&'*+-.^_`|~", "!#$%&'*+-.^_`|~: 1", "X-B: 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
async def test_what_connection_names_goes_no_further(case: str) -> None:
    named, dropped, kept = NAMED[case]
    lines = "\r\n".join([f"Connection: {named}", *filter(None, [dropped]), kept, ""]).encode()
    talk, received = await exchange(request(lines), answer(lines + b"Content-Length: 2\r\n", b"{}"))
    assert own_lines(talk) == [kept.encode()]
    expected = [tuple(kept.split(": ")), ("Content-Length", "2")]
    assert [line for line in theirs(received) if line != ("Connection", "close")] == expected


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host", "content-length, host, X-A"])
async def test_connection_cannot_take_off_what_frames_and_routes(name: str) -> None:
    framing, body = (b"Content-Length: 5\r\n", b"hello")
    if name == "Transfer-Encoding":
        framing, body = (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n")
    lines = f"Connection: {name}\r\nX-A: 1\r\n".encode() + framing
    talk, received = await exchange(request(lines, body, b"POST /x HTTP/1.1"), answer(lines, body))
    assert (talk.body, received.body) == (b"hello", b"hello")
    assert len(talk.values(b"Host")) == 1


END_TO_END = (
    "Accept: */*", "Accept-Encoding: identity;q=0", "Accept-Language: de", "Age: 5", "Allow: GET", "Authorization: Bearer x", "Cookie: a=b; a=c", "Content-Encoding: x", "Content-Language: de", "Content-Type: x/y; z",
    'ETag: W/"x"', "Date: yesterday", "Expires: 0", "Forwarded: for=x", "From: x@localhost", 'If-Match: "x"', "If-Modified-Since: never", "If-None-Match: *", 'If-Range: "x"', "Last-Modified: never", "Link: </x>; rel=y",
    "Location: ../x", "Max-Forwards: 0", "Pragma: x", "Range: bytes=0-0", "Referer: /x", "Retry-After: 1", "Server: x", "Strict-Transport-Security: max-age=0", "User-Agent: x/1 (y)", "Vary: *", "Warning: 199 - x",
    "WWW-Authenticate: Basic", "X-Forwarded-For: 1.2.3.4", "X-Real-IP: 1.2.3.4", "X-Request-Id: 7", "Set-Cookie: a=b; Secure", "DNT: 1", "HTTP2-Settings: AAAA", "Sec-WebSocket-Version: 13", "Close: x", "Via: 1.0 fred",
    "Content-MD5: x", "Digest: x=y", "Early-Data: 1", "Origin-Agent-Cluster: ?1", "Traceparent: 00-1-2-03", "Alt-Svc: clear", "Expect-CT: x", "Last-Event-ID: 4",
)  # fmt: skip


@pytest.mark.parametrize("line", END_TO_END, ids=lambda line: line.partition(":")[0])
async def test_an_end_to_end_field_goes_through(line: str) -> None:
    talk, received = await exchange(
        request(line.encode() + b"\r\n"), answer(line.encode() + b"\r\nContent-Length: 2\r\n", b"{}")
    )
    assert own_lines(talk) == [line.encode()]
    assert theirs(received) == [tuple(line.split(": ", 1)), ("Content-Length", "2")]


LISTS = {
    "cookies in their order": "Set-Cookie: b=1\r\nX-A: 1\r\nSet-Cookie: a=2\r\nSet-Cookie: b=3; Path=/",
    "the same line twice": "X-A: 1\r\nX-A: 1",
    "empty ones": "X-A: \r\nX-B: 1\r\nX-A: \r\nX-C: ",
    "challenges": "WWW-Authenticate: Basic\r\nX-A: 1\r\nWWW-Authenticate: Digest realm=x, nonce=y",
    "lists": "Vary: a\r\nVary: b, c\r\nAllow: GET\r\nAllow: PUT",
    "values with quotes and commas": 'X-A: "a, b", c\r\nX-A: "\\"," ;x',
    "inner white space": "X-A: a  b\tc",
    "a hundred": "\r\n".join(f"X-{number}: {number}" for number in range(100)),
    "a long one": "X-A: " + "a" * 30_000,
}


@pytest.mark.parametrize("case", LISTS)
async def test_repeated_and_empty_fields_keep_their_order(case: str) -> None:
    lines = LISTS[case].encode()
    talk, received = await exchange(request(lines + b"\r\n"), answer(lines + b"\r\nContent-Length: 2\r\n", b"{}"))
    assert own_lines(talk) == lines.split(b"\r\n")
    assert theirs(received)[:-1] == [tuple(line.split(": ", 1)) for line in LISTS[case].split("\r\n")]


@pytest.mark.parametrize("before", ["1.0 fred", "1.1 a, 1.1 b", "1.1 a\r\nVia: 2 b (c)", "1.1 ollama-cache-proxy-2e"])
async def test_via_is_added_behind_those_before(before: str) -> None:
    talk, _ = await exchange(request(f"Via: {before}\r\n".encode()))
    *theirs, own = talk.values(b"Via")
    assert theirs == before.encode().split(b"\r\nVia: ")
    assert re.fullmatch(rb"1\.1 ollama-cache-proxy-[0-9a-f]{16}", own)


async def test_trailers_of_both_sides_end_here() -> None:
    chunks = b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n"
    lines = b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n"
    talk, received = await exchange(request(lines, chunks, b"POST /x HTTP/1.1"), answer(lines, chunks))
    assert (talk.body, received.body) == (b"hello", b"hello")
    assert b"X-Sum" not in talk.head
    assert "X-Sum" not in str(received.fields)


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "110 Unknown"])
async def test_an_interim_answer_ends_here(interim: str) -> None:
    said = answer(b"Link: </x>\r\nX-A: 1\r\n", status=interim.encode()) * 2 + answer(
        b"X-B: 2\r\nContent-Length: 2\r\n", b"{}"
    )
    _, received = await exchange(request(), said)
    assert theirs(received) == [("X-B", "2"), ("Content-Length", "2")]


@pytest.mark.parametrize("reason", ["", "OK", "Very Well, Thank You", "O\tK", "  ", "Gr\xc3\xbcn", "(200)"])
async def test_a_reason_goes_through(reason: str) -> None:
    _, received = await exchange(request(), answer(b"Content-Length: 2\r\n", b"{}", b"200 " + reason.encode("latin-1")))
    assert received.status_line == f"HTTP/1.1 200 {reason}"


# Framing.

SILENT = {
    "HEAD": ("HEAD", answer(b"Content-Length: 5\r\n"), [("Content-Length", "5")]),
    "HEAD of chunks": ("HEAD", answer(b"Transfer-Encoding: chunked\r\n"), []),
    "HEAD of no length": ("HEAD", answer(b"X-A: 1\r\n"), [("X-A", "1")]),
    "HEAD of nothing": ("HEAD", answer(b"Content-Length: 0\r\n"), [("Content-Length", "0")]),
    "HEAD of a very long one": ("HEAD", answer(b"Content-Length: 99999999999\r\n"), [("Content-Length", "99999999999")]),
    "HEAD that is not found": ("HEAD", answer(b"Content-Length: 9\r\n", status=b"404 Not Found"), [("Content-Length", "9")]),
    "HEAD that redirects": ("HEAD", answer(b"Location: /y\r\nContent-Length: 9\r\n", status=b"302 Found"), [("Location", "/y"), ("Content-Length", "9")]),
    "204": ("DELETE", answer(b"X-A: 1\r\n", status=b"204 No Content"), [("X-A", "1")]),
    "304": ("GET", answer(b'ETag: "x"\r\n', status=b"304 Not Modified"), [("ETag", '"x"')]),
    "304 with a length": ("GET", answer(b'ETag: "x"\r\nContent-Length: 5\r\n', status=b"304 Not Modified"), [("ETag", '"x"'), ("Content-Length", "5")]),
    "304 to HEAD": ("HEAD", answer(b"Content-Length: 5\r\n", status=b"304 Not Modified"), [("Content-Length", "5")]),
    "200 of nothing": ("GET", answer(b"Content-Length: 0\r\n"), [("Content-Length", "0")]),
    "205": ("POST", answer(b"Content-Length: 0\r\n", status=b"205 Reset Content"), [("Content-Length", "0")]),
}  # fmt: skip


@pytest.mark.parametrize("case", SILENT)
async def test_an_answer_without_a_body_leaves_both_connections_as_they_were(case: str) -> None:
    """Its fields may tell of a body (RFC 9112, section 6.3), and none may be waited for, on either side."""
    method, said, fields = SILENT[case]

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(OK if b"/after" in talk.request_line else said)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            for _ in range(2):
                connection.send(method, "/x")
                received = await heard(connection, method)
                assert theirs(received) == fields
                connection.send("GET", "/after")
                assert (await heard(connection)).body == b"{}"


KINDS = {
    "a length": (answer(b"Content-Length: 5\r\n", b"hello"), True),
    "chunks": (answer(b"Transfer-Encoding: chunked\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), True),
    "trailers": (answer(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"), True),
    "an error": (answer(b"Content-Length: 5\r\n", b"hello", b"500 Internal Server Error"), True),
    "a refusal": (answer(b"Content-Length: 5\r\n", b"hello", b"401 Unauthorized"), True),
    "a redirect": (answer(b"Location: /y\r\nContent-Length: 5\r\n", b"hello", b"301 Moved Permanently"), True),
    "an interim answer": (answer(b"", b"", b"100 Continue") + answer(b"Content-Length: 5\r\n", b"hello"), True),
    "one that closes": (answer(b"Connection: close\r\nContent-Length: 5\r\n", b"hello"), False),
    "one of 1.0": (answer(b"Content-Length: 5\r\n", b"hello").replace(b"1.1", b"1.0", 1), False),
}


@pytest.mark.parametrize("case", KINDS)
async def test_connections_are_used_again_after_any_whole_answer(case: str) -> None:
    """The client's always; the upstream's where it allows that."""
    said, stays = KINDS[case]
    async with byte_upstream(answering(said)) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            for _ in range(5):
                connection.send("POST", "/x", body=b"abc")
                received = await heard(connection)
                assert received.body == b"hello"
                assert received.field("Connection") is None
        writers = {talk.writer for talk in upstream.seen}
        assert len(writers) <= 2 if stays else len(writers) == 5  # a second one was there for the proxy's own questions


VERSIONS = {
    "1.1": ("1.1", "", True),
    "1.1 that closes": ("1.1", "close", False),
    "1.1 that closes, in capitals": ("1.1", "CLOSE", False),
    "1.1 that closes among others": ("1.1", "X-A, close", False),
    "1.1 that stays": ("1.1", "keep-alive", True),
    "1.0": ("1.0", "", False),
    "1.0 that closes": ("1.0", "close", False),
    "1.0 that stays": ("1.0", "keep-alive", True),
    "1.0 that stays, in capitals": ("1.0", "Keep-Alive", True),
}


@pytest.mark.parametrize("length", [True, False], ids=["a length", "chunks"])
@pytest.mark.parametrize("case", VERSIONS)
async def test_a_connection_stays_as_its_version_and_its_wish_say(case: str, length: bool) -> None:
    """RFC 9112, section 9.3. A stream to HTTP/1.0 can end only by closing; the answer is whole in each case."""
    version, wish, stays = VERSIONS[case]
    said = KINDS["a length" if length else "chunks"][0]
    stays = stays and (length or version == "1.1")
    fields = f"Connection: {wish}\r\n" if wish else ""
    sent = request(fields.encode(), line=f"GET /x HTTP/{version}".encode())
    async with byte_upstream(answering(said)) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(sent)
            received = await heard(connection)
            assert received.status_line == f"HTTP/{version} 200 OK"
            assert received.body == b"hello"
            assert (received.field("Transfer-Encoding") is not None) == (not length and version == "1.1")
            told = (received.field("Connection") or "").lower()
            if not stays:
                assert told == "close"
                assert await asyncio.wait_for(connection.reader.read(), PATIENCE) == b""
                return
            assert told == ("keep-alive" if version == "1.0" else "")
            connection.writer.write(sent)
            assert (await heard(connection)).body == b"hello"
        assert upstream.seen[0].request_line == b"GET /x HTTP/1.1"


PIPELINES = {
    "two of GET": [("GET", b""), ("GET", b"")],
    "POST and GET": [("POST", b"one"), ("GET", b"")],
    "GET and POST": [("GET", b""), ("POST", b"two")],
    "POST, DELETE, HEAD, POST": [("POST", b"one"), ("DELETE", b""), ("HEAD", b""), ("POST", b"four")],
    "bodies that look like requests": [("POST", request()), ("POST", request(b"X-A: 1\r\n")), ("GET", b"")],
    "a large one first": [("POST", b"x" * 300_000), ("GET", b"")],
    "many": [("POST", b"%d" % number) for number in range(30)],
}


@pytest.mark.parametrize("chunked", [False, True], ids=["lengths", "chunks"])
@pytest.mark.parametrize("case", PIPELINES)
async def test_pipelined_requests_stay_apart(case: str, chunked: bool) -> None:
    """Each answer tells what the upstream took for the request, and they come in the order of the requests."""

    async def script(talk: Conversation) -> None:
        body = await talk.read_body()
        told = talk.request_line + b" %d " % len(body) + body[:200]
        head = talk.request_line.startswith(b"HEAD")
        await talk.write(answer(b"Content-Length: %d\r\n" % len(told), b"" if head else told))

    sent, expected = b"", []
    for number, (method, body) in enumerate(PIPELINES[case]):
        line = f"{method} /{number} HTTP/1.1".encode()
        if chunked and body:
            sent += request(b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), line)
        else:
            sent += request(b"Content-Length: %d\r\n" % len(body) if body else b"", body, line)
        expected.append(b"" if method == "HEAD" else line + b" %d " % len(body) + body[:200])
    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(sent)
            got = [(await heard(connection, method)).body for method, _ in PIPELINES[case]]
    assert got == expected


async def test_a_chunk_of_an_upload_does_not_wait_for_the_next() -> None:
    """Each is sent when the one before has arrived."""
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(talk: Conversation) -> None:
        while size := int(await talk.reader.readline(), 16):
            came.put_nowait((await talk.reader.readexactly(size + 2))[:-2])
        await talk.reader.readline()
        await talk.write(OK)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(request(b"Transfer-Encoding: chunked\r\n", line=b"POST /upload HTTP/1.1"))
            for piece in (b"a", b"bcd", b"x" * 10_000, b"\r\n0\r\n\r\n"):
                connection.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                got = b""
                while len(got) < len(piece):
                    got += await asyncio.wait_for(came.get(), PATIENCE)
                assert got == piece
            connection.writer.write(b"0\r\n\r\n")
            assert (await heard(connection)).status == 200


CUT = {
    "a length": answer(b"Content-Length: 9\r\n", b"hello"),
    "chunks": answer(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n"),
    "a chunk": answer(b"Transfer-Encoding: chunked\r\n", b"9\r\nhello"),
    "the last chunk": answer(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n"),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("case", CUT)
async def test_an_answer_that_is_cut_short_does_not_look_whole(case: str, version: str) -> None:
    """HTTP/1.0 knows no chunks: only a reset tells it."""

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(CUT[case])
        raise ConnectionResetError

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("GET", "/x", version=version)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await heard(connection)


# Expectations and upgrades.

EXPECTING = b"Expect: 100-continue\r\nContent-Length: 3\r\n"


@pytest.mark.parametrize("target", [b"/x", b"/api/show"], ids=["streamed", "held"])
@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue", b"100-CONTINUE"])
async def test_whoever_expects_to_be_told_is_told_once(value: bytes, target: bytes) -> None:
    fields = EXPECTING.replace(b"100-continue", value)
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(request(fields, line=b"POST " + target + b" HTTP/1.1"))
            assert (await asyncio.wait_for(connection.head(), PATIENCE))[0] == "HTTP/1.1 100 Continue"
            connection.writer.write(b"abc")
            assert (await heard(connection)).status_line == "HTTP/1.1 200 OK"
        assert (upstream.seen[0].body, upstream.seen[0].values(b"Expect")) == (b"abc", [])


async def test_whoever_expects_and_does_not_wait_gets_one_final_answer() -> None:
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(request(EXPECTING, b"abc", b"POST /x HTTP/1.1") + request())
            statuses = []
            while len([status for status in statuses if status != "100"]) < 2:
                status_line, fields = await asyncio.wait_for(connection.head(), PATIENCE)
                statuses.append(status_line.split()[1])
                await connection.reader.readexactly(int(dict(fields).get("Content-Length", 0)))
            assert statuses in (["200", "200"], ["100", "200", "200"])
        assert [talk.body for talk in upstream.seen] == [b"abc", b""]


async def test_an_answer_without_asking_for_the_body_closes() -> None:
    """Section 10.1.1 of RFC 9110: what the client may still send must not be taken for a request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            fields = b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(smuggled)
            connection.writer.write(request(fields, line=b"POST /x HTTP/1.1").replace(b"localhost", b"evil.example"))
            refused = await heard(connection)
            assert (refused.status, refused.field("Connection")) == (403, "close")
            connection.writer.write(smuggled)
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(connection.reader.read(), PATIENCE) == b""
        assert not upstream.seen


async def test_nobody_without_a_body_is_told_to_go_on() -> None:
    _, received = await exchange(request(b"Expect: 100-continue\r\n"))
    assert received.status == 200


UPGRADES = {
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    "websocket, in other words": b"Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "tls": b"Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n",
    "nothing that Connection names": b"Upgrade: websocket\r\n",
    "two": b"Connection: upgrade\r\nUpgrade: foo\r\nUpgrade: websocket\r\n",
}


@pytest.mark.parametrize("body", [b"", b"hello"], ids=["", "with a body"])
@pytest.mark.parametrize("case", UPGRADES)
async def test_an_upgrade_is_not_made_and_not_passed_on(case: str, body: bytes) -> None:
    length = b"Content-Length: 5\r\n" if body else b""
    line = b"POST /x HTTP/1.1" if body else b"GET /x HTTP/1.1"
    talk, received = await exchange(request(UPGRADES[case] + length, body, line))
    assert (received.status, received.body, received.field("Upgrade")) == (200, b"{}", None)
    assert talk.body == body
    for name in (b"Upgrade", b"Connection", b"HTTP2-Settings"):
        assert not talk.values(name), name


# What it must not do by itself.


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere", "http://127.0.0.1:1/x", "//evil.example/", "x", ""])
async def test_no_redirect_is_followed(status: int, location: str) -> None:
    said = answer(f"Location: {location}\r\nContent-Length: 2\r\n".encode(), b"{}", b"%d Moved" % status)
    _, received = await exchange(request(b"Content-Length: 3\r\n", b"abc", b"POST /x HTTP/1.1"), said)
    assert received.status_line == f"HTTP/1.1 {status} Moved"
    assert received.field("Location") == location


async def test_no_cookie_is_kept_and_no_credential_asked_for_twice() -> None:
    said = answer(
        b"Set-Cookie: a=b; Path=/\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n", b"{}", b"401 No"
    )
    async with byte_upstream(answering(said)) as upstream, proxy_before(upstream.url) as proxy:
        for _ in range(2):
            assert (await ask(proxy.url, "GET", "/x")).status == 401
        assert [talk.lines for talk in upstream.seen] == [upstream.seen[0].lines] * 2
        assert not upstream.seen[1].values(b"Cookie")


@pytest.mark.parametrize("path", ["/x", "/api/generate"])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, br", "identity", "none"])
async def test_nothing_is_decoded(coding: str, path: str) -> None:
    """The bytes are in no coding at all: whoever tried would fail."""
    lines = f"Content-Encoding: {coding}\r\nContent-Length: 8\r\n".encode()
    sent = request(lines, b"\x1f\x8bno\0gz\n", f"POST {path} HTTP/1.1".encode())
    talk, received = await exchange(sent, answer(lines, b"\x1f\x8bneither"[:8]))
    assert (talk.body, talk.values(b"Content-Encoding")) == (b"\x1f\x8bno\0gz\n", [coding.encode()])
    assert (received.body, received.field("Content-Encoding")) == (b"\x1f\x8bneither"[:8], coding)


@pytest.fixture
def tempting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What other HTTP clients take from the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login x password y\ndefault login x password y\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))


@pytest.mark.usefixtures("tempting")
async def test_no_proxy_and_no_password_is_taken_from_the_environment() -> None:
    talk, received = await exchange(request())
    assert received.status == 200
    assert own_lines(talk) == []
