"""`python -m proxy.cli.worker CHANNEL HANDOFF LISTENER`: one process of `serve --workers`, which alone starts it.

The arguments are file descriptors of its sockets. It ends when it is told to, by its supervisor or by a signal, and
when its supervisor is gone.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

from proxy.cli.loop import run as run_loop
from proxy.cli.loop import settle, until_signalled
from proxy.settings import SettingsError
from proxy.workers import working


async def _work(*descriptors: int) -> None:
    with suppress(SettingsError, ConnectionError):  # the supervisor has been told, or has gone
        async with working(*(socket.socket(fileno=descriptor) for descriptor in descriptors)) as siblings:
            settle()
            ends = [asyncio.ensure_future(end) for end in (until_signalled(), siblings.told_to_end.wait())]
            _, left = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in left:
                end.cancel()


if __name__ == "__main__":
    channel, handoff, listener = map(int, sys.argv[1:])
    run_loop(_work(channel, handoff, listener))
