"""What is no Redis, or breaks off, is a miss and one line in the log: at the start and under load, on both event loops."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.conftest import Measured
from tests.support import canary, odd_servers
from tests.support.odd_servers import odd_server
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, RedisServer, cluster_node, find_server, free_port, proxy_before
from tests.support.tls import AUTHORITY, CERTIFICATE, EXPIRED, OTHER_HOST, tls_before
from tests.support.waiting import until

row = pytest.mark.row
CLIENTS = 20
STARTS = 12

BREAKING_OFF = {
    "resets": odd_servers.resets,
    "resets after the first bytes": odd_servers.resets_after_the_first_bytes,
    "closes": odd_servers.closes,
    "closes with unread bytes": odd_servers.closes_with_unread_bytes,
    "speaks HTTP": odd_servers.says(odd_servers.HTTP),
    "says OK to everything": odd_servers.says(b"+OK\r\n"),
    "says a number to everything": odd_servers.says(b":1\r\n"),
    "says a list to everything": odd_servers.says(b"*2\r\n+a\r\n:1\r\n"),
    "says what no protocol says": odd_servers.says(b"\x00\xffjunk\r\n"),
    "says nothing": odd_servers.is_silent,
}
PLAIN = [("redis", name) for name in BREAKING_OFF]
TLS = [("rediss", name) for name in ("resets", "resets after the first bytes", "speaks HTTP")]
BOTH = pytest.mark.parametrize(("scheme", "name"), PLAIN + TLS)


def generate(prompt: str) -> bytes:
    return json.dumps({"model": "tiny", "prompt": f"{canary.PROMPT} {prompt}", "stream": False}).encode()


async def statuses(proxy: Proxy, each: int) -> list[int]:
    """Ask with several clients at a time; 0 stands for a connection that was reset."""

    async def client(name: int) -> list[int]:
        async with await RawConnection.open(proxy.url) as connection:
            found = []
            for number in range(each):
                connection.send("POST", "/api/generate", body=generate(f"{name} {number}"))
                found.append((await connection.answer()).status)
            return found

    async def counted(name: int) -> list[int]:
        try:
            return await client(name)
        except (OSError, asyncio.IncompleteReadError):
            return [0] * each

    return [status for found in await asyncio.gather(*map(counted, range(CLIENTS))) for status in found]


def named(scheme: str, port: int) -> dict[str, Any]:
    """The settings that name a store on this port."""
    return {"redis_url": f"{scheme}://:{canary.PASSWORD}@127.0.0.1:{port}/0", "redis_ca": AUTHORITY}


@row(31)
@BOTH
async def test_what_breaks_off_or_is_no_redis_costs_no_client_an_answer(
    measured: Measured, simulator: Simulator, scheme: str, name: str
) -> None:
    with odd_server(BREAKING_OFF[name]) as port:
        async with proxy_before(simulator.url, **named(scheme, port)) as proxy:
            found = await statuses(proxy, 10)
            await until(lambda: f"Redis: 127.0.0.1:{port} " in proxy.log.getvalue())
            log = proxy.log.getvalue()
    measured(31, "errors", len(found) - found.count(200))
    assert len(found) == 200
    assert (log.count("Lost Redis"), log.count(f"127.0.0.1:{port} ")) == (1, 1)
    assert "internal error" not in log.lower()


@row(30)
@pytest.mark.parametrize("case", ["TLS port", "plain port", "authority", "expired", "host"])
async def test_tls_that_does_not_come_about_costs_no_client_an_answer(
    measured: Measured, simulator: Simulator, redis_server: RedisServer, case: str
) -> None:
    """A real server, behind a relay where it is to speak TLS."""
    certificate, authority, scheme, says = {
        "TLS port": (CERTIFICATE, AUTHORITY, "redis", "seems to speak TLS: write rediss://"),
        "plain port": (CERTIFICATE, AUTHORITY, "rediss", "seems to speak no TLS: write redis://"),
        "authority": (
            CERTIFICATE,
            OTHER_HOST,
            "rediss",
            "is signed by an authority that is not trusted: name its file",
        ),
        "expired": (EXPIRED, EXPIRED, "rediss", "has expired: renew it"),
        "host": (OTHER_HOST, OTHER_HOST, "rediss", "is of another host: write the name that"),
    }[case]
    async with tls_before(redis_server.url, certificate) as relay:
        port = redis_server.port if case == "plain port" else relay
        settings = named(scheme, port) | {"redis_ca": authority}
        async with proxy_before(simulator.url, **settings) as proxy:
            found = await statuses(proxy, 10)
            await until(lambda: says in proxy.log.getvalue())
            ready = await ask(proxy.url, "GET", "/readyz?require=store")
            log = proxy.log.getvalue()
    measured(30, "errors", len(found) - found.count(200))
    measured(30, "lines", log.count(f"127.0.0.1:{port} "))
    assert len(found) == 200
    assert log.count("Lost Redis") == 1
    assert ready.status == 503
    assert "internal error" not in log.lower()


@pytest.fixture
def node() -> Iterator[RedisServer]:
    """The only node of a cluster: all slots are on it."""
    own = cluster_node()
    yield own
    own.close()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[int]:
    """The port of a real Sentinel."""
    port, binary = free_port(), find_server()
    assert binary is not None
    file = tmp_path / "sentinel.conf"
    file.write_text(f"port {port}\nbind 127.0.0.1\n")
    process = subprocess.Popen([binary, str(file), "--sentinel"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


async def says_so(measured: Measured, simulator: Simulator, url: str, says: str) -> None:
    """Nothing can be kept there: one line says so, clients do not notice, and readyz is not ok."""
    async with proxy_before(simulator.url, redis_url=url) as proxy:
        await until(lambda: says in proxy.log.getvalue())
        found = await statuses(proxy, 2)
        ready = await ask(proxy.url, "GET", "/readyz?require=store")
        usual = json.loads((await ask(proxy.url, "GET", "/readyz")).body)
        clear = (await ask(proxy.url, "POST", "/api/cache/clear")).status
        log = proxy.log.getvalue()
    measured(38, "errors", len(found) - found.count(200))
    measured(38, "lines", log.count(says))
    assert (ready.status, usual["status"], clear) == (503, "degraded", 503)
    assert (log.count("Lost Redis"), log.count("Connected to Redis")) == (1, 0)


@row(38)
async def test_a_node_of_a_cluster_says_so(measured: Measured, simulator: Simulator, node: RedisServer) -> None:
    await says_so(measured, simulator, node.url, f"127.0.0.1:{node.port} is one node of a cluster, in which nothing")


@row(38)
async def test_a_sentinel_says_so(measured: Measured, simulator: Simulator, sentinel: int) -> None:
    url = f"redis://127.0.0.1:{sentinel}/0"
    await says_so(measured, simulator, url, f"127.0.0.1:{sentinel} is a Sentinel, in which nothing")


@row(31)
async def test_every_start_survives(measured: Measured, simulator: Simulator) -> None:
    """uvloop raises RuntimeError where the reset came before the first command: in most starts."""
    started = 0
    with odd_server(odd_servers.resets) as port, suppress(Exception):
        for _ in range(STARTS):
            async with proxy_before(simulator.url, **named("redis", port)):
                started += 1
    measured(31, "starts", STARTS - started)


@row(31)
@pytest.mark.parametrize("name", ["resets", "says OK to everything", "speaks HTTP"])
async def test_the_hot_tier_works_again_once_a_good_store_is_there(
    measured: Measured, simulator: Simulator, name: str
) -> None:
    server = RedisServer()
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        with odd_server(BREAKING_OFF[name], server.port) as port:
            proxy = await stack.enter_async_context(proxy_before(simulator.url, **named("redis", port)))
            assert set(await statuses(proxy, 2)) == {200}
            store: Any = proxy.running.store
            assert not store._holding, "nothing tells it of changes"
        server.start()
        begun = time.monotonic()
        async with asyncio.timeout(20):
            while not (store._holding and store._generation is not None):
                await ask(proxy.url, "POST", "/api/generate", body=generate("known"))
                await asyncio.sleep(0.02)
        measured(31, "back", time.monotonic() - begun)
        assert (await ask(proxy.url, "POST", "/api/generate", body=generate("known"))).field("X-Cache") == "HIT"
