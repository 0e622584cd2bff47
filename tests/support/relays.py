"""A relay on loopback that makes a neighbour as slow as one far away, or loses its connections."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

Delay: TypeAlias = Callable[[], float]
"""How long the next piece takes, in seconds, each way."""
Lost: TypeAlias = Callable[[], bool]
"""Whether the connection is lost with the piece that its client sends now, or as it is opened."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER, on for no time: closing sends a reset (socket(7))."""


def always(seconds: float) -> Delay:
    """Delay each piece as long as any other."""
    return lambda: seconds


def between(low: float, high: float, seed: int = 33) -> Delay:
    """Delay each piece by another time between these."""
    draw = random.Random(seed)
    return lambda: draw.uniform(low, high)


def one_in(count: int) -> Lost:
    """Lose each such one."""
    seen = 0

    def lost() -> bool:
        nonlocal seen
        seen += 1
        return seen % count == 0

    return lost


class _Relay:
    def __init__(self, port: int, delay: Delay, lost: Lost) -> None:
        self._port = port
        self._delay = delay
        self._lost = lost
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until one side closes it, or until it is lost."""
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        writers = [writer]
        try:
            with suppress(OSError):
                if not self._lost():
                    inner, outer = await asyncio.open_connection("127.0.0.1", self._port)
                    writers.append(outer)
                    await self._both_ways((reader, outer), (inner, writer))
        finally:
            self.serving.discard(task)
            for one in writers:
                _reset(one)

    async def _both_ways(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        (reader, outer), (inner, writer) = ways
        copying = [
            asyncio.ensure_future(self._copy(reader, outer, self._lost)),
            asyncio.ensure_future(self._copy(inner, writer, bool)),
        ]
        try:
            await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in copying:
                way.cancel()
            await asyncio.gather(*copying, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: Lost) -> None:
        """Hand pieces on in their order, each after its delay."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.ensure_future(_write(due, writer))
        loop, at, piece = asyncio.get_running_loop(), 0.0, b"-"
        try:
            while piece:
                piece = await reader.read(65_536)
                if piece and lost():
                    return
                at = max(at, loop.time() + self._delay())
                due.put_nowait((at, piece))
            await writing
        finally:
            writing.cancel()


async def _write(due: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        at, piece = await due.get()
        await asyncio.sleep(at - loop.time())
        if not piece:
            return
        writer.write(piece)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def relay_before(port: int, *, delay: Delay | None = None, lost: Lost = bool) -> AsyncIterator[int]:
    """Listen on a port of loopback, and hand on to another; gives the port."""
    relay = _Relay(port, delay or always(0.0), lost)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        serving = list(relay.serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
