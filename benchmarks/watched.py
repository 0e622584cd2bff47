"""The project's commands as processes whose output is counted and searched for secrets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from tests.support import canary
from tests.support.rawhttp import ask
from tests.support.turns import TurnLog

T = TypeVar("T")

SECRETS: Final = {"prompt": canary.PROMPT, "token": canary.TOKEN, "password": canary.PASSWORD}

_REMOVED_VARIABLES: Final = ("OCP_", "REDIS_URL", "OLLAMA_HOST", "PYTHONASYNCIODEBUG")
_KEPT_LINES: Final = 40
_LONGEST_SECRET: Final = 64
_TAG: Final = b"[AI Cache] "
_START_DEADLINE: Final = 20.0
"""Seconds for a process to print its first lines."""

_END_DEADLINE: Final = 15.0
"""Seconds for a process to end."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Secrets:
    """Secrets that appeared in output, and where."""

    shown: set[str] = field(default_factory=set)

    def search(self, data: bytes, where: str) -> None:
        """Search output for secrets."""
        self.shown.update(f"{name} in {where}" for name, secret in SECRETS.items() if secret.encode() in data)


class Watched:
    """A process whose standard error is counted and searched as it comes, but not stored."""

    def __init__(self, *arguments: str, secrets: Secrets, environment: Mapping[str, str] | None = None) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_REMOVED_VARIABLES)}
        self.lines = self.tracebacks = self.foreign = 0
        self.first: list[str] = []
        self.strange: list[str] = []
        self._secrets = secrets
        self._process = subprocess.Popen(  # noqa: S603 - commands of this project
            (sys.executable, *arguments),
            env=inherited | {"OCP_KEEP": "false"} | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def _read(self) -> None:
        rest = b""
        while data := os.read(_pipe(self._process.stderr).fileno(), 1 << 16):
            # A secret that is split between two pieces is found with the second one.
            self._secrets.search(rest[-_LONGEST_SECRET:] + data, "the log")
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(line)
        if rest:
            self._line(rest)

    def _line(self, line: bytes) -> None:
        self.lines += 1
        if len(self.first) < _KEPT_LINES:
            self.first.append(line.decode(errors="replace"))
        if not line.startswith(_TAG):
            self.foreign += 1
            self.tracebacks += line.startswith(b"Traceback")
            if len(self.strange) < _KEPT_LINES:
                self.strange.append(line.decode(errors="replace"))

    async def wait_for(self, text: str) -> str:
        """Wait for one of the first lines that contains `text`, and return what follows it."""
        async with asyncio.timeout(_START_DEADLINE):
            while not (found := [line for line in self.first if text in line]):
                if not self.alive:
                    raise RuntimeError(f"ended too early: {self.first}")
                await asyncio.sleep(0.01)
        return found[0].split(text, 1)[1].split(",")[0].split()[0]

    async def send_line(self, line: str) -> None:
        """Write a line to its input, and wait for the line `done`."""
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        stdin.write(line.encode() + b"\n")
        stdin.flush()
        async with asyncio.timeout(_START_DEADLINE):
            if await asyncio.to_thread(stdout.readline) != b"done\n":
                raise RuntimeError(f"did not take {line!r}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    async def end(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self._process.terminate()
        status = await asyncio.to_thread(self._process.wait, _END_DEADLINE)
        await asyncio.to_thread(self._reader.join, _END_DEADLINE)
        return status

    def close(self) -> None:
        """Kill the process if it still runs."""
        if self.alive:
            self._process.kill()
        self._process.wait()
        self._reader.join(_END_DEADLINE)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def memory(self) -> float:
        """Return the resident memory in MiB (proc_pid_statm(5))."""
        return int(self._proc("statm").split()[1]) * _PAGE / (1 << 20)

    def files(self) -> int:
        """Return the number of open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - only the names are needed

    def command(self) -> bytes:
        """Return the command line as other users can see it."""
        return self._proc("cmdline")

    def _proc(self, name: str) -> bytes:
        return Path(f"/proc/{self.pid}/{name}").read_bytes()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("no pipe")
    return pipe


def simulator(port: int, *arguments: str, secrets: Secrets) -> Watched:
    """Start `ollama-cache-proxy simulate`."""
    return Watched("-m", "ollama_cache_proxy", "simulate", "--listen", f"127.0.0.1:{port}", *arguments, secrets=secrets)


def proxy(upstream: str, redis_url: str, *, secrets: Secrets, turns: TurnLog | None = None, **settings: str) -> Watched:
    """Start `ollama-cache-proxy serve`; secrets are only in its environment. With `turns`, its loop is measured."""
    environment = {f"OCP_{name.upper()}": value for name, value in settings.items()}
    environment |= {"OCP_REDIS_URL": redis_url, "OCP_ADMIN_TOKEN": canary.TOKEN}
    arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream, "--log", "plain")
    module = ("ollama_cache_proxy",) if turns is None else ("tests.support.turns", str(turns.path))
    return Watched("-m", *module, "serve", *arguments, secrets=secrets, environment=environment)


async def search_routes(url: str, process: Watched, secrets: Secrets) -> None:
    """Search the responses of the proxy's own routes and its command line for secrets."""
    for path in ("/metrics", "/api/cache/stats", "/readyz"):
        secrets.search((await ask(url, "GET", path)).body, path)
    secrets.search(process.command(), "the command line")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine; SIGTERM, SIGINT and SIGHUP cancel it, so that no process is left over."""

    async def cancellable() -> T:
        task = asyncio.ensure_future(main)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        sys.exit(130)
