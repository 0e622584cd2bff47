"""What plain aiohttp does without a cache's work, to measure against: `python -m benchmarks.speed.floors MODE …`.

dict     answers from a dictionary, keyed by the body
redis    answers from one GET of Redis, keyed by the body
pass     asks the upstream each time, and hands on the whole answer
get-pass one GET of Redis that finds nothing, then as `pass`
relay    asks the upstream each time, and hands on each chunk as it comes
"""

from __future__ import annotations

import argparse
import asyncio
import sys

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


async def serve(mode: str, port: int, upstream: str, store: str) -> None:
    """Answer until this is ended."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/{path:.*}", Floor(mode, upstream, store).handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    sys.stderr.write("ready\n")
    sys.stderr.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("dict", "redis", "pass", "get-pass", "relay"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--store", default="")
    given = parser.parse_args()
    uvloop.run(serve(given.mode, given.port, given.upstream, given.store))
