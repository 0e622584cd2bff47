"""Chats beside an indexer, on a simulated GPU that works on one thing at a time: with lanes, and without.

    python -m benchmarks.lanes [--texts 10000] [--scale 1] [--only ROW …]
    python -m benchmarks.lanes --ollama URL --chat MODEL --embed MODEL [--texts 10000] [--only ROW …]

A chat takes 0.6 s of the GPU, its first token 0.2 s, a text to embed 20 ms. A chat begins every two seconds, a little
sooner or later by the seed; the indexer embeds so many texts in lists of 16, four lists at a time. Indexing with lanes
and without takes turns, a quarter of the texts each time, so that both see the same machine. `--scale 10` makes
all of these ten times shorter, and the part of a list (`lanes_part_seconds`) as well: what the proxy itself takes then
counts ten times as much. With `--ollama` all of it is asked of a real one, with the times that it takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final
from urllib.parse import urlsplit

from tests.support.processes import serve, simulate
from tests.support.rawhttp import request_bytes

TEXTS: Final = 10_000
LIST: Final = 16
LISTS_AT_A_TIME: Final = 4
EVERY: Final = 2.0
"""Seconds between two chats."""
CHAT, FIRST_TOKEN, TEXT, PART = 0.6, 0.2, 0.02, 0.02
"""Seconds of the GPU; the last is `lanes_part_seconds`."""
TOKENS: Final = 8
CHATS_ALONE: Final = 60
ROUNDS: Final = 4
GOAL_FIRST_TOKEN, GOAL_INDEXING = 1.2, 1.05
_SEED: Final = 7


@dataclass(slots=True)
class Figures:
    """What was measured in one row; times in seconds."""

    first_tokens: list[float] = field(default_factory=list)
    indexing: float | None = None
    vectors: int = 0
    failures: int = 0

    def percentile(self, share: float) -> float:
        """Return a percentile of the times to the first token, by the nearest rank."""
        found = sorted(self.first_tokens)
        return found[max(0, -(-int(100 * share) * len(found) // 100) - 1)]


@dataclass(frozen=True, slots=True)
class Behind:
    """What is behind the proxy: a real Ollama at a URL, or without one the simulated GPU, and its models."""

    url: str = ""
    chat: str = "tiny"
    embed: str = "all-minilm"


SIMULATED: Final = Behind()


@asynccontextmanager
async def gpu(scale: float, behind: Behind) -> AsyncIterator[str]:
    """Run the simulated GPU, unless there is a real one; return its URL."""
    if behind.url:
        yield behind.url
        return
    rate = TOKENS / (CHAT - FIRST_TOKEN) * scale
    prompt = FIRST_TOKEN / scale - 1 / rate
    times = ("--text-ms", str(1000 * TEXT / scale), "--prompt-ms", str(1000 * prompt), "--token-rate", str(rate))
    async with simulate("--one-at-a-time", *times) as (_, url):
        yield url


@asynccontextmanager
async def proxy(upstream: str, *, lanes: bool, scale: float) -> AsyncIterator[str]:
    """Run a proxy in front of the GPU; return its URL."""
    settings = {"OCP_STORE": "memory", "OCP_LOG_REQUESTS": "off", "OCP_LISTEN": "127.0.0.1:0"}
    if lanes:
        settings |= {"OCP_LANES": "interactive-first", "OCP_LANES_PART_SECONDS": str(max(0.001, PART / scale))}
    async with serve("--upstream", upstream, environment=settings) as command:
        yield await command.url()


async def ask(url: str, path: str, body: object, authorization: str) -> tuple[float, bytes]:
    """Return when the first byte of a response came, in seconds from the request, and the whole of it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    fields = {"Authorization": f"Bearer {authorization}", "Connection": "close"}
    begun = time.perf_counter()
    writer.write(request_bytes("POST", path, host=parts.netloc, fields=fields, body=json.dumps(body).encode()))
    first = await reader.read(1)
    took = time.perf_counter() - begun
    rest = await reader.read()
    writer.close()
    return took, first + rest


async def chat(url: str, number: int, figures: Figures, behind: Behind) -> None:
    """Chat once."""
    messages = [{"role": "user", "content": f"question {number}"}]
    body = {"model": behind.chat, "messages": messages, "options": {"num_predict": TOKENS}}
    took, response = await ask(url, "/api/chat", body, "a-person")
    figures.first_tokens.append(took)
    figures.failures += b'"done":true' not in response


async def chats(  # noqa: PLR0913, PLR0917 - what is asked, how often, and of whom
    url: str, scale: float, figures: Figures, number: int | None, ended: asyncio.Event, behind: Behind
) -> None:
    """Chat so many times, or until `ended`; each begins at its time, whatever became of those before it."""
    source, begun, tasks = Random(_SEED), time.perf_counter(), list[asyncio.Task[None]]()  # noqa: S311 - a seed
    while (number is None or len(tasks) < number) and not ended.is_set():
        at = begun + (len(tasks) + 0.25 * source.random()) * EVERY / scale
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        tasks.append(asyncio.create_task(chat(url, len(tasks), figures, behind)))
    await asyncio.gather(*tasks)


def lists(texts: int) -> Iterator[list[str]]:
    """Yield the lists of the indexer; no text occurs twice."""
    for at in range(0, texts, LIST):
        yield [f"passage {number}" for number in range(at, min(at + LIST, texts))]


async def index(url: str, texts: int, figures: Figures, behind: Behind) -> None:
    """Embed so many texts."""
    todo, begun = lists(texts), time.perf_counter()

    async def work() -> None:
        for some in todo:
            _, response = await ask(url, "/api/embed", {"model": behind.embed, "input": some}, "an-indexer")
            head, _, body = response.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                figures.failures += 1
                continue
            figures.vectors += body.count(b"],[") + 1

    await asyncio.gather(*(work() for _ in range(LISTS_AT_A_TIME)))
    figures.indexing = time.perf_counter() - begun


async def measured(  # noqa: PLR0913 - a row, and what it is measured with
    *,
    lanes: bool,
    chatting: bool,
    texts: int,
    scale: float,
    number: int = CHATS_ALONE,
    behind: Behind = SIMULATED,
) -> Figures:
    """Return the figures of one row: so many chats alone, or for as long as the indexer takes."""
    figures, ended = Figures(), asyncio.Event()
    async with gpu(scale, behind) as upstream, proxy(upstream, lanes=lanes, scale=scale) as url:
        chatter = None
        if chatting:
            await chat(url, -1, Figures(), behind)  # so that everything is warm
            chatter = asyncio.create_task(chats(url, scale, figures, None if texts else number, ended, behind))
        if texts:
            await index(url, texts, figures, behind)
        ended.set() if texts else None
        if chatter is not None:
            await chatter
    return figures


ROWS: Final = {
    "chats": (True, True, False),
    "indexing": (False, False, True),
    "indexing-lanes": (True, False, True),
    "both": (False, True, True),
    "both-lanes": (True, True, True),
}
"""By name: whether there are lanes, whether somebody chats, whether there is an indexer."""


async def in_turns(texts: int, scale: float, behind: Behind) -> dict[str, Figures]:
    """Return the figures of indexing without lanes and with them, by the names of their rows, measured in turns."""
    plain, with_lanes = Figures(indexing=0.0), Figures(indexing=0.0)
    for number in range(ROUNDS):
        some = texts * (number + 1) // ROUNDS - texts * number // ROUNDS
        for total in (plain, with_lanes) if number % 2 else (with_lanes, plain):
            lanes = total is with_lanes
            found = await measured(lanes=lanes, chatting=False, texts=some, scale=scale, behind=behind)
            total.indexing = (total.indexing or 0.0) + (found.indexing or 0.0)
            total.vectors += found.vectors
            total.failures += found.failures
    return {"indexing": plain, "indexing-lanes": with_lanes}


def line(name: str, figures: Figures, alone: Figures | None, indexing: Figures | None) -> str:
    """Return a line of the report."""
    told = [f"{name:15}"]
    if figures.first_tokens:
        half, most = figures.percentile(0.5), figures.percentile(0.95)
        told.append(f"{len(figures.first_tokens):4} chats, first token p50 {half:.3f} s, p95 {most:.3f} s")
        if alone is not None and alone is not figures:
            told.append(f"({most / alone.percentile(0.95):.2f} x alone)")
    if figures.indexing is not None:
        told.append(f"{figures.vectors} texts in {figures.indexing:.1f} s")
        if indexing is not None and indexing.indexing and indexing is not figures:
            told.append(f"({figures.indexing / indexing.indexing:.3f} x without lanes)")
    return " ".join([*told, f"{figures.failures} failed"])


async def main(texts: int, scale: float, only: list[str], behind: Behind = SIMULATED) -> int:
    """Measure, print, and return 0 where the goals are met."""
    found: dict[str, Figures] = {}
    wanted = {name: row for name, row in ROWS.items() if not only or name in only}
    pair = await in_turns(texts, scale, behind) if {"indexing", "indexing-lanes"} <= wanted.keys() else {}
    for name, (lanes, chatting, indexing) in wanted.items():
        some = texts if indexing else 0
        figures = pair.get(name) or await measured(
            lanes=lanes, chatting=chatting, texts=some, scale=scale, behind=behind
        )
        found[name] = figures
        sys.stdout.write(line(name, figures, found.get("chats"), found.get("indexing")) + "\n")
        sys.stdout.flush()
    met = not any(figures.failures for figures in found.values())
    if {"chats", "both-lanes"} <= found.keys():
        met = met and found["both-lanes"].percentile(0.95) <= GOAL_FIRST_TOKEN * found["chats"].percentile(0.95)
    before, after = (found[name].indexing if name in found else None for name in ("indexing", "indexing-lanes"))
    if before and after:
        met = met and after <= GOAL_INDEXING * before
    sys.stdout.write("the goals are met\n" if met else "the goals are NOT met\n")
    return 0 if met else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=[])
    parser.add_argument("--ollama", metavar="URL", default="")
    parser.add_argument("--chat", metavar="MODEL", default=SIMULATED.chat)
    parser.add_argument("--embed", metavar="MODEL", default=SIMULATED.embed)
    given = parser.parse_args()
    behind = Behind(given.ollama, given.chat, given.embed)
    sys.exit(asyncio.run(main(given.texts, given.scale, given.only, behind)))
