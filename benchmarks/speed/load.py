"""wrk as load: requests a second, percentiles in milliseconds, and the CPU use of both sides."""

from __future__ import annotations

import asyncio
import json
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.speed.subjects import LOAD_CORE, Subject, children

_SCRIPT: Final = Path(__file__).with_name("post.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. Percentiles are in milliseconds; `busy` and `load_busy` are cores used by the server and by wrk.

    `cpu` is the server's time for a request in microseconds.
    """

    rate: float
    p50: float
    p90: float
    p99: float
    errors: int
    busy: float
    load_busy: float
    cpu: float


def cpu(pid: int) -> float:
    """Return the CPU seconds of all threads of a process, and of its children that run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    own = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    return own + sum(map(cpu, children(pid)))


async def wrk(subject: Subject, bodies: Path, *, connections: int, seconds: int, mode: str = "") -> Run:
    """Send the bodies of a file in turn with wrk; `mode` is one of those of post.lua."""
    command = ("taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s")
    arguments = ("-s", str(_SCRIPT), subject.url, "--", subject.path, str(bodies), mode)
    begun, before = cpu(subject.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = await asyncio.create_subprocess_exec(*command, *arguments, stdout=asyncio.subprocess.PIPE)
    assert running.stdout is not None
    output = await running.stdout.read()
    await running.wait()
    used, after = cpu(subject.pid) - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(output.splitlines()[-1])
    wall = found["microseconds"] / 1e6
    return Run(
        rate=found["requests"] / wall,
        p50=found["p50"] / 1000,
        p90=found["p90"] / 1000,
        p99=found["p99"] / 1000,
        errors=found["errors"],
        busy=used / wall,
        cpu=used / found["requests"] * 1e6,
        load_busy=(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / wall,
    )
