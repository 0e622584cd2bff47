"""Running a coroutine as a command does: on uvloop where there is one, ended by signals, watched by systemd."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from ollama_cache_proxy.cli.ending import TERMINATED, Failed

_GC_THRESHOLD: Final = 5_000
"""Objects more than there were, before the collector looks."""

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(main)
    return uvloop.run(main)


def run_ending(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM ends it as Ctrl-C does, so that a terminal is left as it was. Raises Failed then."""
    return run(_ending(main))


async def _ending(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(main)
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await task
    except asyncio.CancelledError:
        if terminated:
            raise Failed("ended by SIGTERM", status=TERMINATED) from None
        raise


def tune_garbage_collector() -> None:
    """Let the garbage collector never look at what is there now, and less often at what comes: most goes by itself."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


async def until_signalled() -> None:
    """Wait for SIGINT or SIGTERM; a second one ends the process at once, with the status 128 + its number."""
    asked = asyncio.Event()

    def handle(number: int) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C ends the loop with KeyboardInterrupt
            loop.add_signal_handler(number, handle, number)
    await asked.wait()


def notify(state: str) -> None:
    """Tell systemd, where it asks to be told (sd_notify(3)); without effect elsewhere."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
