"""Requests as real clients send them that a parser may stumble over: Java's HttpClient, ollama4j, Spring."""

from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer, RawConnection
from tests.support.servers import Proxy, proxy_before
from tests.support.upstream import answering, byte_upstream, whole

H2C = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/17.0.13\r\n"
"""What java.net.http sends with every request, unless it is told to speak HTTP/1.1."""
GENERATE = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
STREAM = json.dumps({"model": "tiny", "prompt": "why"}).encode()
EMBED = json.dumps({"model": "all-minilm", "input": ["a", "b"]}).encode()


def request(line: str, fields: str, body: bytes = b"", *, chunked: bool = False) -> bytes:
    length = "Transfer-encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n" if body else ""
    data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    return f"{line} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n".encode() + data


async def answers(proxy: Proxy, *requests: bytes, pieces: int = 1) -> list[RawAnswer]:
    """Send requests over one connection, each after the answer to the one before, and in so many pieces."""
    found = []
    async with await RawConnection.open(proxy.url) as connection:
        for data in requests:
            step = -(-len(data) // pieces)
            for at in range(0, len(data), step):
                connection.writer.write(data[at : at + step])
                await connection.writer.drain()
            found.append(await connection.answer())
    return found


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked, as Spring's client"])
@pytest.mark.parametrize(
    ("line", "body", "cache"),
    [
        ("POST /api/generate", GENERATE, "ollama-cache-proxy; hit"),
        ("POST /api/generate", STREAM, "ollama-cache-proxy; hit"),
        ("POST /api/embed", EMBED, "ollama-cache-proxy; hit"),
        ("POST /api/show", b'{"model":"tiny"}', "ollama-cache-proxy; fwd=bypass; detail=endpoint"),
        ("GET /api/tags", b"", "ollama-cache-proxy; fwd=bypass; detail=endpoint"),
        ("GET /healthz", b"", None),
        ("POST /nowhere", b"x", "ollama-cache-proxy; fwd=bypass; detail=endpoint"),
    ],
)
async def test_h2c_is_ignored_and_the_connection_stays(
    line: str, body: bytes, cache: str | None, chunked: bool, simulator: Simulator
) -> None:
    if chunked and not body:
        return
    async with proxy_before(simulator.url, cache_streams=True) as proxy:
        data = request(line, H2C, body, chunked=chunked)
        (plain,) = await answers(proxy, request(line, "", body, chunked=chunked))
        await proxy.kept()
        for answer in await answers(proxy, *[data] * 5):
            assert (answer.status, answer.body) == (plain.status, plain.body)
            assert answer.field("Connection") is None
            assert answer.field("Upgrade") is None
            assert cache is None or str(answer.field("Cache-Status")).split("; ttl")[0] == cache


async def test_h2c_hits_are_served_by_their_bytes(proxy: Proxy) -> None:
    """They are as fast as others: the third one is not parsed any more."""
    data = request("POST /api/generate", H2C, GENERATE)
    await answers(proxy, data)
    await proxy.kept()
    await answers(proxy, data, data, data)
    assert len(proxy.running.exchanges.fast_path._all) == 1


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        pytest.param(
            "User-Agent: ollama4j\r\nContent-Type: application/json\r\nContent-type: application/json\r\n" + H2C,
            [b"User-Agent: ollama4j", b"Content-Type: application/json", b"Content-type: application/json", b"User-Agent: Java-http-client/17.0.13"],
            id="ollama4j",
        ),
        pytest.param("Accept: a\r\nUser-Agent: a\r\nUser-Agent: b\r\n", [b"Accept: a", b"User-Agent: a", b"User-Agent: b"], id="two agents"),
    ],
)  # fmt: skip
async def test_repeated_fields_go_on_as_they_came(fields: str, sent: list[bytes], pieces: int) -> None:
    async with byte_upstream(answering(whole(b"{}"))) as upstream, proxy_before(upstream.url) as proxy:
        data = request("GET /x", fields)
        for answer in await answers(proxy, data, data, pieces=pieces):
            assert (answer.status, answer.field("Connection")) == (200, None)
        for talk in upstream.seen:
            assert [line for line in talk.lines if not line.startswith((b"Host:", b"Via:"))] == sent


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/api/ps", "/v1/models", "/", "/api/cache/stats"])
async def test_what_ollama4j_asks_gets_ollamas_answer(path: str) -> None:
    twice = "Content-Type: application/json\r\nContent-type: application/json\r\n" + H2C
    async with byte_upstream(answering(whole(b"{}"))) as upstream, proxy_before(upstream.url) as proxy:
        (plain,) = await answers(proxy, request(f"GET {path}", ""))
        for answer in await answers(proxy, *[request(f"GET {path}", twice)] * 2):
            assert (answer.status, answer.field("Connection")) == (200, None)
            assert answer.body == plain.body or path == "/api/cache/stats"


async def test_the_simulator_takes_them_too(simulator: Simulator) -> None:
    """So who tries a client on the simulator sees what Ollama answers."""
    twice = "Content-Type: application/json\r\nContent-type: application/json\r\n" + H2C
    async with proxy_before(simulator.url) as proxy:
        for path in ("/api/tags", "/api/version", "/api/ps", "/"):
            plain, *again = await answers(proxy, request(f"GET {path}", ""), *[request(f"GET {path}", twice)] * 2)
            assert [(answer.status, answer.body) for answer in again] == [(200, plain.body)] * 2


async def test_equal_lengths_go_out_as_one_and_are_hits_too(simulator: Simulator) -> None:
    twice = f"Content-Length: {len(GENERATE)}\r\n"
    async with proxy_before(simulator.url) as proxy:
        data = request("POST /api/generate", twice, GENERATE)
        miss, hit, again = await answers(proxy, data, data, data)
        assert (miss.status, hit.body, again.body) == (200, miss.body, miss.body)
        assert [answer.field("X-Cache") for answer in (miss, again)] == ["MISS", "HIT"]
        (asked,) = [one for one in simulator.received if one.target == "/api/generate"]
        assert [value for name, value in asked.fields if name.lower() == b"content-length"] == [b"%d" % len(GENERATE)]


async def test_a_thousand_fields_go_on(simulator: Simulator) -> None:
    async with byte_upstream(answering(whole(b"{}"))) as upstream, proxy_before(upstream.url) as proxy:
        fields = "".join(f"X-{number}: {number}\r\n" for number in range(1000))
        (answer,) = await answers(proxy, request("GET /x", fields), pieces=20)
        assert answer.status == 200
        assert [line for line in upstream.seen[0].lines if line.startswith(b"X-")] == fields.encode().split(b"\r\n")[
            :-1
        ]


async def test_a_head_over_256_kib_is_refused_while_it_comes(proxy: Proxy) -> None:
    async with await RawConnection.open(proxy.url) as connection:
        connection.writer.write(b"GET /x HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(12):
            connection.writer.write(b"X-%d: %b\r\n" % (number, b"a" * 30_000))
        assert (await connection.reader.read()).startswith(b"HTTP/1.1 400 ")
