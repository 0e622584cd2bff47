"""A server program as a child that ends with the proxy, however that ends.

The shell between them waits for a pipe to close that only the proxy holds open.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_OURS: Final = ("OCP_", "REDIS_URL", "OLLAMA_HOST")
"""Prefixes of environment variables that are for the proxy alone: some contain passwords."""
_LOOK_EVERY: Final = 0.03
"""Seconds."""

_GUARD: Final = """
trap '' HUP
umask 077
exec 3<&0 4>&1 >/dev/null
"$@" </dev/null >/dev/null 2>&1 3<&- &
server=$!
exec 4>&-
{ cat <&3 >/dev/null; kill "$server"; } 2>/dev/null &
watch=$!
wait "$server"
status=$?
kill "$watch" 2>/dev/null
exit "$status"
"""
"""Only the server inherits what the shell has as its standard output, a lock or nothing; with it, its children do."""


class ServerProcess:
    """A server that was started; see `start`."""

    def __init__(self, shell: asyncio.subprocess.Process) -> None:
        self._shell = shell

    @classmethod
    async def start(cls, command: Sequence[str], *, folder: Path, lock: int | None = None) -> ServerProcess:
        """Start a server in a folder; `lock` is a descriptor that it holds open. Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", _GUARD, "ollama-cache-proxy-store", *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL if lock is None else lock,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                cwd=folder,
                env={name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)},
            )
        )

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._shell.returncode is not None

    async def wait(self) -> int:
        """Wait until the server has ended; return its status, as a shell tells it: 128 and more for a signal."""
        return await self._shell.wait()

    async def stop(self, within: float) -> None:
        """End the server; after `within` seconds it is killed."""
        if self._shell.stdin is not None:
            self._shell.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._shell.wait(), within)
        if not self.ended:
            with suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)
            await self._shell.wait()


async def says(binary: str, *arguments: str) -> str:
    """Return what a program writes; empty where it cannot be run, or takes more than a second."""
    try:
        process = await asyncio.create_subprocess_exec(
            binary,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        written, _ = await asyncio.wait_for(process.communicate(), 1.0)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return ""
    return written.decode("utf-8", "replace")


async def until_accepts(socket: Path) -> None:
    """Wait until a Unix socket takes connections."""
    while not await accepts(socket):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_EVERY)  # nothing signals that another process listens


async def accepts(socket: Path) -> bool:
    """Return whether a Unix socket takes connections."""
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
