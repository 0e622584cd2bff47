"""What `soak` and `chaos` share: clients, a small Redis, the end of the proxy, tables."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from benchmarks.load import LoadClient, Outcome, Question, Questions
from benchmarks.watched import Secrets, Watched, search_routes
from tests.support.servers import RedisServer

Row = tuple[str, object]

_SHOWN: Final = 20
"""Failures of one kind that are printed."""


class Judge(Protocol):
    """Checks outcomes."""

    def __call__(self, kind: str, question: Question, outcome: Outcome) -> None:
        """Check an outcome."""


@dataclass(slots=True)
class Seen:
    """Counts of questions by kind, and of results of the cache."""

    asked: Counter[str] = field(default_factory=Counter)
    cache: Counter[str] = field(default_factory=Counter)

    def rows(self) -> list[Row]:
        """Return the rows of a table."""
        return [
            *((f"asked as {kind}", count) for kind, count in sorted(self.asked.items())),
            *((f"  {name}", count) for name, count in sorted(self.cache.items())),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The shares of questions that are to be hits and misses; the rest are streams."""

    hits: float
    misses: float

    def draw(
        self, source: Random, questions: Questions, streamed: Callable[[], Question] | None = None
    ) -> tuple[str, Question]:
        """Return a kind and a question of it; `streamed` replaces the source of streams."""
        drawn = source.random()
        if drawn < self.hits:
            return "hits", questions.known()
        if drawn < self.hits + self.misses:
            return "misses", questions.new()
        return "streams", (streamed or questions.streamed)()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """Clients with persistent connections that wait at most `bound` seconds and pass outcomes to a judge."""

    url: str
    bound: float
    judge: Judge

    async def warm(self, asked: Iterable[Question]) -> None:
        """Ask once for everything that is to be a hit."""
        client = LoadClient(self.url, self.bound)
        for question in asked:
            self.judge("warming", question, await client.ask(question))
        client.close()

    async def ask(
        self,
        draw: Callable[[], tuple[str, Question]],
        *,
        goes_on: Callable[[], bool],
        pause: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Ask drawn questions as one client, with pauses of so many seconds."""
        client = LoadClient(self.url, self.bound)
        try:
            while goes_on():
                kind, question = draw()
                self.judge(kind, question, await client.ask(question))
                if seconds := pause():
                    await asyncio.sleep(seconds)
        finally:
            client.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of the proxy, and its log; `unanswered` is why it did not respond to the last requests."""

    process: Watched
    secrets: Secrets
    status: int
    unanswered: str

    def rows(self) -> list[Row]:
        """Return the rows of a table."""
        return [
            ("log lines", self.process.lines),
            ("lines that are not log lines", self.process.foreign),
            ("tracebacks", self.process.tracebacks),
            ("exit status after SIGTERM", self.status),
            ("secrets that showed", len(self.secrets.shown)),
        ]

    def failures(self) -> dict[str, Sequence[str]]:
        """Return failures by subject."""
        return {
            "the log": self.process.strange,
            "a last look": [self.unanswered] if self.unanswered else [],
            "the exit status": [str(self.status)] if self.status else [],
            "secrets": sorted(self.secrets.shown),
        }


async def end(url: str, process: Watched, secrets: Secrets) -> Ending:
    """Search for secrets a last time, and end the proxy."""
    unanswered = ""
    if process.alive:
        secrets.search(os.fsencode(url), "the address")
        try:
            await search_routes(url, process, secrets)
        except (OSError, asyncio.IncompleteReadError) as error:
            unanswered = type(error).__name__
    return Ending(process=process, secrets=secrets, status=await process.end(), unanswered=unanswered)


def small_redis(stack: ExitStack) -> RedisServer:
    """Start a Redis with room for a part of the entries; it ends with the stack."""
    redis = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    stack.callback(redis.close)
    redis.start()
    return redis


def verdict(failures: Mapping[str, Sequence[str]]) -> bool:
    """Print failures by subject; return whether there were none."""
    for subject, lines in failures.items():
        for line in lines[:_SHOWN]:
            sys.stdout.write(f"FAILS: {subject}: {line}\n")
    return not any(failures.values())


def table(rows: Iterable[Row]) -> str:
    """Return names and values as a table of two columns."""
    made = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in rows]
    width = max(len(name) for name, _ in made)
    return "".join(f"{name:<{width}}  {value:>12}\n" for name, value in made)
