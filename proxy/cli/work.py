"""What the commands that ask others have in common: how they end, and what they say when something fails."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from proxy.cli.loop import run
from proxy.settings import SettingsError

FAILED: Final = 1
WRONG: Final = 2
_SIGNALLED: Final = 128


class CommandError(Exception):
    """Ends a command: one line that says what is wrong and what to do, and the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def work(main: Coroutine[Any, Any, int]) -> int:
    """Run a command to its end and give its exit status; a signal ends it with 128 + its number.

    SIGINT and SIGTERM cancel the coroutine, which then cleans up; a second one cancels that too.
    """
    try:
        return run(_cancelled_by_signals(main))
    except (CommandError, SettingsError) as error:
        say(f"ollama-cache-proxy: {error}")
        return error.status if isinstance(error, CommandError) else WRONG
    except BrokenPipeError:  # who reads our output has left: nothing is to be said, also not by Python at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


async def _cancelled_by_signals(main: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(main)
    signals: list[int] = []

    def handle(number: int) -> None:
        signals.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C cancels as well, by asyncio's own hand
            loop.add_signal_handler(number, handle, number)
    try:
        return await task
    except (asyncio.CancelledError, CommandError):
        if not signals:
            raise
        return _SIGNALLED + signals[0]


def say(line: str) -> None:
    """Say a line for people, beside the output."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
