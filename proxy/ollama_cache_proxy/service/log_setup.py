"""Makes the log from the settings, and sends uncaught errors of the event loop to it."""

from __future__ import annotations

import asyncio
import os
from typing import Any, TextIO

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.telemetry.log import Log, Style


def log_of(settings: Settings, stream: TextIO, clock: Clock, *, quiet: bool = False) -> Log:
    """Return the log. `log_requests` auto logs requests on a terminal, as JSON and in development."""
    style = _style(settings, stream)
    wanted = settings.development or style is Style.JSON or stream.isatty()
    requests = wanted if settings.log_requests == "auto" else settings.log_requests == "on"
    return Log(stream, style=style, development=settings.development, requests=requests, quiet=quiet, clock=clock)


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
