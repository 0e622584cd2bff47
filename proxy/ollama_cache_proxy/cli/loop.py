"""Run a command's coroutine: on uvloop if it is installed, ended by signals, watched by systemd."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine
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


class HangUp:
    """What SIGHUP means, from the moment on in which this is made: to reload.

    Where it says that the terminal is gone in which the process was started, it means to end, as SIGTERM does, unless
    the process was started to survive that: nohup has SIGHUP ignored.
    """

    def __init__(self) -> None:
        self._came = False
        self._in_terminal = False
        if hasattr(signal, "SIGHUP"):  # not on Windows
            ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            self._in_terminal = _has_terminal() and not ignored
            signal.signal(signal.SIGHUP, self._note)

    def _note(self, *_: object) -> None:
        """Note one that comes while the proxy is starting."""
        self._came = True

    def handle(self, reload: Callable[[], None], end: Callable[[], object]) -> None:
        """Call `reload` or `end` from now on, also for what has come."""

        def hang_up() -> None:
            if self._in_terminal and not _has_terminal():
                end()
            else:
                reload()

        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        if self._came:
            hang_up()


async def until_signalled(hang_up: HangUp | None = None, reload: Callable[[], None] | None = None) -> None:
    """Wait for SIGINT or SIGTERM; a second one ends the process immediately with status 128 + its number.

    With `hang_up` and `reload`, SIGHUP is handled too.
    """
    asked = asyncio.Event()

    def handle(number: int) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C ends the loop with KeyboardInterrupt
            loop.add_signal_handler(number, handle, number)
    if hang_up is not None and reload is not None:
        hang_up.handle(reload, asked.set)
    await asked.wait()


def _has_terminal() -> bool:
    """Return whether the process has a controlling terminal; one that was closed is none (tty_ioctl(4), ENXIO)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ignore_hang_up() -> None:
    """Ignore SIGHUP: the supervisor passes on what it means."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def notify(state: str) -> None:
    """Notify systemd (sd_notify(3)) if NOTIFY_SOCKET is set."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
