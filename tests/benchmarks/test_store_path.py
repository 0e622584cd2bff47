"""The way to Redis that `make chaos` breaks: what comes through, what does not, and that it heals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from benchmarks.chaos import KINDS
from benchmarks.store_path import Path, Way
from tests.support import canary
from tests.support.servers import RedisServer

AUTH = f"AUTH {canary.PASSWORD}\r\n".encode()
BROKEN = {
    Path.SPEAKS_TLS: b"\x15\x03\x03",
    Path.SPEAKS_HTTP: b"HTTP/1.1 400 ",
    Path.RESETS: b"",
    Path.UNREAD: b"+OK\r\n",
}


@asynccontextmanager
async def begun(server: RedisServer) -> AsyncIterator[tuple[Way, int]]:
    way = Way(server.port, Random(1))
    listening = await asyncio.start_server(way.serve, "127.0.0.1", 0)
    try:
        yield way, listening.sockets[0].getsockname()[1]
    finally:
        way.be(Path.RESETS)
        listening.close()


async def said(port: int, *commands: bytes) -> bytes:
    """Send commands over a connection, and give what comes for each until its end or the line's."""
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            got = b""
            for command in commands:
                writer.write(command)
                await writer.drain()
                got += await reader.readline()
            writer.close()
            return got
    except ConnectionError:
        return b""


async def works(port: int) -> bool:
    return await said(port, AUTH, b"PING\r\n") == b"+OK\r\n+PONG\r\n"


@pytest.mark.parametrize("path", [Path.THROUGH, Path.SLOW])
async def test_what_relays_lets_all_through(path: Path, redis_server: RedisServer) -> None:
    async with begun(redis_server) as (way, port):
        way.be(path)
        assert await works(port)


@pytest.mark.parametrize("path", BROKEN)
async def test_what_is_broken_is_so_until_it_is_healed(path: Path, redis_server: RedisServer) -> None:
    async with begun(redis_server) as (way, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(AUTH)
        assert await reader.readline() == b"+OK\r\n"
        way.be(path)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        got = await said(port, AUTH)
        assert got.startswith(BROKEN[path]) or got == b"", "a reset may overtake what was said"
        assert not await works(port)
        way.be(Path.THROUGH)
        assert await works(port)
        writer.close()


async def test_a_silent_one_takes_what_comes(redis_server: RedisServer) -> None:
    async with begun(redis_server) as (way, port):
        way.be(Path.SILENT)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(AUTH)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        way.be(Path.THROUGH)
        assert await works(port)
        writer.close()


async def test_one_that_drops_drops_some_and_not_all(redis_server: RedisServer) -> None:
    async with begun(redis_server) as (way, port):
        way.be(Path.DROPS)
        through = [await works(port) for _ in range(100)]
    assert 30 < sum(through) < 100


def test_each_is_a_fault_that_is_drawn() -> None:
    names = {f"store-{path.value}" for path in Path if path is not Path.THROUGH}
    assert names <= KINDS.keys()
    assert all(name == kind.name for name, kind in KINDS.items())
