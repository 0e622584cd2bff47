"""How a job runs and ends: one that has to clean up is cancelled, not killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from ollama_cache_proxy.cli.ending import INTERRUPTED, TERMINATED, Failed
from ollama_cache_proxy.cli.loop import run
from ollama_cache_proxy.cli.screen import printable


def work(job: Coroutine[Any, Any, int]) -> int:
    """Run a job to its end and give its exit status. Raises Failed.

    SIGINT and SIGTERM cancel it, and it cleans up; a second one cancels that too, where it waits for something.
    """
    return run(_cancelled_by_signals(job))


async def _cancelled_by_signals(job: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(job)
    statuses: list[int] = []

    def cancel(status: int) -> None:
        statuses.append(status)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number, status in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):
        with suppress(NotImplementedError):  # Windows: Ctrl-C cancels as well, by asyncio's own hand
            loop.add_signal_handler(number, cancel, status)
    try:
        return await task
    except (asyncio.CancelledError, Failed):
        if not statuses:
            raise
        return statuses[0]


def say(line: str) -> None:
    """Say a line for people, beside the output."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()
