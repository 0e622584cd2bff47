"""A fast path that is watched, or closed."""

from __future__ import annotations

import asyncio

from tests.support.servers import Proxy


class Watch:
    """Counts the requests on the fast path, and the heads that it was asked about; `off` closes it."""

    def __init__(self, proxy: Proxy, *, off: bool = False) -> None:
        self.proxy = proxy
        self.taken = 0
        self.heads = 0
        self.real = proxy.running.exchanges.fast_path
        self._off = off
        proxy.running.listener.fast_path = self

    def answer(self, raw: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        found = None if self._off else self.real.answer(raw)
        if isinstance(found, asyncio.Future):
            found.add_done_callback(self.looked_up)
        else:
            self.taken += found is not None
        return found

    def looked_up(self, found: asyncio.Future[bytes | None]) -> None:
        self.taken += not found.cancelled() and found.result() is not None

    def first(self, data: bytes) -> tuple[int, bool]:
        return (0, False) if self._off else self.real.first(data)

    def knows_head(self, data: bytes) -> bool:
        self.heads += 1
        return not self._off and self.real.knows_head(data)
