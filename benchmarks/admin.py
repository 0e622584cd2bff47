"""How long statistics and clearing take with many entries: `make bench-admin`.

A private Valkey or Redis is filled with entries, and both routes of a proxy in front of it are requested over HTTP.
Exit with 1 if a median is over the goal.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import sys
import time
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any, Final

import aiohttp
import orjson
import redis.asyncio as redis

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.service.app import running
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.stores.entry_codec import encode
from ollama_cache_proxy.stores.redis.private_server import PrivateRedis, find_server

GOAL: Final = 0.05
_BATCH: Final = 5000
_SAMPLES: Final = 20
_ROUNDS: Final = 5
_ENTRY: Final = StoredResponse(
    status=200,
    reason="OK",
    fields=((b"Content-Type", b"application/json; charset=utf-8"),),
    body=b"x" * 200,
    stored_at=0.0,
    lifetime=3600,
    took=1.0,
    operation="generate",
    model="registry.ollama.ai/library/tiny:latest",
    category="",
    namespace="",
    prompt_tokens=10,
    output_tokens=20,
)


async def fill(client: Any, count: int) -> None:
    """Write `count` entries into the current generation."""
    generation = (await client.get("ocp:1:generation")).decode()
    for start in range(0, count, _BATCH):
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(start, min(start + _BATCH, count)):
                key = sha256(b"%d" % number).hexdigest()
                pipeline.set(f"ocp:1:e:{generation}:{key}", encode(key, _ENTRY), ex=3600)
            await pipeline.execute()


async def timed(session: aiohttp.ClientSession, method: str, path: str) -> tuple[float, dict[str, Any]]:
    """Return the seconds that a request took, and the JSON of its response."""
    begun = time.perf_counter()
    async with session.request(method, path) as answer:
        body = await answer.read()
    return time.perf_counter() - begun, orjson.loads(body)


async def until_counted(session: aiohttp.ClientSession, keys: int) -> None:
    """Wait until the statistics show that many entries."""
    async with asyncio.timeout(60):
        while (await timed(session, "GET", "/api/cache/stats"))[1]["keys"] != keys:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.1)


async def measure(session: aiohttp.ClientSession, client: Any, count: int, rounds: int) -> bool:
    """Print one line; return whether the goal was met."""
    asked: list[float] = []
    cleared: list[float] = []
    for _ in range(rounds):
        await fill(client, count)
        await until_counted(session, count)
        for _ in range(_SAMPLES):
            seconds, found = await timed(session, "GET", "/api/cache/stats")
            assert found["keys"] == count, found
            asked.append(seconds)
        seconds, found = await timed(session, "POST", "/api/cache/clear")
        assert found == {"cleared": count}, found
        cleared.append(seconds)
        while await client.dbsize() > _BATCH:  # noqa: ASYNC110 - the sweep is in another process
            await asyncio.sleep(0.1)
    rows = [(name, statistics.median(times), max(times)) for name, times in (("stats", asked), ("clear", cleared))]
    told = "   ".join(f"{name} {middle * 1000:6.2f} ms (worst {worst * 1000:6.2f})" for name, middle, worst in rows)
    sys.stdout.write(f"{count:>9,} entries   {told}\n")
    sys.stdout.flush()
    return all(middle <= GOAL for _, middle, _ in rows)


async def bench(sizes: list[int], rounds: int) -> bool:
    """Measure each size; return whether all met the goal."""
    binary = find_server()
    if binary is None:
        sys.exit("neither valkey-server nor redis-server was found")
    async with AsyncExitStack() as stack:
        server = PrivateRedis(binary, capacity=4 << 30, tasks=Tasks())
        stack.push_async_callback(server.close)
        await server.start()
        simulator = await stack.enter_async_context(Simulator(Behaviour()))
        settings = load(None, {"upstream": simulator.url, "redis_url": server.url, "listen": "127.0.0.1:0"})
        sock = stack.enter_context(bind(settings.listen))
        proxy = await stack.enter_async_context(running(settings, sock, stream=io.StringIO()))
        session = await stack.enter_async_context(aiohttp.ClientSession(proxy.url))
        client = redis.Redis.from_url(server.url)
        stack.push_async_callback(client.aclose)
        await timed(session, "GET", "/api/cache/stats")  # starts a generation
        return all([await measure(session, client, size, rounds) for size in sizes])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N")
    arguments = parser.parse_args()
    sys.exit(0 if asyncio.run(bench(arguments.sizes, arguments.rounds)) else 1)
