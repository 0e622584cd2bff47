"""The clock of the machine."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """See ports.Clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
