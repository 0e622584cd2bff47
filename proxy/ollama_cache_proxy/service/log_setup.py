"""Makes the log from the settings, and sends uncaught errors of the event loop to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, TextIO

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.telemetry.line_writer import LineWriter
from ollama_cache_proxy.telemetry.log import Log, Style


def log_of(
    settings: Settings,
    stream: TextIO,
    clock: Clock,
    *,
    quiet: bool = False,
    dropped: Callable[[], None] = lambda: None,
) -> Log:
    """Return the log. `log_requests` auto logs requests on a terminal, as JSON and in development.

    Where `stream` is a file, lines are written in a thread of their own; `dropped` is called for each that is lost.
    """
    style = _style(settings, stream)
    wanted = settings.development or style is Style.JSON or stream.isatty()
    requests = wanted if settings.log_requests == "auto" else settings.log_requests == "on"
    log: Log
    writer = None
    if (descriptor := _descriptor(stream)) is not None:
        writer = LineWriter(
            descriptor,
            told=lambda lost: f"{log.note(_LOST.format(lost))}\n",
            dropped=dropped,
            shared=settings.workers > 1,
        )
    log = Log(
        writer or stream,
        style=style,
        development=settings.development,
        requests=requests,
        quiet=quiet,
        clock=clock,
        close=None if writer is None else writer.close,
    )
    return log


_LOST: Final = "{} lines of the log were dropped: nobody read it"


def _descriptor(stream: TextIO) -> int | None:
    """Return the file of a stream; None where it has none."""
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError):
        return None


def log_loop_errors(log: Log, clock: Clock) -> None:
    """Log uncaught errors of the running event loop by their type, at most one line a second.

    The text of an error is not logged, because it may contain parts of a request. A connection that failed after it was
    given up is no error: uvloop tells of one whose TLS handshake fails in the moment of its deadline.
    """
    logged_at = float("-inf")

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal logged_at
        if isinstance(context.get("exception"), OSError) and _is_bare_future(context.get("future")):
            return
        if clock.monotonic() - logged_at >= 1:
            logged_at = clock.monotonic()
            log.say(f"Internal error: {type(context.get('exception')).__name__}", warning=True)

    asyncio.get_running_loop().set_exception_handler(handle)


def _is_bare_future(future: object) -> bool:
    return isinstance(future, asyncio.Future) and not isinstance(future, asyncio.Task)


def _style(settings: Settings, stream: TextIO) -> Style:
    if settings.log != "auto":
        return Style(settings.log)
    colourful = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style.COLOUR if colourful else Style.PLAIN
