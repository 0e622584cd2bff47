"""What sealing costs: CPU of hits from Redis and of misses, sealed by in the clear: `make bench-sealing`.

First what making and reading the bytes of an entry takes by itself, then whole requests.

Two proxies, one with a seal key, take turns on the first core, a few requests each, so that what else the machine does
meets both. The hot tier is off: every hit reads Redis, where each has a database of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Final

import orjson
import uvloop
from aiohttp import web

from benchmarks.against import Row
from benchmarks.speed.load import cpu
from benchmarks.speed.questions import KIND, TAGS, VERSION, answer, question
from benchmarks.speed.subjects import LOAD_CORE, Subject, Subjects
from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.stores.codecs import Codec, PlainCodec
from ollama_cache_proxy.stores.sealed_codec import SealedCodec
from tests.support.entries import FULL_ENTRY
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import free_port

_SIZES: Final = {"1 KB": 1000, "4 KB": 4000, "100 KB": 100_000}
"""Bytes of a response."""
_HITS: Final = 100
"""Entries that hits are drawn from."""
_TURNS: Final = 15
_CALLS: Final = 500
"""Of a codec, in one turn."""
_CONNECTIONS: Final = 8
_EACH: Final = 20
"""Requests of a connection in one turn."""
_LEAST: Final = 0.75
"""The share of requests that have to be what they are meant to be; on a busy machine a lookup may be late."""
_BOUNDED: Final = ("--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru")
"""Misses would fill any memory."""
_BOUND: Final = 1.15
"""The ratio beyond which something is wrong."""


class Asker:
    """Asks one proxy over a few connections."""

    def __init__(self, subject: Subject, connections: list[RawConnection]) -> None:
        self.subject = subject
        self._connections = connections

    @classmethod
    async def open(cls, subject: Subject, stack: AsyncExitStack) -> Asker:
        """Open connections that the stack closes."""
        opened = [await stack.enter_async_context(await RawConnection.open(subject.url)) for _ in range(_CONNECTIONS)]
        return cls(subject, opened)

    async def turn(self, bodies: Iterator[bytes], expected: str) -> float:
        """Return the CPU of a request, in microseconds; raise RuntimeError unless most were as `expected`."""
        begun = cpu(self.subject.pid)
        answers = [
            one
            for some in await asyncio.gather(*(self._ask(each, bodies) for each in self._connections))
            for one in some
        ]
        used = cpu(self.subject.pid) - begun
        found = sum(one.field("X-Cache") == expected for one in answers)
        if found < _LEAST * len(answers):
            raise RuntimeError(f"{self.subject.name}: {found} of {len(answers)} were a {expected}")
        return used / len(answers) * 1e6

    async def _ask(self, connection: RawConnection, bodies: Iterator[bytes]) -> list[RawAnswer]:
        answers = []
        for _ in range(_EACH):
            connection.send("POST", "/api/generate", body=next(bodies))
            answers.append(await connection.answer())
        return answers


async def _compared(name: str, pair: tuple[Asker, Asker], bodies: Callable[[], Iterator[bytes]], rounds: int) -> Row:
    """Measure both in turns, print their medians and the ratio, and return its row; which one is first alternates."""
    expected = name.partition(",")[0].upper()
    asked = tuple(bodies() for _ in pair)
    taken: list[dict[int, float]] = []
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        taken.append({which: await pair[which].turn(asked[which], expected) for which in order})
    row = Row(name=name, ratios=[both[1] / both[0] for both in taken], bound=_BOUND)
    clear, sealed = (statistics.median(both[which] for both in taken) for which in (0, 1))
    sys.stdout.write(f"{row.text()}  {clear:6.0f} us in the clear, {sealed:6.0f} us sealed\n")
    sys.stdout.flush()
    return row


async def _fill(pair: tuple[Asker, Asker]) -> None:
    """Have all known questions stored, and raise RuntimeError where the wrong one of the two seals."""
    for asker, sealed in zip(pair, (False, True), strict=True):
        for number in range(_HITS):
            await ask(asker.subject.url, "POST", "/api/generate", body=question(number))
        told = orjson.loads((await ask(asker.subject.url, "GET", "/api/cache/stats")).body)
        if (told["keys"], told["store"]["sealed"]) != (_HITS, sealed):
            raise RuntimeError(f"{asker.subject.name}: {told['keys']} keys, sealed: {told['store']['sealed']}")


async def _stub(size: int) -> tuple[web.AppRunner, str]:
    """Return an upstream whose responses have `size` bytes, and its URL."""
    said = orjson.loads(answer()) | {"response": ""}
    said["response"] = "x" * (size - len(orjson.dumps(said)))
    replies = {"/api/tags": TAGS, "/api/version": VERSION}
    body = orjson.dumps(said)

    async def reply(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=replies.get(request.path, body), headers={"Content-Type": KIND})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", reply)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{port}"


def _codecs() -> None:
    """Print what each size of an entry takes to encode and to decode: the least of some turns, in microseconds."""
    generation, key = "0" * 32, "ab" * 32
    codecs: tuple[Codec, ...] = (PlainCodec(), SealedCodec(bytes(range(32))))
    for title, size in _SIZES.items():
        entry = replace(FULL_ENTRY, body=b"x" * size)
        values = [codec.encode(generation, key, entry) for codec in codecs]
        took: dict[str, list[float]] = {}
        for _ in range(_TURNS):
            for codec, value in zip(codecs, values, strict=True):
                encode, decode = (
                    partial(codec.encode, generation, key, entry),
                    partial(codec.decode, generation, key, value),
                )
                for name, call in (("encode", encode), ("decode", decode)):
                    begun = time.process_time()
                    for _ in range(_CALLS):
                        call()
                    took.setdefault(f"{name} {codec.sealed}", []).append((time.process_time() - begun) / _CALLS * 1e6)
        for name in ("encode", "decode"):
            clear, sealed = min(took[f"{name} False"]), min(took[f"{name} True"])
            sys.stdout.write(f"{name}, {title}: {clear:.1f} us in the clear, {sealed:.1f} us sealed\n")


async def _run(folder: Path, rounds: int, only: str) -> list[Row]:
    os.sched_setaffinity(0, {LOAD_CORE})
    make_key(str(folder / "key"))
    rows = []
    for title, size in ((title, size) for title, size in _SIZES.items() if title.startswith(only)):
        runner, upstream = await _stub(size)
        async with Subjects(folder / title) as subjects:
            base = (await subjects.redis(*_BOUNDED)).removesuffix("/0")
            common = {"OCP_HOT_BYTES": "0", "OCP_STORE": "redis"}
            key = {"OCP_SEAL_KEY_FILE": str(folder / "key")}
            clear = await subjects.proxy("clear", upstream, **common, OCP_REDIS_URL=f"{base}/0")
            sealed = await subjects.proxy("sealed", upstream, **common, **key, OCP_REDIS_URL=f"{base}/1")
            pair = (await Asker.open(clear, subjects.stack), await Asker.open(sealed, subjects.stack))
            await _fill(pair)
            rows.append(await _compared(f"hit, {title}", pair, lambda: cycle(map(question, range(_HITS))), rounds))
            rows.append(await _compared(f"miss, {title}", pair, lambda: map(question, count(_HITS)), rounds))
        await runner.cleanup()
    return rows


def main() -> int:
    """Measure, print a row for each case, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", default="", help="only sizes with this prefix, such as 100")
    given = parser.parse_args()
    _codecs()
    sys.stdout.write("case            ratio  90 % interval    bound     (CPU of a request, sealed by in the clear)\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = uvloop.run(_run(Path(folder), given.rounds, given.only))
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
