"""One worker of `serve --workers`, started as `python -m ollama_cache_proxy.cli.worker CHANNEL HANDOFF LISTENER`.

The arguments are file descriptors of its sockets. It ends on a signal, on a message of its supervisor, and when its
supervisor has ended.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

from ollama_cache_proxy.cli.loop import ignore_hang_up, tune_garbage_collector, until_signalled
from ollama_cache_proxy.cli.loop import run as run_loop
from ollama_cache_proxy.service.settings import SettingsError
from ollama_cache_proxy.service.workers import working


async def _work(*descriptors: int) -> None:
    with suppress(SettingsError, ConnectionError):  # the supervisor has the error, or has ended
        async with working(*(socket.socket(fileno=descriptor) for descriptor in descriptors)) as siblings:
            tune_garbage_collector()
            ends = [asyncio.ensure_future(end) for end in (until_signalled(), siblings.drain_requested.wait())]
            _, left = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in left:
                end.cancel()


if __name__ == "__main__":
    ignore_hang_up()
    channel, handoff, listener = map(int, sys.argv[1:])
    run_loop(_work(channel, handoff, listener))
