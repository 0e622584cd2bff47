"""A list of 64 texts for `/api/embed`, vectors of 768 floats: all of them known, or half; and one that is longer.

The stub runs in this process, on the load's core, and takes a fixed time for each text.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Final

import aiohttp
import orjson
from aiohttp import web

TEXTS: Final = 64
LONG: Final = 1024
FLOATS: Final = 768
EACH: Final = 0.001
"""Seconds that the stub takes for a text."""


class Stub:
    """An upstream that embeds; `vectors` are the texts of vectors, one of which stands for each text."""

    def __init__(self) -> None:
        source = random.Random(1)  # noqa: S311 - numbers, no secret
        row = [b",".join(b"%.8f" % source.uniform(-0.1, 0.1) for _ in range(FLOATS)) for _ in range(100)]
        self.vectors = [b"[" + text + b"]" for text in row]

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer what is asked for."""
        if request.path == "/api/tags":
            return web.json_response({"models": [{"name": "tiny:latest", "model": "tiny:latest", "digest": "d1"}]})
        if request.path == "/api/version":
            return web.json_response({"version": "0.24.0"})
        texts = orjson.loads(await request.read())["input"]
        await asyncio.sleep(EACH * len(texts))
        rows = b",".join(self.vectors[len(text) * 7 % 100] for text in texts)
        body = b'{"model":"tiny","embeddings":[%b],"total_duration":100000,"load_duration":1000,"prompt_eval_count":%d}'
        kind = {"Content-Type": "application/json; charset=utf-8"}
        return web.Response(body=body % (rows, 3 * len(texts)), headers=kind)


def texts(start: int, count: int = TEXTS) -> list[str]:
    """Give as many texts as a list has, which begin with a number each."""
    return [f"{number}: a chunk of some document" for number in range(start, start + count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Milliseconds of one list each: known wholly, half known, what the stub alone takes for that half, the rest.

    `long` is a longer one that is known wholly, `growth` what a text of it costs × what one of half of it does.
    """

    known: float
    half: float
    stub: float
    added: float
    long: float
    growth: float


async def ask(session: aiohttp.ClientSession, url: str, wanted: list[str]) -> float:
    """Ask for a list; give the milliseconds until all of its answer was there."""
    data = orjson.dumps({"model": "tiny", "input": wanted})
    begun = time.perf_counter()
    async with session.post(url + "/api/embed", data=data, headers={"Content-Type": "application/json"}) as answer:
        await answer.read()
        assert answer.status == web.HTTPOk.status_code
    return (time.perf_counter() - begun) * 1000


async def ask_known(session: aiohttp.ClientSession, url: str, wanted: list[str]) -> float:
    """Ask for a list so often that all of it is known, and held where it can be; give the time of the last."""
    await ask(session, url, wanted)
    await asyncio.sleep(0.2)
    await ask(session, url, list(reversed(wanted)))  # they come to be held
    return await ask(session, url, wanted[1:] + wanted[:1])


async def run(session: aiohttp.ClientSession, url: str, direct: str, number: int) -> Listed:
    """Measure once, with lists that no other run has asked for."""
    start = 1_000_000 * (number + 1)
    known = texts(start)
    whole = await ask_known(session, url, known)
    mixed = [text for pair in zip(known[: TEXTS // 2], texts(start + TEXTS), strict=False) for text in pair]
    half = await ask(session, url, mixed)
    stub = await ask(session, direct, texts(start + 5000)[: TEXTS // 2])
    shorter = await ask_known(session, url, texts(start + 10_000, LONG // 2))
    long = await ask_known(session, url, texts(start + 20_000, LONG))
    growth = long / 2 / shorter
    return Listed(known=whole, half=half, stub=stub, added=half - stub, long=long, growth=growth)
