"""The log as the settings want it, and what tells it of errors that nobody has caught."""

from __future__ import annotations

import asyncio
import os
from typing import Any, TextIO

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.telemetry.log import Log, Style


def log_of(settings: Settings, stream: TextIO, clock: Clock, *, quiet: bool = False) -> Log:
    """Give the log; it tells of requests where somebody watches, or collects what can be searched."""
    style = _style(settings, stream)
    read = settings.development or style is Style.JSON or stream.isatty()
    requests = read if settings.log_requests == "auto" else settings.log_requests == "on"
    return Log(stream, style=style, development=settings.development, requests=requests, quiet=quiet, clock=clock)


def log_loop_errors(log: Log, clock: Clock) -> None:
    """Log what the running event loop could not hand to anybody: one line a second at most, by its type alone.

    What was handled may be in the error's text, so that is not logged.
    """
    said = float("-inf")

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said
        if clock.monotonic() - said >= 1:
            said = clock.monotonic()
            log.say(f"an error of the proxy's own: {type(context.get('exception')).__name__}", warning=True)

    asyncio.get_running_loop().set_exception_handler(handle)


def _style(settings: Settings, stream: TextIO) -> Style:
    if settings.log != "auto":
        return Style(settings.log)
    colourful = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style.COLOUR if colourful else Style.PLAIN
