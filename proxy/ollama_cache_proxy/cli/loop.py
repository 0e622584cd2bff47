"""Run a command's coroutine: on uvloop if it is installed, ended by signals, watched by systemd."""

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
"""New objects after which the garbage collector runs."""

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop if it is installed, and return its result."""
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(main)
    return uvloop.run(main)


def run_ending(main: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine. SIGTERM cancels it as Ctrl-C does; after its cleanup raise Failed."""
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
    """Exclude all present objects from garbage collection, and collect new ones less often: few are in cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


async def until_signalled() -> None:
    """Wait for SIGINT or SIGTERM; a second one ends the process immediately with status 128 + its number."""
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
    """Notify systemd (sd_notify(3)) if NOTIFY_SOCKET is set."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
