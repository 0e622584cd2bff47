"""Proxies as processes that keep what they know in a folder, as those of one person do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.support.processes import Command, serve
from tests.support.rawhttp import ask
from tests.support.waiting import until

EMBED = "/api/embed"


@dataclass(slots=True)
class Serving:
    """A proxy that runs as a process."""

    command: Command
    url: str

    async def ask(self, *texts: str) -> list[str | None]:
        """Ask for the vector of each text; give what X-Cache says."""
        bodies = (json.dumps({"model": "all-minilm", "input": text}).encode() for text in texts)
        return [(await ask(self.url, "POST", EMBED, body=body)).field("X-Cache") for body in bodies]

    async def hits(self, *texts: str, within: float = 10.0) -> None:
        """Wait until each text is a hit, which takes no longer than it takes to load the store."""
        async with asyncio.timeout(within):
            while await self.ask(*texts) != ["HIT"] * len(texts):  # noqa: ASYNC110 - it is another process that loads
                await asyncio.sleep(0.01)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.command.process.send_signal(number)
        assert await self.command.end() == (0 if number is signal.SIGTERM else -number)

    async def kill_all(self) -> None:
        """Kill the proxy, its workers, the server and the shell that watches it, as a power cut would."""
        pids = [self.command.process.pid, *descendants(self.command.process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that none of them sees another end
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await self.command.end()

    def kill_server(self) -> None:
        """Kill the server alone."""
        (server,) = (
            pid
            for pid in descendants(self.command.process.pid)
            if Path(f"/proc/{pid}/comm").read_text().strip() in ("valkey-server", "redis-server")
        )
        os.kill(server, signal.SIGKILL)

    def said(self, *words: str) -> list[str]:
        """Give the lines that hold one of these words."""
        return [line for line in self.command.lines if any(word in line for word in words)]


def descendants(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(below for child in found for below in descendants(child))]


@dataclass(slots=True)
class Place:
    """Where a person's proxies keep what they know."""

    upstream: str
    environment: dict[str, str]
    folder: Path
    temporary: Path

    @asynccontextmanager
    async def serve(self, *options: str, **environment: str) -> AsyncIterator[Serving]:
        arguments = ("--listen", "127.0.0.1:0", "--upstream", self.upstream, *options)
        async with serve(*arguments, environment=self.environment | environment) as command:
            serving = Serving(command, await command.url())
            await command.line(lambda line: "Connected to Ollama" in line)
            if "--workers" in options and "1" not in options:
                await command.line(lambda line: "workers serve" in line)
            yield serving

    async def scrubbed(self) -> None:
        """Wait until the scrub after the start of the server is done."""
        (socket,) = self.temporary.rglob("*.sock")
        with redis.Redis(unix_socket_path=str(socket), socket_timeout=5) as client:
            await until(lambda: client.info("commandstats").get("cmdstat_bgrewriteaof"), 30)
            await until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 30)


@contextmanager
def place_of_a_person(upstream: str, folder: Path) -> Iterator[Place]:
    """Give where a person's proxies keep what they know, in a folder of the test's."""
    runtime = Path(tempfile.mkdtemp(prefix="ocp-run-"))  # that folder may be too long for a socket
    environment = {
        "OCP_KEEP": "",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_RUNTIME_DIR": str(runtime),
        "TMPDIR": str(runtime),
    }
    yield Place(upstream, environment, folder / "cache" / "ollama-cache-proxy", runtime)
    shutil.rmtree(runtime)
