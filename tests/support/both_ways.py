"""One request through the fast path and the ordinary way: what each answers, and whether its connection stays open."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.fast_paths import Watch
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, proxy_before

_VARYING: Final = re.compile(
    rb"(Date|Age|Content-Length): [^\r]*|ttl=\d+|\"(created_at|\w+_duration)\":(\"[^\"]*\"|\d+)"
)
_CHUNK: Final = re.compile(rb"(?:^|\r\n)[0-9a-f]+\r\n|\r\n$")
_AFTER: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_SILENT: Final = 0.25
"""Seconds without a byte, after which a server is taken to wait for more."""


class Way:
    """A proxy with a connection to it, which is opened again where it was closed."""

    def __init__(self, proxy: Proxy, *, off: bool) -> None:
        self.watch = Watch(proxy, off=off)
        self.url = proxy.url
        self._open: RawConnection | None = None

    async def answer(self, parts: Sequence[bytes]) -> tuple[bytes, bool]:
        """Return what comes for these bytes, sent in so many segments, and whether the connection can be used again.

        What differs between any two hits is left out.
        """
        connection = self._open or await RawConnection.open(self.url)
        self._open = None
        for part in parts:
            connection.writer.write(part)
            if part is not parts[-1]:
                await asyncio.sleep(0.001)
        came, rest, ended = await _read(connection)
        again = b""
        if not ended and came:
            connection.writer.write(_AFTER)
            again, _, ended = await _read(connection, rest)
        if again.startswith(b"HTTP/1.1 200 ") and not ended:
            self._open = connection
        else:
            connection.close()
        return _VARYING.sub(b"", came), self._open is not None

    def close(self) -> None:
        """Close its connection."""
        if self._open is not None:
            self._open.close()


async def _read(connection: RawConnection, came: bytes = b"") -> tuple[bytes, bytes, bool]:
    """Return one whole answer or what there is of one, what has come behind it, and whether the connection has ended."""
    while True:
        head, end, body = came.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head) if end else None
        if end and b"\r\nTransfer-Encoding: chunked" in head and b"\r\n0\r\n\r\n" in b"\r\n" + body:
            chunks, _, rest = body.partition(b"0\r\n\r\n")
            return head + end + _CHUNK.sub(b"", chunks), rest, False
        if length is not None and len(body) >= int(length[1]):
            size = len(came) - len(body) + int(length[1])
            return came[:size], came[size:], False
        try:
            async with asyncio.timeout(_SILENT):
                more = await connection.reader.read(1 << 16)
        except TimeoutError:
            return came, b"", False
        except ConnectionError:
            return came, b"", True
        if not more:
            return came, b"", True
        came += more


class BothWays:
    """Two proxies in step, one of them without its fast path, that know the same hits."""

    def __init__(self, ways: tuple[Way, Way], stack: AsyncExitStack) -> None:
        self.ways = ways
        self._stack = stack

    @classmethod
    async def open(cls, *known: bytes, **settings: Any) -> Self:
        """Return two with these settings that know these requests, each of which is a hit by now."""
        async with AsyncExitStack() as stack:
            ways = []
            for off in (False, True):
                behind = await stack.enter_async_context(Simulator(Behaviour(completion_delay=0, embedding_delay=0)))
                proxy = await stack.enter_async_context(proxy_before(behind.url, **settings))
                way = Way(proxy, off=off)
                stack.callback(way.close)
                for request in known:
                    for _ in range(3):
                        came, _ = await way.answer([request])
                        await proxy.kept()
                    assert b"; hit" in came
                ways.append(way)
            return cls((ways[0], ways[1]), stack.pop_all())

    @property
    def taken(self) -> int:
        """How many requests the fast path has served."""
        return self.ways[0].watch.taken

    async def counts(self) -> list[dict[str, Any]]:
        """Return what each has counted, without times."""
        told = [json.loads((await ask(way.url, "GET", "/api/cache/stats")).body) for way in self.ways]
        return [{name: stats[name] for name in ("hits", "misses", "bypasses", "keys", "savedTokens")} for stats in told]

    async def close(self) -> None:
        """End both."""
        await self._stack.aclose()

    async def differ(self, *parts: bytes) -> list[bytes]:
        """Return both answers where they are not the same; else nothing.

        A reset may overtake the refusal of a head of which not all was read, so answers that differ are asked again.
        """
        for _ in range(3):
            (short, open_after), (ordinary, stays) = [await way.answer(parts) for way in self.ways]
            if (short, open_after) == (ordinary, stays):
                return []
        return [short, ordinary]
