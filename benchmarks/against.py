"""Compare this checkout with another one, each with its own `.venv`: `make bench-against BEFORE=../before`.

The two take turns, a pair in each round, each alone on the first core. The CPU time of a request is compared, so a busy
machine widens the spread but does not shift it. Each round has new processes, since two of one checkout differ by some
percent as well. A row fails if the 90 % interval of the paired ratios lies entirely beyond its bound.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from benchmarks.interval import interval
from benchmarks.speed import lists, streams
from benchmarks.speed.load import cpu, wrk
from benchmarks.speed.questions import question
from benchmarks.speed.subjects import LOAD_CORE, SERVER_CORE, Subject, Subjects, listens, process
from tests.support.servers import free_port

ROOT: Final = Path(__file__).parents[1]
_QUESTIONS: Final = 100
_BOUND: Final = 1 / 0.97
"""The highest ratio of CPU time, after by before: 0.97 times the requests of a core."""

_BOUND_START: Final = 1.05
"""The highest ratio of the time to start."""


Measure = Callable[[Subject], Awaitable[float]]
Runs = Sequence[Callable[[], Awaitable[float]]]
"""Each measures one of the two, `before` first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The paired ratios of one case, after by before: above 1 is slower than before."""

    name: str
    ratios: Sequence[float]
    bound: float = _BOUND

    def text(self) -> str:
        """Return the row as text."""
        low, high = interval(self.ratios)
        verdict = "worse" if low > self.bound else "better" if high < 1 else "holds"
        spread = f"{low:.3f} to {high:.3f}"
        return f"{self.name:<14} {statistics.median(self.ratios):6.3f}  {spread:<16} <= {self.bound:.3f}  {verdict}"

    @property
    def failed(self) -> bool:
        """Whether the interval lies entirely beyond the bound."""
        return interval(self.ratios)[0] > self.bound


class Against:
    """Runs the cases; `folders` are the two checkouts, `before` first."""

    def __init__(self, folder: Path, folders: Sequence[Path], rounds: int, seconds: int, only: str) -> None:
        self._folder = folder
        self._folders = folders
        self._rounds = rounds
        self._seconds = seconds
        self._only = only
        self.rows: list[Row] = []

    async def run(self) -> None:
        """Run every selected case."""
        os.sched_setaffinity(0, {LOAD_CORE})
        few, new = self._bodies("few", _QUESTIONS), self._bodies("new", 0)
        cases: dict[str, tuple[Measure, dict[str, str]]] = {
            "hits-64": (self._load(few, 64), {}),
            "hits-new-64": (self._load(few, 64, "traced"), {}),
            "redis-64": (self._load(few, 64), {"OCP_HOT_BYTES": "0"}),
            "pass-16": (self._load(new, 16, "new"), {"OCP_CACHE_GENERATE": "off"}),
            "miss-16": (self._load(new, 16, "new"), {}),
        }
        for name, (measure, settings) in cases.items():
            if name.startswith(self._only):
                async with Subjects(self._folder / name) as subjects:
                    await subjects.redis()
                    await self._alternate(subjects, name, await subjects.stub(), measure, settings)
        if "streams".startswith(self._only) or self._only.startswith("streams"):
            await self._streams()
        if "lists".startswith(self._only):
            await self._lists()
        if "start".startswith(self._only):
            await self._start()

    async def _alternate(
        self, subjects: Subjects, name: str, upstream: str, measure: Measure, settings: dict[str, str]
    ) -> None:
        @asynccontextmanager
        async def pair() -> AsyncIterator[Runs]:
            async with AsyncExitStack() as stack:
                both = [await self._serve(stack, subjects, folder, upstream, settings) for folder in self._folders]
                for subject in both:  # a warm-up, so that caches are filled before measuring
                    await measure(subject)
                yield [partial(measure, subject) for subject in both]

        await self._take(name, pair)

    async def _take(
        self,
        name: str,
        pair: Callable[[], AbstractAsyncContextManager[Runs]],
        bound: float = _BOUND,
    ) -> None:
        """Measure both in turns; which one is first alternates."""
        ratios = []
        for number in range(self._rounds):
            async with pair() as run:
                taken = {which: await run[which]() for which in ((0, 1) if number % 2 else (1, 0))}
            ratios.append(taken[1] / taken[0])
            sys.stderr.write(f"{name}: {number + 1} of {self._rounds}\n")
        self.rows.append(Row(name=name, ratios=ratios, bound=bound))
        sys.stdout.write(self.rows[-1].text() + "\n")
        sys.stdout.flush()

    async def _serve(
        self, stack: AsyncExitStack, subjects: Subjects, folder: Path, upstream: str, settings: dict[str, str]
    ) -> Subject:
        port = free_port()
        command = (str(folder / ".venv" / "bin" / "ollama-cache-proxy"), "serve", "--listen", f"127.0.0.1:{port}")
        environment = {"OCP_UPSTREAM": upstream, "OCP_REDIS_URL": subjects.store, "OCP_LOG": "plain", **settings}
        running = await stack.enter_async_context(process(SERVER_CORE, *command, environment=environment))
        await listens(port)
        return Subject(folder.name, f"http://127.0.0.1:{port}", running.pid)

    def _load(self, bodies: Path, connections: int, mode: str = "") -> Measure:
        async def measure(subject: Subject) -> float:
            run = await wrk(subject, bodies, connections=connections, seconds=self._seconds, mode=mode)
            if run.errors:
                raise RuntimeError(f"{run.errors} requests failed")
            return run.busy / run.rate

        return measure

    async def _streams(self) -> None:
        server, url = await streams.serve()
        for count in (8, 64):

            async def measure(subject: Subject, count: int = count) -> float:
                return (await streams.run(subject, subject.url, count)).cpu

            async with Subjects(self._folder / f"streams-{count}") as subjects:
                await subjects.redis()
                await self._alternate(subjects, f"streams-{count}", url, measure, {})
        server.close()

    async def _lists(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", lists.Stub())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        direct, numbers = f"http://127.0.0.1:{port}", iter(range(1000))
        stub = await lists.Client.open(direct)

        async def measure(subject: Subject) -> float:
            client, begun = await lists.Client.open(subject.url), cpu(subject.pid)
            await lists.run(client, stub, next(numbers))
            client.transport.close()
            return cpu(subject.pid) - begun

        async with Subjects(self._folder / "lists") as subjects:
            await subjects.redis()
            await self._alternate(subjects, "lists", direct, measure, {})
        stub.transport.close()
        await runner.cleanup()

    async def _start(self) -> None:
        async with Subjects(self._folder / "start") as subjects:
            await subjects.redis()
            upstream = await subjects.stub()

            async def begin(stack: AsyncExitStack, folder: Path) -> float:
                begun = time.perf_counter()
                await self._serve(stack, subjects, folder, upstream, {})
                return time.perf_counter() - begun

            @asynccontextmanager
            async def pair() -> AsyncIterator[Runs]:
                async with AsyncExitStack() as stack:
                    yield [partial(begin, stack, folder) for folder in self._folders]

            await self._take("start", pair, _BOUND_START)

    def _bodies(self, name: str, count: int) -> Path:
        file = self._folder / name
        lines = [question(number) for number in range(count)] or [question(0).replace(b"000000", b"NUMBER")]
        file.write_bytes(b"\n".join(lines))
        return file


def main() -> int:
    """Measure, print a row for each case, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="the other checkout, with its .venv")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2, help="seconds of each run of wrk")
    parser.add_argument("--only", default="", help="only cases with this prefix")
    given = parser.parse_args()
    folders = (given.before.resolve(), ROOT)
    sys.stdout.write("case            ratio  90 % interval    bound     (CPU of a request, after by before)\n")
    with tempfile.TemporaryDirectory() as folder:
        against = Against(Path(folder), folders, given.rounds, given.seconds, given.only)
        uvloop.run(against.run())
    return 1 if any(row.failed for row in against.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
