"""Which models Ollama has loaded (`GET /api/ps`): probed in the background while it is read."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.facts import Resident
from ollama_cache_proxy.core.ports import Upstream
from ollama_cache_proxy.core.tasks import Polling, Tasks
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.model_rows import figure, rows
from ollama_cache_proxy.upstream.probes import read_json

_DEADLINE: Final = 1.0
"""Seconds."""
_REQUEST: Final = Request(method="GET", target="/api/ps", fields=((b"User-Agent", b"ollama-cache-proxy"),))


class Ollama(Upstream, Protocol):
    """An upstream that knows whether it is unresponsive."""

    @property
    def is_unresponsive(self) -> bool: ...


class Residents:
    """The loaded models, as of the latest probe."""

    def __init__(self, upstream: Ollama, *, tasks: Tasks) -> None:
        self._upstream = upstream
        self._latest: tuple[Resident, ...] = ()
        self._polling = Polling(self._probe, "probe loaded models", tasks=tasks)
        self.ready = self._polling.ready

    def latest(self) -> tuple[Resident, ...]:
        """Return what the latest probe found, empty if it failed; keep probing for a while."""
        self._polling.want()
        return self._latest

    async def _probe(self) -> None:
        found: tuple[Resident, ...] = ()
        try:
            if not self._upstream.is_unresponsive:
                async with asyncio.timeout(_DEADLINE):
                    found = _residents(await read_json(self._upstream, _REQUEST))
        except (ProxyError, TimeoutError, ValueError):
            pass  # ollama_server.py reports Ollama's health
        self._latest = found


def _residents(document: Any) -> tuple[Resident, ...]:
    return tuple(
        Resident(model=row["name"], size=figure(row, "size"), vram=figure(row, "size_vram")) for row in rows(document)
    )
