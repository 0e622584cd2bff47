"""What is not the cache's business goes through byte for byte, in both directions: one test a row of what breaks it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
import os
import random
import socket
from contextlib import suppress
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.upstream import Conversation, answering, byte_upstream, whole

OK = whole(b"{}")
CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'


async def raw(url: str, data: bytes) -> bytes:
    """Send bytes, and give all that comes until the other side closes."""
    async with await RawConnection.open(url) as connection:
        connection.writer.write(data)
        return await asyncio.wait_for(connection.reader.read(), 10)


# Requests.


@pytest.mark.parametrize(
    "target",
    ["/x/%2F", "/%7Ea", "//a", "/x/../y", "/x/./y", "/%zz", "/a?b=c&d", "/a?", "/a?x=%20y+z", "/a;b=c", "/a?b#c",
     "/api/generate?x=1", "/api/%67enerate", "/api/generate/", "/a?q=http://x/?y", "/" + "a" * 20_000],
)  # fmt: skip
async def test_the_target_arrives_as_it_was_sent(target: str) -> None:
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        await ask(proxy.url, "POST", target, body=b"{}")
        assert upstream.seen[0].request_line == f"POST {target} HTTP/1.1".encode("latin-1")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"])
async def test_any_method_arrives(method: str) -> None:
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        answer = await ask(proxy.url, method, "/anything", body=b"abc")
        assert answer.status == 200
        assert upstream.seen[0].request_line == f"{method} /anything HTTP/1.1".encode()
        assert upstream.seen[0].body == b"abc"


async def test_an_absolute_target_is_asked_of_the_upstream_alone() -> None:
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        data = b"GET http://localhost:1/x?y HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n"
        assert b"200 OK" in await raw(proxy.url, data)
        assert upstream.seen[0].request_line == b"GET /x?y HTTP/1.1"
        assert upstream.seen[0].values(b"Host") == [upstream.url.removeprefix("http://").encode()]


async def test_no_field_is_invented_and_none_is_lost() -> None:
    sent = b"X-A: 1\r\nx-a: 2\r\nX-Latin: \xe9\xff\r\nX-EMPTY:\r\nAccept-Encoding: gzip, br\r\nAuthorization: Bearer t\r\nCookie: a=b; c=d\r\nX-UTF: \xc3\xa9\r\n"
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        await raw(proxy.url, b"GET /x HTTP/1.1\r\nHost: localhost\r\n" + sent + b"Connection: close\r\n\r\n")
        host = b"Host: " + upstream.url.removeprefix("http://").encode()
        lines = [line.rstrip() for line in upstream.seen[0].lines]
        expected = [line.rstrip() for line in sent.split(b"\r\n")[:-1]]
        assert lines[:-1] == [host, *expected]
        assert lines[-1].startswith(b"Via: 1.1 ollama-cache-proxy-")


async def test_hop_by_hop_fields_stay_at_their_hop() -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\n{}"
    async with byte_upstream(answering(answer)) as upstream, proxy_before(upstream.url) as proxy:
        sent = b"Connection: close, X-Hop, content-length\r\nX-Hop: 1\r\nTE: trailers\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\nContent-Length: 2\r\n"
        reply = await raw(proxy.url, b"POST /x HTTP/1.1\r\nHost: localhost\r\n" + sent + b"\r\n{}")
        for name in (b"Connection", b"X-Hop", b"TE", b"Proxy-Authorization", b"Upgrade"):
            assert not upstream.seen[0].values(name), name
        assert upstream.seen[0].body == b"{}"
        assert b"X-Mine" not in reply
        assert b"Keep-Alive" not in reply
        assert b"X-Kept: 2" in reply


async def test_a_compressed_request_arrives_compressed() -> None:
    body = gzip.compress(b'{"model":"tiny"}')
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        await ask(proxy.url, "POST", "/api/generate", fields={"Content-Encoding": "gzip"}, body=body)
        assert upstream.seen[0].body == body
        assert upstream.seen[0].values(b"Content-Encoding") == [b"gzip"]


async def test_a_chunked_request_arrives_whole() -> None:
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        data = b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert b"200 OK" in await raw(proxy.url, data)
        assert upstream.seen[0].body == b"abcde"


async def test_expect_is_answered_here() -> None:
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(
                b"POST /x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
            )
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.writer.write(b"abc")
            assert (await connection.answer()).status == 200
        assert not upstream.seen[0].values(b"Expect")


async def test_an_upload_of_any_size_is_streamed(simulator: Simulator) -> None:
    """64 MiB, eight times what is read for the cache."""
    block = os.urandom(1 << 20)
    digest = hashlib.sha256(block * 64).hexdigest()
    async with proxy_before(simulator.url) as proxy, await RawConnection.open(proxy.url) as connection:
        head = f"POST /api/blobs/sha256:{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {64 << 20}\r\n\r\n"
        connection.writer.write(head.encode())
        for _ in range(64):
            connection.writer.write(block)
            await connection.writer.drain()
        assert (await connection.answer()).status == 201


async def test_an_early_answer_is_relayed_while_the_client_is_still_sending() -> None:
    """Ollama does not read the upload of a blob that it has."""

    async def script(talk: Conversation) -> None:
        await talk.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        raise ConnectionResetError

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(
                b"POST /api/blobs/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc"
            )
            answer = await asyncio.wait_for(connection.answer(), 5)
            assert answer.status == 200
            assert answer.field("Connection") == "close"


# Answers.


async def test_an_answer_keeps_its_reason_its_names_and_its_redirect() -> None:
    answer = b'HTTP/1.1 307 Elsewhere Then\r\nETag: "x"\r\nlocation: /y\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nno'
    async with byte_upstream(answering(answer)) as upstream, proxy_before(upstream.url) as proxy:
        seen = await ask(proxy.url, "GET", "/x")
        assert seen.status_line == "HTTP/1.1 307 Elsewhere Then"
        assert seen.fields[:5] == (
            ("ETag", '"x"'),
            ("location", "/y"),
            ("Set-Cookie", "a=b"),
            ("Set-Cookie", "c=d"),
            ("Content-Length", "2"),
        )
        assert [name for name, _ in seen.fields[5:]] == ["Cache-Status", "X-Cache"]


async def test_a_compressed_answer_stays_compressed() -> None:
    body = gzip.compress(b"hello")
    answer = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with byte_upstream(answering(answer)) as upstream, proxy_before(upstream.url) as proxy:
        seen = await ask(proxy.url, "GET", "/x")
        assert seen.body == body
        assert seen.field("Content-Length") == str(len(body))


@pytest.mark.parametrize("status", [204, 304, 404, 500, 503])
async def test_a_status_passes(status: int) -> None:
    head = f"HTTP/1.1 {status} Said\r\n" + ("" if status in (204, 304) else "Content-Length: 0\r\n") + "X-A: b\r\n\r\n"
    async with byte_upstream(answering(head.encode())) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            for _ in range(2):  # the second shows that nothing was left over from the first
                connection.send("GET", "/x")
                status_line, fields = await asyncio.wait_for(connection.head(), 5)
                assert status_line == f"HTTP/1.1 {status} Said"
                assert ("X-A", "b") in fields
                assert "Transfer-Encoding" not in dict(fields)


async def test_head_twice_on_one_connection(proxy: Proxy) -> None:
    """The second empty answer of a connection once made a core spin."""
    length = str(len((await ask(proxy.url, "GET", "/api/version")).body))
    async with await RawConnection.open(proxy.url) as connection:
        for _ in range(3):
            connection.send("HEAD", "/api/version")
            answer = await asyncio.wait_for(connection.answer("HEAD"), 5)
            assert (answer.status, answer.field("Content-Length")) == (200, length)


async def test_a_stream_passes_chunk_by_chunk_as_it_comes() -> None:
    """Each chunk is held until the one before has been seen by the client: none is merged, split or held back."""
    seen = asyncio.Event()
    pieces = [b'{"response":"%d"}\n' % number for number in range(5)] + [b"x" * 40_000]

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await talk.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.wait_for(seen.wait(), 5)
            seen.clear()
        await talk.write(b"0\r\n\r\n")

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", "/api/chat", body=CHAT)
            await connection.head()
            for piece in pieces:
                assert await asyncio.wait_for(connection.chunk(), 5) == piece
                seen.set()
            assert await connection.chunk() == b""


async def test_chunks_that_come_together_stay_apart() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n1\r\nd\r\n0\r\n\r\n"
        )

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        assert (await ask(proxy.url, "POST", "/api/chat", body=CHAT)).chunks == (b"a", b"bc", b"d")


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("seed", range(5))
async def test_chunks_stay_what_they_are_however_they_are_torn(seed: int, slow: bool) -> None:
    """Whole ones, several, and parts of one come in turn; a slow client holds them up in the middle."""
    source = random.Random(seed)
    pieces = [source.randbytes(source.choice((1, 5, 100, 5000, 60_000))) for _ in range(80)]
    pieces += [b"5\r\n5", b"\r\n", b"0\r\n\r\n"]
    source.shuffle(pieces)
    written = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for text in [*written, b"0\r\n\r\n"]:
            cuts = sorted(source.sample(range(len(text)), source.choice((0, 0, 0, 1, 2))))
            for begin, end in itertools.pairwise((0, *cuts, len(text))):
                await talk.write(text[begin:end])
                await asyncio.sleep(source.choice((0, 0.0005)))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096 if slow else 1 << 20)
            sock.setblocking(False)
            host, _, port = proxy.url.removeprefix("http://").rpartition(":")
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
            reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
            client = RawConnection(reader, writer, "localhost")
            client.send("POST", "/api/chat", body=CHAT)
            await asyncio.sleep(0.2 if slow else 0)
            answer = await asyncio.wait_for(client.answer(), 20)
            client.close()
        assert answer.chunks == tuple(pieces)


async def test_an_answer_that_ends_by_closing_is_chunked_for_the_client() -> None:
    async def script(talk: Conversation) -> None:
        await talk.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
        raise ConnectionResetError

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        answer = await ask(proxy.url, "GET", "/x")
        assert (answer.body, answer.field("Transfer-Encoding")) == (b"abc", "chunked")


async def test_http_1_0_gets_its_stream_ended_by_closing(proxy: Proxy) -> None:
    answer = await ask(proxy.url, "POST", "/api/chat", body=CHAT, version="1.0")
    assert answer.status_line == "HTTP/1.0 200 OK"
    assert answer.field("Transfer-Encoding") is None
    assert answer.body.endswith(b"}\n")
    assert answer.closed


# What goes wrong.


async def broken_off(talk: Conversation) -> None:
    await talk.read_body()
    await talk.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    )
    raise ConnectionResetError


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_stream_that_breaks_off_ends_in_a_reset(version: str) -> None:
    async with byte_upstream(broken_off) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", "/api/chat", body=CHAT, version=version)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(connection.reader.read(-1), 5)


async def test_a_completion_that_breaks_off_is_a_502() -> None:
    async with byte_upstream(broken_off) as upstream, proxy_before(upstream.url) as proxy:
        body = b'{"model":"tiny","prompt":"x","stream":false}'
        answer = await ask(proxy.url, "POST", "/api/generate", body=body)
        assert answer.status == 502
        assert answer.body == b'{"error":"Ollama broke off in the middle of its response"}'
        assert answer.field("Content-Type") == "application/json; charset=utf-8"


JUNK = [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSecret-Prompt\r\n\r\n", b""]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_junk_from_upstream_is_a_502_that_repeats_none_of_it(junk: bytes, path: str) -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(junk)
        raise ConnectionResetError

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        answer = await ask(proxy.url, "POST", path, body=b'{"model":"tiny","prompt":"x","stream":false}')
        assert answer.status == 502
        assert b"Secret" not in answer.body
        assert "Secret" not in proxy.log.getvalue()


async def test_an_upstream_that_refuses_is_a_502_as_json() -> None:
    async with byte_upstream(answering(OK)) as upstream:
        url = upstream.url
    async with proxy_before(url) as proxy:
        answer = await ask(proxy.url, "GET", "/api/tags")
        assert answer.status == 502
        assert answer.body.startswith(b'{"error":"Ollama at 127.0.0.1:')
        assert answer.field("X-Cache") == "BYPASS"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/api/chat", ("error",)),
        ("/v1/chat/completions", ("error", "message")),
        ("/v1/embeddings", ("error", "message")),
        ("/v1/responses", ("error", "message")),
        ("/v1/messages", ("error", "message")),
        ("/v1/messages?beta=true", ("error", "message")),
        ("/v1/messages/count_tokens", ("error", "message")),
        ("/v1/audio/transcriptions", ("error", "message")),
        ("/v1/images/generations", ("error", "message")),
        ("/v1/messages/batches", ("error", "message")),
        ("/api/nothing", ("error",)),
    ],
)
async def test_an_error_of_the_proxys_own_has_the_form_of_its_endpoint(path: str, place: tuple[str, ...]) -> None:
    async with byte_upstream(answering(OK)) as upstream:
        url = upstream.url
    async with proxy_before(url) as proxy:
        answer = await ask(proxy.url, "POST", path, body=CHAT)
        assert (answer.status, answer.field("Content-Type")) == (502, "application/json; charset=utf-8")
        told: Any = json.loads(answer.body)
        for name in place:
            told = told[name]
        assert told.startswith("Ollama at 127.0.0.1:")


async def test_upstream_timeout_is_a_504() -> None:
    async def script(talk: Conversation) -> None:
        await talk.reader.read()
        raise ConnectionResetError

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, upstream_timeout=0.05) as proxy:
        answer = await ask(proxy.url, "POST", "/api/chat", body=CHAT)
        assert answer.status == 504
        assert answer.body == b'{"error":"Ollama did not answer within 0.05 s (upstream_timeout)"}'


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", f"/api/{name}") for name in ("create", "pull", "push", "copy", "push?x", "%70ush")),
        ("DELETE", "/api/delete"),
        ("POST", f"/api/blobs/sha256:{64 * '0'}"),
    ],
)
async def test_what_works_on_files_may_be_silent(method: str, path: str) -> None:
    """Ollama 0.33 sends not even a head before a model is quantized, nor before a push that does not stream is done."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        if not talk.request_line.startswith(b"POST /api/chat"):
            asked.set()
            await go_on.wait()
            await talk.write(OK)
        else:
            await talk.reader.read()

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, upstream_timeout=0.05) as proxy:
        silent = asyncio.create_task(ask(proxy.url, method, path, body=b'{"model":"a","from":"tiny"}'))
        await asked.wait()
        assert (await ask(proxy.url, "POST", "/api/chat", body=CHAT)).status == 504, "after the deadline of both"
        go_on.set()
        assert (await silent).status == 200


async def test_a_connection_that_closed_while_idle_costs_no_request() -> None:
    """The first answer leaves a connection in the pool that the upstream closes when the second request arrives."""
    served = 0

    async def script(talk: Conversation) -> None:
        nonlocal served
        await talk.read_body()
        served += 1
        if served == 2:
            raise ConnectionResetError
        await talk.write(OK)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        for _ in range(2):
            assert (await ask(proxy.url, "POST", "/api/chat", body=CHAT)).status == 200
        assert served == 3


async def test_a_request_is_sent_twice_at_most() -> None:
    served = 0

    async def script(talk: Conversation) -> None:
        nonlocal served
        await talk.read_body()
        served += 1
        if served > 1:
            raise ConnectionResetError
        await talk.write(OK)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        assert (await ask(proxy.url, "GET", "/x")).status == 200
        assert (await ask(proxy.url, "GET", "/x")).status == 502
        assert served == 3


async def test_a_client_that_leaves_ends_the_upstream_request() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await talk.reader.readexactly(1)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", "/api/chat", body=CHAT)
            await connection.head()
        await asyncio.wait_for(upstream.left.wait(), 5)


BAD = [b"GARBAGE secret-token\r\n\r\n", b"GET / HTTP/1.1\r\nHost localhost secret-token\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00secret-token\r\n\r\n",
       b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000 + b"\r\n\r\n"]  # fmt: skip


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
async def test_what_is_no_http_is_a_400_that_repeats_nothing(
    data: bytes, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await raw(proxy.url, data)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"secret" not in answer
    assert "secret" not in proxy.log.getvalue() + "".join(capfd.readouterr())


async def test_a_loop_is_a_508() -> None:
    """Its upstream is the proxy itself, under a name and a port that it does not know for its own."""

    async def back(talk: Conversation) -> None:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(talk.head)
            answer = await asyncio.wait_for(connection.answer(), 5)
        await talk.write(whole(answer.body, status=answer.status_line.partition(" ")[2]))

    async with byte_upstream(back) as detour, proxy_before(detour.url) as proxy:
        for path in ("/x", "/api/show", "/v1/models"):
            answer = await ask(proxy.url, "GET", path)
            assert answer.status == 508
            assert json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:1", 200), ("my.local", 200), ("evil.example", 403), ("8.8.8.8", 403)],
)
async def test_a_foreign_host_is_an_empty_403(host: str, status: int, proxy: Proxy) -> None:
    for path in ("/api/version", "/api/cache/stats", "/metrics"):
        answer = await ask(proxy.url, "GET", path, fields={"Host": host})
        assert answer.status == status
        assert status == 200 or answer.body == b""


async def test_an_origin_that_is_the_proxy_itself_is_taken_off(simulator: Simulator, proxy: Proxy) -> None:
    fields = {"Host": "my.internal:80", "Origin": "http://my.internal:80"}
    assert (await ask(proxy.url, "GET", "/api/version", fields=fields)).status == 200
    assert (
        await ask(proxy.url, "GET", "/api/version", fields=fields | {"Origin": "http://other.example"})
    ).status == 403


async def test_slow_heads_are_told_and_closed(simulator: Simulator) -> None:
    """Who has sent nothing is told nothing: a browser connects ahead, and would take it for an answer."""
    async with proxy_before(simulator.url, head_timeout=1) as proxy:
        parts = (b"", b"G", b"GET / HTTP/1.1\r\nHost: local")
        nothing, *answers = await asyncio.gather(*(raw(proxy.url, part) for part in parts))
        assert nothing == b""
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"\r\nConnection: close\r\n" in answer


async def test_a_kept_connection_that_begins_a_slow_head_is_told_too(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, head_timeout=1) as proxy, await RawConnection.open(proxy.url) as client:
        client.send("GET", "/api/version")
        assert (await client.answer()).status == 200
        await asyncio.sleep(1.2)  # past the deadline, which is not for those who ask nothing
        client.writer.write(b"GET /api/version HT")
        assert (await client.answer()).status == 408
        assert await asyncio.wait_for(client.reader.read(), 10) == b""


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/pull", "/api/blobs/x", "/api/cache/explain"])
async def test_a_body_that_stalls_is_told_and_closed(path: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, body_timeout=0.05) as proxy:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{{"
        answer = await raw(proxy.url, head.encode())
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b'{"error":"no more of the request came within 0.05 s (body_timeout)"}')


async def test_too_many_connections_are_refused_cleanly(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, max_connections=1) as proxy, await RawConnection.open(proxy.url) as first:
        simulator.gate.close()
        first.send("POST", "/api/chat", body=CHAT)
        await simulator.arrived(1)
        assert (await raw(proxy.url, b"")).startswith(b"HTTP/1.1 503 ")
        simulator.gate.open()
        assert (await first.answer()).status == 200


async def test_a_hundred_who_wait_are_in_nobodys_way() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        if talk.request_line.startswith(b"GET"):
            await talk.write(OK)
        else:
            await talk.reader.readexactly(1)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        waiting = [await RawConnection.open(proxy.url) for _ in range(150)]
        for connection in waiting:
            connection.send("POST", "/api/chat", body=CHAT)
        assert (await asyncio.wait_for(ask(proxy.url, "GET", "/x"), 10)).status == 200
        for connection in waiting:
            connection.close()


async def test_a_body_that_comes_after_its_head_is_no_slow_head(simulator: Simulator) -> None:
    """The deadline for heads once ran on while the request was answered, and cut long generations."""
    async with proxy_before(simulator.url, head_timeout=1) as proxy:
        simulator.gate.close()
        connections = [await RawConnection.open(proxy.url) for _ in range(6)]
        for connection in connections:
            connection.writer.write(
                b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(CHAT)
            )
            await asyncio.sleep(0)
            connection.writer.write(CHAT)
        await simulator.arrived(6)
        await asyncio.sleep(1.2)  # past the deadline
        simulator.gate.open()
        for connection in connections:
            assert (await connection.answer()).status == 200
            connection.close()


async def test_an_answer_that_comes_before_any_byte_of_the_body() -> None:
    async def script(talk: Conversation) -> None:
        await talk.write(whole(b"{}", status="404 Not Found"))
        await talk.reader.readexactly(1)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(b"POST /api/nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n")
            assert (await asyncio.wait_for(connection.answer(), 5)).status == 404


async def test_a_request_of_which_part_was_answered_is_not_sent_again() -> None:
    """A deletion that had succeeded was asked for again, and then there was nothing to delete."""
    served = 0

    async def script(talk: Conversation) -> None:
        nonlocal served
        await talk.read_body()
        served += 1
        if served == 2:
            await talk.write(b"HTTP/1.1 200")
            raise ConnectionResetError
        await talk.write(OK)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        for status in (200, 502):
            assert (await ask(proxy.url, "DELETE", "/api/delete", body=b'{"model":"tiny"}')).status == status
        assert served == 2


async def test_upstream_timeout_does_not_count_the_upload() -> None:
    async with byte_upstream(answering(OK)) as upstream, proxy_before(upstream.url, upstream_timeout=1) as proxy:
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(b"POST /api/other HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
            await asyncio.sleep(1.2)
            connection.writer.write(b"cd")
            assert (await connection.answer()).status == 200


async def test_an_absolute_target_names_the_host_that_counts(proxy: Proxy) -> None:
    for target, host, status in (("evil.example", "localhost", b"403"), ("localhost", "evil.example", b"200")):
        data = f"GET http://{target}/api/version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert (await raw(proxy.url, data.encode())).startswith(b"HTTP/1.1 " + status)


async def test_a_coded_body_is_not_passed_on_without_its_coding(proxy: Proxy, simulator: Simulator) -> None:
    data = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    assert (await raw(proxy.url, data)).startswith(b"HTTP/1.1 501 ")
    assert not [request for request in simulator.received if request.method == "POST"]


async def test_pipelined_upgrades_are_answered_plainly_each(proxy: Proxy) -> None:
    data = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    last = data.replace(b"Upgrade\r\n", b"Upgrade, close\r\n", 1)
    responses = (await raw(proxy.url, data * 3 + last + data)).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [b"Connection: close" in response for response in responses] == [False, False, False, True]


async def test_http_1_0_is_not_told_to_continue(proxy: Proxy) -> None:
    data = b"POST /api/show HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n" + b'{"model":"tiny"}'
    assert (await raw(proxy.url, data)).startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize("busy", [False, True])
async def test_draining_ends_although_a_client_stays(busy: bool, simulator: Simulator) -> None:
    """An idle connection, or a stream that goes on, once kept the proxy from ending for ever."""
    async with proxy_before(simulator.url) as proxy, await RawConnection.open(proxy.url) as connection:
        connection.send("GET", "/api/version")
        await connection.answer()
        if busy:
            simulator.gate.close()
            connection.send("POST", "/api/chat", body=CHAT)
            await simulator.arrived(1)
        await asyncio.wait_for(proxy.running.listener.drain(0.05), 5)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(connection.reader.read(), 5) == b""
        simulator.gate.open()


async def test_pipelined_requests_are_answered_in_order(proxy: Proxy) -> None:
    async with await RawConnection.open(proxy.url) as connection:
        for path in ("/api/version", "/", "/api/nope"):
            connection.send("GET", path)
        assert [(await connection.answer()).status for _ in range(3)] == [200, 200, 404]


async def test_draining_announces_that_the_connection_closes(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy, await RawConnection.open(proxy.url) as connection:
        connection.send("GET", "/api/version")
        assert (await connection.answer()).field("Connection") is None
        draining = asyncio.create_task(proxy.running.listener.drain(5))
        await asyncio.sleep(0)
        connection.send("GET", "/api/version")
        assert (await connection.answer()).field("Connection") == "close"
        await draining
