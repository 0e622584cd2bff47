"""Commands of the project as processes of their own: killed, stopped, measured from outside."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from tests.support import canary


class Command:
    """`ollama-cache-proxy serve …`, running; `lines` are what it has said so far, and none holds a secret."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._said:
                self.lines.append(line.decode().rstrip())
                self._said.notify_all()

    async def line(self, wanted: Callable[[str], object]) -> str:
        async with asyncio.timeout(20), self._said:
            await self._said.wait_for(lambda: any(wanted(line) for line in self.lines))
        return next(line for line in self.lines if wanted(line))

    async def url(self) -> str:
        """Wait until it listens, and give where."""
        line = await self.line(lambda line: "listens on http" in line)
        return line.split("listens on ")[1].split(",")[0].split('"')[0]

    def peak(self) -> float:
        """Give the memory that it has taken up at most, in MB (VmHWM of proc_pid_status(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    async def end(self) -> int:
        status = await asyncio.wait_for(self.process.wait(), 20)
        await self._reading
        canary.check("\n".join(self.lines), "the log")
        return status


@asynccontextmanager
async def serve(
    *arguments: str, environment: dict[str, str] | None = None, files: tuple[int, int] | None = None
) -> AsyncIterator[Command]:
    """Run `ollama-cache-proxy serve` as a process, in this environment with `environment` added.

    `files` are its soft and hard limit on open files.
    """
    limit = None if files is None else partial(resource.setrlimit, resource.RLIMIT_NOFILE, files)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "serve", *arguments),
        env={**os.environ, **(environment or {})},
        preexec_fn=limit,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Command(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.end()


@asynccontextmanager
async def simulate(*arguments: str, port: int = 0) -> AsyncIterator[tuple[Command, str]]:
    """Run `ollama-cache-proxy simulate` as a process: an Ollama that can be stopped and killed. Gives its URL too."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "ollama_cache_proxy",
            "simulate",
            "--listen",
            f"127.0.0.1:{port}",
            "--completion-ms",
            "0",
        ),
        *("--embedding-ms", "0", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    running = Command(process)
    try:
        line = await running.line(lambda line: "answers at http" in line)
        yield running, line.rpartition(" ")[2]
    finally:
        if process.returncode is None:
            process.kill()
        await running.end()


@asynccontextmanager
async def gpu(*arguments: str, **environment: str) -> AsyncIterator[tuple[Command, str]]:
    """Run `ollama-cache-proxy gpu` as a process; gives its URL too."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "gpu", "--listen", "127.0.0.1:0", *arguments),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    running = Command(process)
    try:
        line = await running.line(lambda line: "are at http" in line)
        yield running, line.rpartition(" ")[2].removesuffix("/metrics")
    finally:
        if process.returncode is None:
            process.kill()
        await running.end()
