"""Writes lines of the log in a thread of its own: whoever has a line never waits for the one who reads the log.

What is not yet written is bounded; lines beyond that are dropped and counted, and one line says so when there is room
again.
"""

from __future__ import annotations

import atexit
import os
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Condition, Thread
from typing import Final

MOST_BYTES: Final = 4 << 20
"""Bytes of lines that wait to be written."""
CLOSES_WITHIN: Final = 1.0
"""Seconds for which the end waits for lines that are not yet written."""
_AT_ONCE: Final = min(getattr(select, "PIPE_BUF", 512), 4096)
"""Bytes that are written in one call: so many are not torn apart by those of other processes (POSIX, `write`)."""


class LineWriter:
    """A stream of text for lines. `told` makes a line about lost ones, `dropped` is called for each of those."""

    def __init__(
        self, descriptor: int, *, told: Callable[[int], str], dropped: Callable[[], None] = lambda: None
    ) -> None:
        self._descriptor = descriptor
        self._told = told
        self._dropped = dropped
        self._changed = Condition()
        self._lines: list[bytes] = []
        self._bytes = 0  # of lines that are not yet written, those on their way included
        self._lost = 0
        self._waits = False  # whether the thread waits for lines
        self._closed = False
        self._thread: Thread | None = None

    def write(self, text: str) -> None:
        """Take a line, with its end. Never waits for longer than the thread needs to take what is there."""
        line = text.encode("utf-8", "surrogateescape")
        if self._bytes + len(line) > MOST_BYTES:
            self._lost += 1
            self._dropped()
            return
        if self._lost:
            line = self._told(self._lost).encode() + line
            self._lost = 0
        with self._changed:
            if self._closed:
                return
            self._lines.append(line)
            self._bytes += len(line)
            if self._waits:
                self._waits = False
                self._changed.notify()
        if self._thread is None:
            self._start()

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def close(self, within: float = CLOSES_WITHIN) -> None:
        """Write what is left, for so many seconds at most; later lines are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        atexit.unregister(self.close)
        if self._thread is not None:
            self._thread.join(within)

    def _start(self) -> None:
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    if self._closed:
                        return
                    self._waits = True
                    self._changed.wait()
                self._waits = False
                lines, self._lines = self._lines, []
            for part in _parts(lines):
                self._put(part)
                with self._changed:
                    self._bytes -= len(part)

    def _put(self, data: bytes) -> None:
        """Write all of this; a log that is closed must not stop a response."""
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]


def _parts(lines: list[bytes]) -> Iterator[bytes]:
    """Yield whole lines, as many at a time as are written in one call."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) > _AT_ONCE:
            yield b"".join(part)
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield b"".join(part)
