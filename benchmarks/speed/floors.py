"""Servers in plain aiohttp without a cache, as a baseline: `python -m benchmarks.speed.floors MODE …`.

dict     responds from a dictionary, keyed by the body
redis    responds from one GET of Redis, keyed by the body
pass     forwards each request, and sends on the whole response
get-pass one GET of Redis that finds nothing, then as `pass`
relay    forwards each request, and sends on each chunk as it comes
plain    copies bytes in both directions, without HTTP and aiohttp
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
    """The handler of one mode."""

    def __init__(self, mode: str, upstream: str, store: str) -> None:
        self.mode = mode
        self.upstream = upstream
        self.known = {question(number): answer() for number in range(COUNT)} if mode == "dict" else {}
        self.redis = redis.Redis.from_url(store) if store else None
        self.session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle a request as the mode defines."""
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
    """One end of a forwarded connection; `other` is the transport of the other end."""

    def __init__(self, upstream: tuple[str, int] | None, other: asyncio.Transport | None = None) -> None:
        self.upstream = upstream
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Forward data; the first data opens the other end."""
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
    """Forward until cancelled."""
    host, _, to = upstream.removeprefix("http://").rpartition(":")
    server = await asyncio.get_running_loop().create_server(lambda: Plain((host, int(to))), "127.0.0.1", port)
    await server.serve_forever()


async def serve(mode: str, port: int, upstream: str, store: str) -> None:
    """Serve until cancelled."""
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
