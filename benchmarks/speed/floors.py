"""What plain aiohttp does without a cache's work, to measure against: `python -m benchmarks.speed.floors MODE …`.

dict     answers from a dictionary, keyed by the body
redis    answers from one GET of Redis, keyed by the body
pass     asks the upstream each time, and hands on the whole answer
get-pass one GET of Redis that finds nothing, then as `pass`
relay    asks the upstream each time, and hands on each chunk as it comes
plain    knows nothing of HTTP, nor aiohttp: hands on what it reads, whichever way it goes
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import aiohttp
import redis.asyncio as redis
import uvloop
from aiohttp import web

from benchmarks.speed.questions import COUNT, KIND, answer, question


class Floor:
    """One mode's handler, and what it needs."""

    def __init__(self, mode: str, upstream: str, store: str) -> None:
        self.mode = mode
        self.upstream = upstream
        self.known = {question(number): answer() for number in range(COUNT)} if mode == "dict" else {}
        self.redis = redis.Redis.from_url(store) if store else None
        self.session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as the mode says."""
        body = await request.read()
        if self.mode == "dict":
            return web.Response(body=self.known[body], headers={"Content-Type": KIND})
        if self.mode == "redis":
            assert self.redis is not None
            return web.Response(body=await self.redis.get(body), headers={"Content-Type": KIND})
        if self.mode == "get-pass":
            assert self.redis is not None
            await self.redis.get(body)
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        url = self.upstream + request.path
        async with self.session.post(url, data=body, headers={"Content-Type": KIND}) as response:
            if self.mode != "relay":
                return web.Response(body=await response.read(), headers={"Content-Type": KIND})
            relayed = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await relayed.prepare(request)
            async for chunk in response.content.iter_any():
                await relayed.write(chunk)
            await relayed.write_eof()
            return relayed


class Plain(asyncio.Protocol):
    """One end of a connection that is handed on; `other` is the way to the other end."""

    def __init__(self, upstream: tuple[str, int] | None, other: asyncio.Transport | None = None) -> None:
        self.upstream = upstream
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand on; what comes first opens the other end."""
        if self.other is not None:
            self.other.write(data)
        else:
            self.opening = asyncio.ensure_future(self.open(data))

    async def open(self, data: bytes) -> None:
        """Connect to the upstream."""
        assert self.upstream is not None
        made = asyncio.get_running_loop().create_connection(lambda: Plain(None, self.transport), *self.upstream)
        self.other, _ = await made
        self.other.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - asyncio's name
        """Close the other end."""
        if self.other is not None:
            self.other.close()


async def serve_plain(port: int, upstream: str) -> None:
    """Hand on until this is ended."""
    host, _, to = upstream.removeprefix("http://").rpartition(":")
    server = await asyncio.get_running_loop().create_server(lambda: Plain((host, int(to))), "127.0.0.1", port)
    await server.serve_forever()


async def serve(mode: str, port: int, upstream: str, store: str) -> None:
    """Answer until this is ended."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/{path:.*}", Floor(mode, upstream, store).handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("dict", "redis", "pass", "get-pass", "relay", "plain"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--store", default="")
    given = parser.parse_args()
    if given.mode == "plain":
        uvloop.run(serve_plain(given.port, given.upstream))
    else:
        uvloop.run(serve(given.mode, given.port, given.upstream, given.store))
