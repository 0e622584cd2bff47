"""Commands of the project as a person types them: on a terminal of so many columns, or into a pipe."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support import canary

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give this environment without what would change how output looks."""
    names = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "TERM": "xterm-256color", **(added or {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a command ended that wrote into pipes."""

    status: int
    out: str
    err: str


async def piped(*arguments: str, given: bytes = b"", added: Mapping[str, str] | None = None) -> Done:
    """Run `ollama-cache-proxy …` with pipes to its end; nothing that it says may hold a secret."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", *arguments),
        env=environment(added),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(given), 30)
    assert process.returncode is not None
    canary.check(out.decode() + err.decode(), "the output")
    return Done(status=process.returncode, out=out.decode(), err=err.decode())


class Terminal:
    """A command on a terminal of its own; `text` is all that it has written so far, without escapes."""

    def __init__(self, process: asyncio.subprocess.Process, master: int, slave: int) -> None:
        self.process = process
        self.raw = ""
        self._master, self._slave = master, slave
        self._before = termios.tcgetattr(slave)
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        self.raw += os.read(self._master, 65_536).decode("utf-8", "replace").replace("\r\n", "\n")
        self._changed.set()

    @property
    def text(self) -> str:
        return _ESCAPES.sub("", self.raw)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def shows(self, wanted: str, times: int = 1) -> None:
        """Wait until the text has been shown."""
        async with asyncio.timeout(20):
            while self.text.count(wanted) < times:
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> int:
        """Wait for the end; the terminal must be as it was, and the cursor must show."""
        status = await asyncio.wait_for(self.process.wait(), 20)
        fcntl.fcntl(self._master, fcntl.F_SETFL, os.O_NONBLOCK)
        while True:
            try:
                self._read()
            except BlockingIOError:
                break
        assert termios.tcgetattr(self._slave) == self._before
        assert self.raw.rfind("\x1b[?25h") >= self.raw.rfind("\x1b[?25l"), "the cursor is still hidden"
        canary.check(self.text, "the terminal")
        return status

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)


@asynccontextmanager
async def terminal(
    *arguments: str, columns: int = 100, added: Mapping[str, str] | None = None
) -> AsyncIterator[Terminal]:
    """Run `ollama-cache-proxy …` on a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def own() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", *arguments),
        env=environment(added),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=own,
    )
    running = Terminal(process, master, slave)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        running.close()


def widest(text: str) -> int:
    """Give the columns of the longest line."""
    return max(map(len, text.splitlines()))
