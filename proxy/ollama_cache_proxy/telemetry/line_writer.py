"""Writes lines of the log in a thread of its own: whoever has a line never waits for the one who reads the log.

What is not yet written is bounded; lines beyond that are dropped and counted, and one line says so when there is room
again.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Final

MOST_BYTES: Final = 4 << 20
"""Bytes of lines that wait to be written."""
CLOSES_WITHIN: Final = 1.0
"""Seconds for which the end waits for lines that are not yet written."""
_WRITE_EVERY: Final = 0.02
"""Seconds that lines wait for others: the thread and the event loop take turns at the interpreter, which costs both."""
_SHARED: Final = min(getattr(select, "PIPE_BUF", 512), 4096)
"""Bytes that are written in one call where other processes write, too: so many are not torn apart (POSIX, `write`)."""
_ALONE: Final = 65_536


class LineWriter:
    """A stream of text for lines. `told` makes a line about lost ones, `dropped` is called for each of those.

    `shared` says that other processes write to the same file.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        told: Callable[[int], str],
        dropped: Callable[[], None] = lambda: None,
        shared: bool = True,
    ) -> None:
        self._descriptor = descriptor
        self._told = told
        self._dropped = dropped
        self._at_once = _SHARED if shared else _ALONE
        self._lines: deque[bytes] = deque()
        self._taken = 0  # bytes of lines so far
        self._written = 0  # those of them that are written; the thread's
        self._lost = 0
        self._there = Event()
        self._wakes = False  # whether the thread will be woken
        self._closed = False
        self._thread: Thread | None = None

    @property
    def waiting(self) -> int:
        """Bytes of lines that are not yet written."""
        return self._taken - self._written

    def write(self, text: str) -> None:
        """Take a line, with its end."""
        line = text.encode("utf-8", "surrogateescape")
        if self._closed or self.waiting + len(line) > MOST_BYTES:
            self._lost += 1
            self._dropped()
            return
        if self._lost:
            line = self._told(self._lost).encode() + line
            self._lost = 0
        self._taken += len(line)
        self._lines.append(line)
        if not self._wakes:
            self._wake_soon()

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def close(self, within: float = CLOSES_WITHIN) -> None:
        """Write what is left, for so many seconds at most; later lines are dropped."""
        self._closed = True
        self._there.set()
        atexit.unregister(self.close)
        if self._thread is not None:
            self._thread.join(within)

    def _wake_soon(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.close)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._there.set()
            return
        self._wakes = True
        loop.call_later(_WRITE_EVERY, self._wake)

    def _wake(self) -> None:
        self._wakes = False
        self._there.set()

    def _run(self) -> None:
        while True:
            self._there.wait()
            self._there.clear()
            while self._lines:
                part = self._next()
                self._put(part)
                self._written += len(part)
            if self._closed and not self._lines:
                return

    def _next(self) -> bytes:
        """Return whole lines, as many as are written in one call, and no longer in the list; there is one at least."""
        part = [self._lines.popleft()]
        size = len(part[0])
        while self._lines and size + len(self._lines[0]) <= self._at_once:
            size += len(self._lines[0])
            part.append(self._lines.popleft())
        return b"".join(part)

    def _put(self, data: bytes) -> None:
        """Write all of this; a log that is closed must not stop a response."""
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
