"""A list of 64 texts for `/api/embed`, vectors of 768 floats: all of them stored, or half; and a longer list.

The stub runs in this process, on the core of the load, and takes a fixed time for each text.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import time
from dataclasses import dataclass
from typing import Final, Self, cast

import orjson
from aiohttp import web

TEXTS: Final = 64
LONG: Final = 1024
FLOATS: Final = 768
_MAX_RESPONSE: Final = 1 << 25
"""Maximum bytes of a response, head included."""

_ORDERS: Final = 9
"""How often a known list is asked for, each time in another order."""

_HEAD: Final = (
    b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
EMBED_SECONDS: Final = 0.001
"""Seconds that the stub takes for each text."""


def _go_number(source: random.Random) -> bytes:
    """Return a number as Ollama writes it: no zeros at its end."""
    return (b"%.8f" % source.uniform(-0.1, 0.1)).rstrip(b"0")


class Stub:
    """An upstream for embeddings; `vectors` are vectors as JSON text, one of which is used for each text."""

    def __init__(self) -> None:
        source = random.Random(1)  # noqa: S311 - not secret
        row = [b",".join(_go_number(source) for _ in range(FLOATS)) for _ in range(100)]
        self.vectors = [b"[" + text + b"]" for text in row]

    async def __call__(self, request: web.Request) -> web.Response:
        """Handle a request."""
        if request.path == "/api/tags":
            return web.json_response({"models": [{"name": "tiny:latest", "model": "tiny:latest", "digest": "d1"}]})
        if request.path == "/api/version":
            return web.json_response({"version": "0.24.0"})
        if request.path == "/api/ps":
            return web.json_response({"models": []})
        texts = orjson.loads(await request.read())["input"]
        await asyncio.sleep(EMBED_SECONDS * len(texts))
        rows = b",".join(self.vectors[len(text) * 7 % 100] for text in texts)
        body = b'{"model":"tiny","embeddings":[%b],"total_duration":100000,"load_duration":1000,"prompt_eval_count":%d}'
        kind = {"Content-Type": "application/json; charset=utf-8"}
        return web.Response(body=body % (rows, 3 * len(texts)), headers=kind)


def texts(start: int, count: int = TEXTS) -> list[str]:
    """Return `count` texts that start with consecutive numbers."""
    return [f"{number}: a chunk of some document" for number in range(start, start + count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Milliseconds of one list each: all stored, half stored, the other half directly from the stub, the difference.

    `long` is a longer list that is all stored, `growth` its time per text divided by that of a list of half its length.
    """

    known: float
    half: float
    stub: float
    added: float
    long: float
    growth: float


class Client(asyncio.BufferedProtocol):
    """One connection. It reads into a preallocated buffer, so that mainly the server is measured."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._memory = bytearray(_MAX_RESPONSE)
        self._size = 0
        self._expected = 0
        self._whole: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to a server."""
        host, _, port = url.removeprefix("http://").rpartition(":")
        _, client = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's name
        """Return the buffer for the next bytes."""
        return memoryview(self._memory)[self._size :]

    def buffer_updated(self, nbytes: int) -> None:
        """Check whether the response is complete."""
        self._size += nbytes
        if not self._expected:
            end = self._memory.find(b"\r\n\r\n", 0, self._size)
            length = re.search(rb"(?i)content-length: ([0-9]+)\r\n", self._memory[: end + 2])
            assert end > 0
            assert length is not None
            self._expected = end + 4 + int(length[1])
        if self._size == self._expected and self._whole is not None:
            self._whole.set_result(None)

    async def ask(self, wanted: list[str]) -> float:
        """Send a list; return the milliseconds to the end of the response."""
        data = orjson.dumps({"model": "tiny", "input": wanted})
        self._size = self._expected = 0
        self._whole = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        self.transport.write(_HEAD % len(data) + data)
        await self._whole
        taken = time.perf_counter() - begun
        assert self._memory.startswith(b"HTTP/1.1 200 ")
        return taken * 1000

    async def ask_known(self, wanted: list[str]) -> float:
        """Send a list until all of it is stored and in the hot tier; return the median of the milliseconds after that.

        Each time it has another order, so that no response is one that was sent before.
        """
        await self.ask(wanted)
        await asyncio.sleep(0.2)
        await self.ask(list(reversed(wanted)))  # moves them to the hot tier
        return statistics.median([await self.ask(wanted[at:] + wanted[:at]) for at in range(1, _ORDERS + 1)])


async def run(client: Client, direct: Client, number: int) -> Listed:
    """Measure once, with lists of this run only; `direct` is a connection to the stub."""
    start = 1_000_000 * (number + 1)
    known = texts(start)
    whole = await client.ask_known(known)
    mixed = [text for pair in zip(known[: TEXTS // 2], texts(start + TEXTS), strict=False) for text in pair]
    half = await client.ask(mixed)
    stub = await direct.ask(texts(start + 5000)[: TEXTS // 2])
    shorter = await client.ask_known(texts(start + 10_000, LONG // 2))
    long = await client.ask_known(texts(start + 20_000, LONG))
    growth = long / 2 / shorter
    return Listed(known=whole, half=half, stub=stub, added=half - stub, long=long, growth=growth)
