"""Run jobs: signals cancel them, so that they can clean up."""

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
    """Run a job to its end, and return its exit status. Raise Failed.

    SIGINT and SIGTERM cancel it, and it cleans up; a second signal cancels the cleanup too.
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
        with suppress(NotImplementedError):  # Windows: asyncio itself cancels on Ctrl-C
            loop.add_signal_handler(number, cancel, status)
    try:
        return await task
    except (asyncio.CancelledError, Failed):
        if not statuses:
            raise
        return statuses[0]


def say(line: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()
