"""The CPU time of each turn of the event loop, measured in a proxy that runs as a process.

    python -m tests.support.turns FILE serve …

runs the command on asyncio, whose loop is written in Python, and writes a line to FILE for each turn of `LEAST` seconds
or more: its CPU time (`time.thread_time`, not the time on the wall, so that a machine with other work does not show),
and which callback took most of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio import base_events, events
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from tests.support.processes import Command

LEAST: Final = 0.005
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the loop: CPU time in milliseconds, that of its longest callback, and what that was."""

    ms: float
    longest_ms: float
    ran: str


class TurnLog:
    """The turns that a process has written to `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()
        self._read = 0

    def since_last(self) -> list[Turn]:
        """Return the turns since the last call, in their order."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        return [Turn(**json.loads(line)) for line in lines.splitlines()]

    def longest(self) -> Turn:
        """Return the longest turn since the last call."""
        return max(self.since_last(), key=lambda turn: turn.ms, default=Turn(0.0, 0.0, f"none of {LEAST} s"))


@asynccontextmanager
async def serve_measured(path: Path, *arguments: str, **settings: str) -> AsyncIterator[tuple[Command, TurnLog]]:
    """Run `ollama-cache-proxy serve` with these settings, as a process whose turns are written to `path`."""
    log = TurnLog(path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(path), "serve", *arguments),
        env=os.environ | {f"OCP_{name.upper()}": value for name, value in settings.items()},
        stderr=asyncio.subprocess.PIPE,
    )
    running = Command(process)
    try:
        yield running, log
    finally:
        if process.returncode is None:
            process.kill()
        await running.end()


def _what(handle: Any) -> str:
    """Return the name of what a handle runs, and nothing of its arguments."""
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"{owner.get_coro().__qualname__} ({owner.get_name()})"  # type: ignore[union-attr] # it has a coroutine
    return str(getattr(callback, "__qualname__", type(callback).__name__))


def measure(file: IO[str]) -> None:
    """Measure each turn of asyncio's loops from now on."""
    run, run_once, now = events.Handle._run, base_events.BaseEventLoop._run_once, time.thread_time  # type: ignore[attr-defined]
    longest: list[Any] = [0.0, None]

    def measured_run(handle: events.Handle) -> None:
        begun = now()
        run(handle)
        if (took := now() - begun) > longest[0]:
            longest[:] = took, handle if handle._callback is not None else None  # type: ignore[attr-defined]

    def measured_run_once(loop: Any) -> None:
        longest[:] = 0.0, None
        begun = now()
        run_once(loop)
        if (took := now() - begun) >= LEAST:
            ran = "a cancelled callback" if longest[1] is None else _what(longest[1])
            file.write(json.dumps({"ms": took * 1e3, "longest_ms": longest[0] * 1e3, "ran": ran}) + "\n")
            file.flush()

    events.Handle._run = measured_run  # type: ignore[assignment, method-assign]
    base_events.BaseEventLoop._run_once = measured_run_once  # type: ignore[attr-defined]


if __name__ == "__main__":
    from ollama_cache_proxy.cli.main import main

    sys.modules["uvloop"] = None  # type: ignore[assignment] # its import fails, so that asyncio's loop is used
    with Path(sys.argv[1]).open("a", encoding="utf-8") as output:
        measure(output)
        sys.exit(main(sys.argv[2:]))
