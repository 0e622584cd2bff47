"""The speed of the proxy, compared with nginx and plain aiohttp: `make bench`.

The measured server runs on the first core, load and upstream on the second. Subjects take turns, so that a disturbance
of the machine affects all of them. Results go to benchmarks/results/speed.json; `--report` makes table and plot.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import aiohttp
import redis
import uvloop
from aiohttp import web

from benchmarks.agents import __main__ as agents
from benchmarks.speed import lists, streams
from benchmarks.speed.goals import MISSED, Results, absolute, plot, table
from benchmarks.speed.load import cpu, wrk
from benchmarks.speed.questions import COUNT, answer, question
from benchmarks.speed.subjects import BOTH_CORES, LOAD_CORE, SERVER_CORE, Subject, Subjects, nginx_version
from tests.support.servers import free_port

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "speed.json"
PAGE: Final = ROOT / "docs" / "performance.md"
PICTURE: Final = ROOT / "docs" / "hits.svg"
BEGIN: Final = "<!-- what follows is made by `python -m benchmarks.speed --report` -->"
_HOT_KEYS: Final = 100
_CHATS: Final = 10
_ENTRIES: Final = (1_000, 100_000, 1_000_000)
_UNSEEN: Final = 10 * COUNT
"""Questions: ten times as many as the fast path has notes."""
_FRESH: Final = {
    "fresh-64": (64, "traced"),
    "fresh-1": (1, "traced"),
    "signed-64": (64, "signed"),
    "pipelined-64": (64, "pipelined"),
    "spaced-64": (64, "spaced"),
}
"""Hits whose bytes were never sent before: connections, and the mode of post.lua."""
_WIDE: Final = ("miss-1", "streams-8", "lists", "workers-64", "unseen-64")
"""Cases with short runs and a large spread: they have three times the rounds."""

_HELD_ENTRIES: Final = 36_000
"""Responses of 1 KB that fill a hot tier of 64 MiB, including the overhead of an entry."""


def memory(subject: Subject) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{subject.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The additional memory of the proxy in MB."""

    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """One start: seconds to the first response, and the memory after it in MB."""

    seconds: float
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One run on cores that server, load, upstream and store share: how many of them all used together.

    `rate` is in requests a second, `cpu` the server's time for a request in microseconds.
    """

    rate: float
    cpu: float
    cores: float


class Bench:
    """Runs cases, and collects their results."""

    def __init__(self, folder: Path, rounds: int, seconds: int, only: str) -> None:
        self.folder, self.rounds, self.seconds, self.only = folder, rounds, seconds, only
        self.results: Results = {}

    def wanted(self, case: str) -> bool:
        """Return whether a case is to be run."""
        return not self.only or case.startswith(self.only)

    async def alternate(self, case: str, runs: dict[str, Callable[[], Awaitable[Any]]]) -> None:
        """Measure the subjects of a case in turns."""
        taken = self.results.setdefault(case, {name: [] for name in runs})
        rounds = self.rounds * (3 if case in _WIDE else 1)
        for number in range(rounds):
            for name, run in runs.items():
                taken[name].append(asdict(await run()))
            sys.stderr.write(f"{case}: {number + 1} of {rounds}\n")

    def bodies(self, name: str, count: int) -> Path:
        """Return a new file of questions; with a count of 0 one question with a placeholder for its number."""
        file = self.folder / name
        lines = [question(number) for number in range(count)] or [question(0).replace(b"000000", b"NUMBER")]
        file.write_bytes(b"\n".join(lines))
        return file

    async def requests(
        self,
        case: str,
        subjects: list[Subject],
        connections: int,
        bodies: Path,
        mode: str | Mapping[str, str] = "",
    ) -> None:
        """Measure with wrk, after a warm-up of every subject that fills its cache; `mode` may differ between them."""
        modes = {subject.name: mode if isinstance(mode, str) else mode[subject.name] for subject in subjects}
        for subject in subjects:
            await wrk(subject, bodies, connections=16, seconds=2 * self.seconds, mode=modes[subject.name])

        def run(subject: Subject) -> Callable[[], Awaitable[Any]]:
            mode = modes[subject.name]
            return lambda: wrk(subject, bodies, connections=connections, seconds=self.seconds, mode=mode)

        await self.alternate(case, {subject.name: run(subject) for subject in subjects})

    async def hits(self, subjects: Subjects) -> None:
        """Compare hits, with the hot tier and without."""
        few, many = self.bodies("few", _HOT_KEYS), self.bodies("many", COUNT)
        warm = [await subjects.nginx_cache(), await subjects.floor("dict"), await subjects.proxy("proxy")]
        for connections in (64, 1):
            if self.wanted(f"hits-{connections}"):
                await self.requests(f"hits-{connections}", warm, connections, few)
        for case, (connections, mode) in _FRESH.items():
            if self.wanted(case):
                modes = {"nginx": "traced" if mode == "spaced" else mode, "proxy": mode}  # nginx's key is the body
                await self.requests(case, [warm[0], warm[2]], connections, few, modes)
        if self.wanted("logged-64"):
            logged = [await subjects.nginx_cache(logged=True), await subjects.proxy("proxy", OCP_LOG="json")]
            await self.requests("logged-64", logged, 64, few)
        if self.wanted("redis-64"):
            client = redis.Redis.from_url(subjects.store)
            client.mset({question(number): answer() for number in range(COUNT)})
            cold = [await subjects.floor("redis"), await subjects.proxy("proxy", OCP_HOT_BYTES="0")]
            for _ in range(6):  # ten thousand misses take a while
                await wrk(cold[1], many, connections=16, seconds=2 * self.seconds)
            await self.requests("redis-64", cold, 64, many)
        if self.wanted("unseen-64"):
            await self._unseen(subjects)

    async def recorded(self, subjects: Subjects) -> None:
        """Compare hits of recorded streams with nginx's copy of the same bytes."""
        server, url = await streams.serve()
        kept = {"OCP_CACHE_STREAMS": "true", "OCP_CACHE_CHAT": "always"}
        servers = [await subjects.nginx_cache(url), await subjects.proxy("proxy", url, **kept)]
        bodies = self.folder / "chats"
        bodies.write_bytes(b"\n".join(streams.chat(number) for number in range(_CHATS)))
        await self.requests("recorded-64", [replace(one, path="/api/chat") for one in servers], 64, bodies)
        server.close()

    async def _unseen(self, subjects: Subjects) -> None:
        """Compare hits whose questions no note is of: there are more of them than notes, and they are asked in turn."""
        all_ = self.bodies("all", _UNSEEN)
        client = redis.Redis.from_url(subjects.store)
        for begin in range(0, _UNSEEN, COUNT):
            client.mset({question(number): answer() for number in range(begin, begin + COUNT)})
        cold = [await subjects.floor("redis"), await subjects.proxy("proxy", OCP_HOT_BYTES="0")]
        while client.dbsize() < 2 * _UNSEEN:
            await wrk(cold[1], all_, connections=16, seconds=4)
        await self.requests("unseen-64", cold, 64, all_)

    async def workers(self, subjects: Subjects) -> None:
        """Compare one process with two, on all cores, with misses."""
        new = self.bodies("new", 0)
        servers = [
            await subjects.proxy(f"{count} worker{'s' * (count > 1)}", cores=BOTH_CORES, OCP_WORKERS=f"{count}")
            for count in (1, 2)
        ]
        for server in servers:
            await wrk(server, new, connections=16, seconds=2 * self.seconds, mode="new")

        def run(server: Subject) -> Callable[[], Awaitable[Any]]:
            async def measured() -> Any:
                before = sum(map(cpu, subjects.helpers))
                found = await wrk(server, new, connections=64, seconds=self.seconds, mode="new")
                helped = (sum(map(cpu, subjects.helpers)) - before) / self.seconds
                return Shared(rate=found.rate, cpu=found.cpu, cores=found.busy + found.load_busy + helped)

            return measured

        await self.alternate("workers-64", {server.name: run(server) for server in servers})

    async def misses(self, subjects: Subjects) -> None:
        """Compare forwarded requests, and misses."""
        new = self.bodies("new", 0)
        passing = [await subjects.floor("pass"), await subjects.proxy("proxy", OCP_CACHE_GENERATE="off")]
        missing = [await subjects.floor("get-pass"), await subjects.proxy("proxy")]
        for name, pair in (("pass", passing), ("miss", missing)):
            for connections in (1, 16):
                case = f"{name}-{connections}"
                if self.wanted(case):
                    await self.requests(case, pair, connections, new, mode="new")

    async def streams(self, subjects: Subjects) -> None:
        """Compare streams."""
        server, url = await streams.serve()
        servers = [
            await subjects.nginx_pass(url),
            await subjects.floor("relay", url),
            await subjects.floor("plain", url),
            await subjects.proxy("proxy", url),
        ]

        def run(subject: Subject | None, count: int) -> Callable[[], Awaitable[Any]]:
            return lambda: streams.run(subject, subject.url if subject else url, count)

        for count in (8, 64):
            direct = {"direct": run(None, count)}
            await self.alternate(f"streams-{count}", direct | {one.name: run(one, count) for one in servers})
        server.close()

    async def lists(self, subjects: Subjects) -> None:
        """Measure lists of embeddings."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", lists.Stub())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        direct, numbers = f"http://127.0.0.1:{port}", iter(range(1000))
        servers = [
            await subjects.proxy("proxy", direct),
            await subjects.proxy("proxy, no hot tier", direct, OCP_HOT_BYTES="0"),
        ]
        clients = {subject.name: await lists.Client.open(subject.url) for subject in servers}
        stub = await lists.Client.open(direct)

        def run(client: lists.Client) -> Callable[[], Awaitable[Any]]:
            return lambda: lists.run(client, stub, next(numbers))

        await self.alternate("lists", {name: run(client) for name, client in clients.items()})
        for client in (stub, *clients.values()):
            client.transport.close()
        await runner.cleanup()

    async def entries(self, subjects: Subjects) -> None:
        """Measure hits from Redis, and misses, with many other entries in the store."""
        few, new = self.bodies("few", _HOT_KEYS), self.bodies("new", 0)
        client = redis.Redis.from_url(subjects.store)
        cold = await subjects.proxy("proxy", OCP_HOT_BYTES="0")
        await wrk(cold, few, connections=16, seconds=self.seconds)
        generation = client.get("ocp:1:generation")
        assert isinstance(generation, bytes)
        prefix = f"ocp:1:e:{generation.decode()}"
        for count in _ENTRIES:
            while (there := client.dbsize()) < count:
                names = (f"{prefix}:{number:064x}" for number in range(there, min(there + 10_000, count)))
                client.mset(dict.fromkeys(names, b"x" * 1000))
            taken = self.results.setdefault(f"entries-{count}", {"proxy": [], "proxy, misses": []})
            for _ in range(self.rounds):
                taken["proxy"].append(asdict(await wrk(cold, few, connections=1, seconds=self.seconds)))
                taken["proxy, misses"].append(asdict(await wrk(cold, new, connections=1, seconds=1, mode="new")))

    async def held(self, subjects: Subjects) -> None:
        """Measure the additional memory of a full hot tier."""
        many = self.bodies("held", _HELD_ENTRIES)
        warm = await subjects.proxy("proxy")
        await wrk(warm, self.bodies("few", _HOT_KEYS), connections=16, seconds=2)  # memory for its work
        before = memory(warm)
        for _ in range(6):  # each is requested several times
            await wrk(warm, many, connections=16, seconds=8)
        self.results["held"] = {"proxy": [asdict(Held(memory=memory(warm) - before))]}

    async def start(self) -> None:
        """Measure the start."""
        async with Subjects(self.folder / "start") as subjects:
            await subjects.redis()
            await subjects.stub()

            async def run() -> Any:
                begun = time.perf_counter()
                subject = await subjects.proxy("proxy")
                seconds = time.perf_counter() - begun
                return Started(seconds=seconds, memory=memory(subject))

            await self.alternate("start", {"proxy": run})


async def measure(bench: Bench) -> None:
    """Run the selected cases."""
    os.sched_setaffinity(0, {LOAD_CORE})
    parts = {
        "hits redis unseen fresh signed pipelined spaced logged": bench.hits,
        "workers": bench.workers,
        "pass miss": bench.misses,
        "streams": bench.streams,
        "recorded": bench.recorded,
        "lists": bench.lists,
        "entries": bench.entries,
        "held": bench.held,
    }
    for number, (names, part) in enumerate(parts.items()):
        if any(bench.wanted(name) or bench.only.startswith(name) for name in names.split()):
            async with Subjects(bench.folder / str(number)) as subjects:
                await subjects.redis()
                await subjects.stub()
                await part(subjects)
    if bench.wanted("start"):
        await bench.start()


def machine() -> dict[str, str]:
    """Return a description of the machine."""
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "processor": model.partition(": ")[2],
        "cores": f"{os.cpu_count()}: {SERVER_CORE} for the server, {LOAD_CORE} for load, upstream and Redis",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "nginx": nginx_version(),
        "aiohttp": aiohttp.__version__,
        "uvloop": version("uvloop"),
    }


def page(written: str, kept: dict[str, Any]) -> str:
    """Return the page with its generated part replaced."""
    about = [f"- {name}: {text}" for name, text in kept["machine"].items()]
    results: Results = kept["results"]
    made = ["", *table(results), "", *about, "", "What the ratios are made of:", "", *absolute(results), ""]
    return written[: written.index(BEGIN) + len(BEGIN)] + "\n" + "\n".join(made)


def report() -> bool:
    """Write table and plot of the results; return whether every goal is met."""
    kept = json.loads(RESULTS.read_text())
    results: Results = kept["results"]
    PAGE.write_text(page(PAGE.read_text(), kept))
    PICTURE.write_text(plot(results))
    sys.stdout.write("\n".join(table(results)) + "\n")
    return MISSED not in PAGE.read_text()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="seconds of each run of wrk")
    parser.add_argument(
        "--only",
        default="",
        help="only cases with this prefix; their results replace older ones. `agents` is benchmarks.agents, which takes"
        " the other options",
    )
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given, others = parser.parse_known_args()
    if given.only == "agents":
        sys.exit(agents.main(others))
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if not given.report:
        with tempfile.TemporaryDirectory() as folder:
            running = Bench(Path(folder), given.rounds, given.seconds, given.only)
            uvloop.run(measure(running))
        older = json.loads(RESULTS.read_text())["results"] if given.only and RESULTS.exists() else {}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"machine": machine(), "results": older | running.results}, indent=1) + "\n")
    sys.exit(0 if report() else 1)
