"""The proxy beside its peers, in one run: `make bench-peers`.

Hits and misses over 16 connections, streams, and how many of the cases of cases.py each answers wrongly. The peers take
turns, each alone on the first core; load, upstream and Redis are on the second. Nothing is installed on the system:
LiteLLM gets an environment of its own in a temporary folder, and what is missing is said in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

from benchmarks.peers import servers
from benchmarks.peers.cases import CASES
from benchmarks.peers.judging import BEHAVIOUR, NOT_ANSWERED, judge
from benchmarks.speed.load import Run, wrk
from benchmarks.speed.questions import question
from benchmarks.speed.subjects import LOAD_CORE, Subject, Subjects
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import RawConnection

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "peers.json"
PAGE: Final = ROOT / "docs" / "performance.md"
BEGIN: Final = "<!-- what follows is made by `python -m benchmarks.peers --report` -->"
END: Final = "<!-- end of what is made by it -->"
_CONNECTIONS: Final = 16
_TOKENS: Final = 100.0
"""Tokens a second of the streams."""

Rows = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """One stream: milliseconds to its first byte and its last, and in how many pieces its text came."""

    first: float
    last: float
    pieces: int


async def _stream(url: str, number: int) -> Streamed:
    """Ask for a stream that was not asked for before; every peer speaks this path."""
    asked = {"model": "tiny", "stream": True, "temperature": 0, "seed": 1, "max_tokens": 24}
    body = orjson.dumps({**asked, "messages": [{"role": "user", "content": f"stream {number}"}]})
    pieces: list[float] = []
    begun = time.perf_counter()
    async with asyncio.timeout(30), await RawConnection.open(url) as connection:
        connection.send("POST", "/v1/chat/completions", body=body)
        status, _ = await connection.head()
        assert " 200 " in f"{status} ", status
        whole = b""
        while not whole.endswith(b"0\r\n\r\n"):
            read = await connection.reader.read(1 << 16)
            assert read, "the stream broke off"
            whole += read
            pieces += [time.perf_counter()] if b"data:" in read else []
    return Streamed(first=(pieces[0] - begun) * 1e3, last=(pieces[-1] - begun) * 1e3, pieces=len(pieces))


class Comparison:
    """Starts the peers and measures them."""

    def __init__(self, folder: Path, rounds: int, seconds: int, program: Path | None) -> None:
        self._folder, self._rounds, self._seconds, self._program = folder, rounds, seconds, program
        self.rows: dict[str, Rows] = {}

    async def run(self) -> None:
        """Measure all; a peer that fails is left out with the reason."""
        os.sched_setaffinity(0, {LOAD_CORE})
        async with Subjects(self._folder / "servers") as subjects:
            program = self._program or await servers.install(self._folder)
            peers, left_out = servers.peers(subjects, program)
            upstream = await servers.stub(subjects)
            running: dict[str, Subject] = {}
            for peer in peers:
                try:
                    running[peer.name] = subject = await peer.start(upstream)
                except (OSError, TimeoutError, AssertionError) as error:
                    left_out[peer.name] = f"does not start: {error or type(error).__name__}"
                else:
                    self.rows[peer.name] = {"version": peer.version, "path": subject.path}
            await self._load(running)
        async with Subjects(self._folder / "others") as subjects:
            peers, _ = servers.peers(subjects, program)
            await self._streams([peer for peer in peers if peer.name in self.rows])
            for peer in peers:
                if peer.name in self.rows:
                    await self._judge(peer)
        self.rows |= {name: {"left out": why} for name, why in left_out.items()}

    def _bodies(self, form: str, count: int) -> Path:
        """Return a file of questions; with a count of 0 one with a placeholder for its number."""
        file = self._folder / f"{form.strip('/').replace('/', '-')}-{count}"
        lines = [question(number) for number in range(count)] or [question(0).replace(b"000000", b"NUMBER")]
        if form != "/api/generate":
            asked = [(b'"prompt":', b'"messages":[{"role":"user","content":'), (b',"stream"', b'}],"stream"')]
            for before, after in asked:
                lines = [line.replace(before, after) for line in lines]
        file.write_bytes(b"\n".join(lines))
        return file

    async def _load(self, running: dict[str, Subject]) -> None:
        for what, count, mode in (("hits", 100, ""), ("misses", 0, "new")):
            taken: dict[str, list[Run]] = {name: [] for name in running}
            for number in range(-1, self._rounds):  # the first fills the caches
                for name, subject in running.items():
                    run = await wrk(
                        subject,
                        self._bodies(subject.path, count),
                        connections=_CONNECTIONS,
                        seconds=self._seconds * (1 if number >= 0 else 3),
                        mode=mode,
                    )
                    taken[name] += [run] if number >= 0 else []
                sys.stderr.write(f"{what}: {number + 1} of {self._rounds}\n")
            for name, runs in taken.items():
                self.rows[name][what] = [asdict(run) for run in runs]

    async def _streams(self, peers: list[servers.Peer]) -> None:
        async with Simulator(Behaviour(completion_delay=0, token_rate=_TOKENS)) as simulator:
            urls = {peer.name: (await peer.start(simulator.url)).url for peer in peers}
            numbers = iter(range(10_000))
            for number in range(-1, 3 * self._rounds):  # the first one opens what stays open
                direct = await _stream(simulator.url, next(numbers))
                for name, url in urls.items():
                    got = await _stream(url, next(numbers))
                    row = {"first": got.first - direct.first, "last": got.last - direct.last}
                    row |= {"pieces": got.pieces, "pieces directly": direct.pieces}
                    if number >= 0:
                        self.rows[name].setdefault("streams", []).append(row)
        sys.stderr.write("streams: done\n")

    async def _judge(self, peer: servers.Peer) -> None:
        async with Simulator(BEHAVIOUR) as simulator:
            subject = await peer.start(simulator.url)
            translated = bool(peer.speaks)
            self.rows[peer.name]["cases"] = await judge(subject.url, simulator, only=peer.speaks, translated=translated)
        sys.stderr.write(f"cases: {peer.name}\n")


def _figures(values: list[float], form: str = ".0f") -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _row(name: str, row: Rows, count: int) -> str:
    """Return a line of the table."""
    if "left out" in row:
        return f"| {name} | skipped: {row['left out']} | | | | | | | |"
    cells = [name, f"{row['version']}, `{row['path']}`"]
    for what in ("hits", "misses"):
        runs = row[what]
        failed = sum(run["errors"] for run in runs)
        rate = _figures([run["rate"] for run in runs]) + (f", {failed} failed" if failed else "")
        cells += [rate, _figures([run["cpu"] for run in runs])]
    late = [_figures([run[which] for run in row["streams"]], ".1f") for which in ("first", "last")]
    pieces = [statistics.median(run[which] for run in row["streams"]) for which in ("pieces", "pieces directly")]
    cells.append(f"{late[0]}, {late[1]}; {pieces[0]:.0f} of {pieces[1]:.0f}")
    unanswered = sum(reason == NOT_ANSWERED for reason in row["cases"].values())
    cells += [f"{len(row['cases']) - unanswered} of {count - unanswered}", f"{unanswered}"]
    return f"| {' | '.join(cells)} |"


def table(kept: Rows) -> list[str]:
    """Return the generated part of the page."""
    rows, count = kept["rows"], kept["cases"]
    lines = [
        (
            "| peer | version, path of hits and misses | hits a second | CPU of a hit, µs | misses a second "
            "| CPU of a miss, µs | a stream: first byte later, last byte later (ms); pieces of those directly "
            "| cases answered wrongly | not spoken |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, row, count) for name, row in rows.items()),
        "",
        f"Median of the rounds, with the least and the most. Made by: `{kept['command']}`.",
    ]
    for name, row in rows.items():
        reasons = {case: why for case, why in row.get("cases", {}).items() if why != NOT_ANSWERED}
        if reasons:
            lines += ["", f"{name} answers wrongly:", ""]
            lines += [f"- {case} ({why})" for case, why in reasons.items()]
    return lines


def page(written: str, kept: Rows) -> str:
    """Return the page with the part between the two markers replaced."""
    before, _, rest = written.partition(BEGIN)
    return "\n".join([before + BEGIN, "", *table(kept), "", END]) + rest.partition(END)[2]


def main() -> int:
    """Measure, write results and page, and return the exit status: 1 if this proxy answers a case wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="seconds of each run of wrk")
    parser.add_argument("--litellm", type=Path, help="program of an installed LiteLLM of the pinned version")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given = parser.parse_args()
    if not given.report:
        with tempfile.TemporaryDirectory() as folder:
            comparison = Comparison(Path(folder), given.rounds, given.seconds, given.litellm)
            uvloop.run(comparison.run())
        differing = [("--rounds", given.rounds, 3), ("--seconds", given.seconds, 1)]
        arguments = " ".join(f"{name} {value}" for name, value, usual in differing if value != usual)
        command = "make bench-peers" + (f' ARGS="{arguments}"' if arguments else "")
        kept = {"command": command, "cases": len(CASES), "rows": comparison.rows}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    kept = json.loads(RESULTS.read_text())
    PAGE.write_text(page(PAGE.read_text(), kept))
    sys.stdout.write("\n".join(table(kept)) + "\n")
    return 1 if kept["rows"]["ollama-cache-proxy"]["cases"] else 0


if __name__ == "__main__":
    sys.exit(main())
