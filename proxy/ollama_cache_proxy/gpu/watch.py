"""Readings in their own thread, within a deadline: a driver that hangs never blocks the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from ollama_cache_proxy.gpu.readings import Found, Nothing

DEADLINE: Final = 2.0
"""Seconds to wait for a reading."""


class Watch:
    """Reads the cards on request; calls `say` with a line at first and whenever the state changes.

    There is one reading at a time: concurrent callers wait for the same one, each up to `deadline` seconds. The threads
    are daemons, since one that hangs in the driver must not keep the process from ending.
    """

    def __init__(
        self, read: Callable[[], Found | Nothing], say: Callable[[str], None], deadline: float = DEADLINE
    ) -> None:
        self._read = read
        self._say = say
        self._deadline = deadline
        self._reading: asyncio.Future[Found | Nothing] | None = None
        self._said = ""

    async def read(self) -> Found | Nothing:
        """Return a new reading, or why there is none."""
        if self._reading is None or self._reading.done():
            self._reading = self._start()
        reading = self._reading
        await asyncio.wait({reading}, timeout=self._deadline)
        late = Nothing(why=f"the driver did not answer within {self._deadline:g} s; check whether `nvidia-smi` does")
        found = reading.result() if reading.done() else late
        line = _line(found)
        if line != self._said:
            self._said = line
            self._say(line)
        return found

    def _start(self) -> asyncio.Future[Found | Nothing]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found | Nothing] = loop.create_future()

        def run() -> None:
            tell: Callable[[], None]
            try:
                tell = partial(future.set_result, self._read())
            except Exception as error:  # noqa: BLE001 - the waiting caller raises it
                tell = partial(future.set_exception, error)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell)

        threading.Thread(target=run, name="nvml", daemon=True).start()
        return future


def _line(found: Found | Nothing) -> str:
    match found:
        case Nothing(why=why):
            return f"No GPU metrics yet: {why}"
        case Found(driver=driver, readings=readings):
            names = ", ".join(reading.card.name for reading in readings) or "none, all are lost"
            return f"GPU metrics of {names} (driver {driver})"
