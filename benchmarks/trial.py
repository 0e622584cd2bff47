"""What `soak` and `chaos` do alike: they load a proxy whose Redis is small, end it, and tell what they saw."""

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


class Judge(Protocol):
    """Whoever says of an outcome whether it may be so."""

    def __call__(self, kind: str, question: Question, outcome: Outcome) -> None:
        """Take an outcome in."""


@dataclass(slots=True)
class Seen:
    """How often each kind of question was asked, and what the cache did."""

    asked: Counter[str] = field(default_factory=Counter)
    cache: Counter[str] = field(default_factory=Counter)

    def rows(self) -> list[Row]:
        """Return them for a table."""
        return [
            *((f"asked as {kind}", count) for kind, count in sorted(self.asked.items())),
            *((f"  {name}", count) for name, count in sorted(self.cache.items())),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Which shares of a client's questions are to be hits and misses; the others are streams."""

    hits: float
    misses: float

    def draw(
        self, source: Random, questions: Questions, streamed: Callable[[], Question] | None = None
    ) -> tuple[str, Question]:
        """Return a kind and a question of it; `streamed` gives other streams than the questions do."""
        drawn = source.random()
        if drawn < self.hits:
            return "hits", questions.known()
        if drawn < self.hits + self.misses:
            return "misses", questions.new()
        return "streams", (streamed or questions.streamed)()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """Clients of a proxy that keep their connections, wait `bound` seconds at most, and show a judge what they get."""

    url: str
    bound: float
    judge: Judge

    async def warm(self, asked: Iterable[Question]) -> None:
        """Ask once what is to be a hit."""
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
        """Ask one drawn question after another as one client, with pauses of so many seconds."""
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
    """How the proxy ended, and what it had said until then; `unanswered` is why it did not answer a last look."""

    process: Watched
    secrets: Secrets
    status: int
    unanswered: str

    def rows(self) -> list[Row]:
        """Return it for a table."""
        return [
            ("log lines", self.process.lines),
            ("log lines that are no lines of the log", self.process.foreign),
            ("tracebacks", self.process.tracebacks),
            ("exit status after SIGTERM", self.status),
            ("secrets that showed", len(self.secrets.shown)),
        ]

    def failures(self) -> dict[str, Sequence[str]]:
        """Return what about it is wrong, by subject."""
        return {
            "the log": self.process.strange,
            "a last look": [self.unanswered] if self.unanswered else [],
            "the exit status": [str(self.status)] if self.status else [],
            "secrets": sorted(self.secrets.shown),
        }


async def end(url: str, process: Watched, secrets: Secrets) -> Ending:
    """Look for secrets a last time, and end the proxy."""
    unanswered = ""
    if process.alive:
        secrets.search(os.fsencode(url), "the address")
        try:
            await search_routes(url, process, secrets)
        except (OSError, asyncio.IncompleteReadError) as error:
            unanswered = type(error).__name__
    return Ending(process=process, secrets=secrets, status=await process.end(), unanswered=unanswered)


def small_redis(stack: ExitStack) -> RedisServer:
    """Start a Redis that has room for a share of the entries; it ends with the stack."""
    redis = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    stack.callback(redis.close)
    redis.start()
    return redis


def verdict(failures: Mapping[str, Sequence[str]]) -> bool:
    """Print what failed, by subject; whether nothing did."""
    for subject, lines in failures.items():
        for line in lines[:_SHOWN]:
            sys.stdout.write(f"FAILS: {subject}: {line}\n")
    return not any(failures.values())


def table(rows: Iterable[Row]) -> str:
    """Return names and values in two columns."""
    made = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in rows]
    width = max(len(name) for name, _ in made)
    return "".join(f"{name:<{width}}  {value:>12}\n" for name, value in made)
