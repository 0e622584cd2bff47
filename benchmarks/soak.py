"""Under load for minutes the proxy must stay correct, and its memory small: `make soak`.

A simulated Ollama, a Redis and the proxy run as processes; clients with persistent connections ask for hits (70 %),
misses (20 %) and streams (10 %), and every body is checked by itself. Redis has room for only a part of the entries.
The proxy runs on asyncio's event loop, of which each turn is measured, unless `--uvloop` says otherwise.
Exit with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.load import TEXT_MODEL, Oracle, Outcome, Question, Questions, seeded
from benchmarks.trial import Clients, Ending, Mix, Seen, end, small_redis, table, verdict
from benchmarks.watched import Secrets, Watched, proxy, run, search_routes, simulator
from ollama_cache_proxy.simulator import ModelRegistry
from tests.support.servers import free_port
from tests.support.turns import LEAST, Turn, TurnLog

MIX: Final = Mix(hits=0.7, misses=0.2)
GROWTH: Final = 10.0
"""MiB that the proxy may grow by after its first minute."""

_FIRST_MINUTE: Final = 60.0
"""Seconds after which growth counts."""

LONGEST_TURN: Final = 20.0
"""Milliseconds of CPU that a turn of the event loop may take."""

_BOUND: Final = 20.0
"""Seconds that a request may take at most."""

_STORE_CONNECTIONS: Final = 64


@dataclass(slots=True)
class Tally(Seen):
    """What the clients saw; `responses` are the bodies of misses by question, `hits` those of hits."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    responses: set[tuple[Question, bytes]] = field(default_factory=set)
    hits: set[tuple[Question, bytes]] = field(default_factory=set)

    def unexpected_hits(self) -> list[str]:
        """Return the hits that were not byte for byte a response of Ollama."""
        return [
            f"{question}: a hit that differs from each response before it" for question, _ in self.hits - self.responses
        ]

    def server_errors(self) -> dict[int, int]:
        """Return the number of responses by status of 5xx."""
        return {status: n for status, n in self.statuses.items() if status >= HTTPStatus.INTERNAL_SERVER_ERROR}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The proxy at a moment: seconds since the load began, MiB, file descriptors."""

    at: float
    memory: float
    files: int


class Soak:
    """The load, and samples of the proxy."""

    def __init__(self, url: str, process: Watched, secrets: Secrets, oracle: Oracle, turns: TurnLog | None) -> None:
        self.url, self.process, self.secrets, self.oracle = url, process, secrets, oracle
        self.turns: list[Turn] = []
        self._log = turns
        self.tally = Tally()
        self.samples: list[Sample] = []

    def judge(self, kind: str, question: Question, outcome: Outcome) -> None:
        """Check and count an outcome."""
        tally, answer = self.tally, outcome.answer
        tally.asked[kind] += 1
        if answer is None:
            tally.failures[outcome.why] += 1
            return
        tally.cache[f"{kind}: {outcome.cache}"] += 1
        tally.statuses[answer.status] += 1
        if answer.status != HTTPStatus.OK:
            excused = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR  # counted separately
            tally.wrong += [] if excused else [f"{question}: {answer.status}"]
            return
        said = "no framing" if answer.closed else self.oracle.wrong(question, answer.body, counted=outcome.counted)
        if said:
            tally.wrong.append(f"{question} ({outcome.details}): {said}")
        if kind in ("hits", "warming") and len(question.texts) == 1:
            # A response joined from stored items need not equal any earlier response.
            seen = (question, blake2b(answer.body, digest_size=16).digest())
            (tally.hits if outcome.cache == "HIT" and "collapsed" not in outcome.details else tally.responses).add(seen)

    async def sample(self, begun: float, until: float) -> None:
        """Sample the proxy each second, and search for secrets now and then."""
        number = 0
        while (now := time.monotonic()) < until:
            self.samples.append(
                Sample(at=now - begun, memory=self.process.memory(), files=self.process.files()),
            )
            self.take_turns()
            if not number % 10:
                await search_routes(self.url, self.process, self.secrets)
            number += 1
            await asyncio.sleep(max(0.0, begun + number - time.monotonic()))

    def take_turns(self) -> None:
        """Take in the longer turns of the event loop since the last call."""
        if self._log is not None:
            self.turns += self._log.since_last()

    def growth(self, after: float) -> float:
        """Return the growth in MiB after so many seconds, by a line fitted to the samples."""
        late = [sample for sample in self.samples if sample.at >= after]
        if len(late) < 2:  # noqa: PLR2004 - a line needs two
            return 0.0
        slope = statistics.linear_regression([sample.at for sample in late], [sample.memory for sample in late]).slope
        return slope * (late[-1].at - late[0].at)


async def soak(arguments: argparse.Namespace) -> bool:
    """Run the load; return whether all was well."""
    secrets = Secrets()
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        turns = None if arguments.uvloop else TurnLog(Path(folder) / "turns")
        redis = small_redis(stack)
        port = free_port()
        ollama = simulator(port, "--completion-ms", "5", "--embedding-ms", "3", secrets=Secrets())
        stack.callback(ollama.close)
        await ollama.wait_for("answers at ")
        process = proxy(f"http://127.0.0.1:{port}", redis.url, secrets=secrets, turns=turns)
        stack.callback(process.close)
        url = await process.wait_for("listens on ")
        files = process.files()

        run_ = Soak(url, process, secrets, Oracle(ModelRegistry()), turns)
        questions = Questions(seeded(arguments.seed), text_models={TEXT_MODEL: 200}, lists=40)
        clients = Clients(url=url, bound=_BOUND, judge=run_.judge)
        await clients.warm(questions.hot)
        run_.take_turns()
        run_.turns.clear()  # what it did to start
        begun = time.monotonic()
        until = begun + 60 * arguments.minutes
        sources = [seeded(arguments.seed, number) for number in range(arguments.clients)]
        asking = [
            clients.ask(partial(MIX.draw, source, questions), goes_on=lambda: time.monotonic() < until)
            for source in sources
        ]
        await asyncio.gather(run_.sample(begun, until), *asking)
        took = time.monotonic() - begun
        run_.take_turns()
        ending = await end(url, process, secrets)
    return report(run_, arguments, files, took, ending)


def report(soak: Soak, arguments: argparse.Namespace, files: int, took: float, ending: Ending) -> bool:
    """Print the table; return whether all was well."""
    tally, samples = soak.tally, soak.samples
    minute = next((sample for sample in samples if sample.at >= _FIRST_MINUTE), samples[-1])
    last = samples[-1]
    growth = soak.growth(_FIRST_MINUTE)
    wrong = tally.wrong + tally.unexpected_hits()
    opened = 2 * arguments.clients + _STORE_CONNECTIONS
    turn = max(soak.turns, key=lambda turn: turn.ms, default=None)
    long_turns = [turn for turn in soak.turns if turn.ms > LONGEST_TURN]
    requests = tally.asked.total()
    server_errors = tally.server_errors()
    sys.stdout.write(
        table(
            [
                *tally.rows(),
                ("requests", requests),
                ("requests a second", f"{(requests - tally.asked['warming']) / took:.0f}"),
                ("wrong bodies", len(wrong)),
                ("5xx", sum(server_errors.values())),
                ("other failures", tally.failures.total()),
                ("memory after the first minute, MiB", f"{minute.memory:.1f}"),
                ("memory at the end, MiB", f"{last.memory:.1f}"),
                ("growth after the first minute, MiB", f"{growth:.1f}" if arguments.minutes > 1 else "not judged"),
                ("longest turn of the event loop", _described(turn, measured=not arguments.uvloop)),
                ("turns of over 20 ms", len(long_turns)),
                ("file descriptors before the load", files),
                ("file descriptors after the first minute", minute.files),
                ("file descriptors at the end", last.files),
                *ending.rows(),
            ]
        )
    )
    failed = {
        "wrong bodies": wrong,
        "5xx": [f"{status}: {count}" for status, count in server_errors.items()],
        "failures": [f"{why}: {count}" for why, count in tally.failures.items()],
        "memory": [f"grew by {growth:.1f} MiB"] if arguments.minutes > 1 and growth >= GROWTH else [],
        "file descriptors": [f"{files} became {last.files}"] if last.files - files > opened else [],
        "the event loop": [_described(turn, measured=True) for turn in long_turns],
        **ending.failures(),
    }
    return verdict(failed)


def _described(turn: Turn | None, *, measured: bool) -> str:
    if turn is None:
        return f"under {LEAST * 1000:g} ms" if measured else "not measured"
    return f"{turn.ms:.1f} ms of CPU, {turn.longest_ms:.1f} ms of them in {turn.ran}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N")
    parser.add_argument("--clients", type=int, default=16, metavar="N")
    parser.add_argument("--uvloop", action="store_true", help="run the proxy on uvloop, whose turns are not measured")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    sys.exit(0 if run(soak(parser.parse_args())) else 1)
