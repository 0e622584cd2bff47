"""Which models' templates write the date, by `POST /api/show`: asked in the background, once for each digest.

It is asked only where a setting wants to know. What is known is found by one look into a table.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.ports import Clock, Identity, Models, Upstream
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.template_dates import writes_date
from ollama_cache_proxy.upstream.probes import read_json

_DEADLINE: Final = 10.0
"""Seconds for a response."""
_PAUSE: Final = 5.0
"""Seconds after a failure until a model is asked about again."""
_MAX_KNOWN: Final = 1024
"""Models that are remembered, and those that failed."""
_MAX_ASKING: Final = 4
"""Models that are asked about at the same time."""
_MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of a response."""
_FIELDS: Final = ((b"User-Agent", b"ollama-cache-proxy"), (b"Content-Type", b"application/json"))

_Key = tuple[str, str]
"""A model's digest, and the version of Ollama, which may choose another template."""


class ModelTemplates:
    """See ports.Templates."""

    def __init__(self, upstream: Upstream, models: Models, *, clock: Clock, tasks: Tasks) -> None:
        self._upstream = upstream
        self._models = models
        self._clock = clock
        self._tasks = tasks
        self._known: dict[_Key, bool] = {}
        self._failed: dict[_Key, float] = {}
        """Monotonic time of the latest failure, in seconds."""
        self._asking: set[_Key] = set()

    def writes_date(self, identity: Identity) -> bool | None:
        """See ports.Templates. What is not known is asked, and found the next time."""
        key = (identity.digest, identity.version)
        known = self._known.get(key)
        if known is None and self._may_ask(key):
            self._asking.add(key)
            self._tasks.spawn(self._learn(key, identity), "learn about a template")
        return known

    def _may_ask(self, key: _Key) -> bool:
        if key in self._asking or len(self._asking) >= _MAX_ASKING:
            return False
        return self._clock.monotonic() - self._failed.get(key, float("-inf")) >= _PAUSE

    async def _learn(self, key: _Key, identity: Identity) -> None:
        """Ask about a model, and remember the answer if its name still stands for the same digest after that."""
        found: bool | None = None
        try:
            async with asyncio.timeout(_DEADLINE):
                dated = bool(writes_date(await self._shown(identity)))
                found = dated if await self._models.is_current(identity) else None
        except (ProxyError, TimeoutError, ValueError):
            pass  # ollama_server.py reports Ollama's health
        finally:
            self._asking.discard(key)
        if found is None:
            _remember(self._failed, key, self._clock.monotonic())
        else:
            self._failed.pop(key, None)
            _remember(self._known, key, found)

    async def _shown(self, identity: Identity) -> dict[str, Any]:
        """Return the response of `/api/show`. Raises ProxyError, and ValueError for anything but Ollama's response."""
        hosts = None if identity.hosts is None else identity.hosts.again()
        request = Request(method="POST", target="/api/show", fields=_FIELDS, hosts=hosts)
        found = await read_json(self._upstream, request, orjson.dumps({"model": identity.model}), limit=_MAX_BYTES)
        if not isinstance(found, dict) or "details" not in found:
            raise ValueError("not Ollama's response")
        return found


def _remember(table: dict[_Key, Any], key: _Key, value: Any) -> None:
    """Put a value into a table that holds so many of the latest ones."""
    table.pop(key, None)
    table[key] = value
    if len(table) > _MAX_KNOWN:
        del table[next(iter(table))]
