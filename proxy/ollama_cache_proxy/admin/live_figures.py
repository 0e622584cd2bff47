"""Figures for `GET /api/cache/system` and the live page: of all proxies that share the store, and of this process.

`hitRate`, `averageSeconds`, savings and counts come from the statistics in the store. The request rate, Ollama's speed,
the history and the last requests are those of this process; models and cards are the present ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from ollama_cache_proxy.admin.own_route import Route
from ollama_cache_proxy.core.facts import Part, Resident
from ollama_cache_proxy.core.store_ports import KeyCount
from ollama_cache_proxy.core.tasks import Polling, Tasks
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.replies import Reply, json
from ollama_cache_proxy.telemetry.recent import SPAN, Recent

_FIRST_READING: Final = 2.5
"""Seconds that the first readings of models, cards and entries may take; later ones are shown next time."""
_EVERY: Final = 2.0
"""Seconds between two counts of entries."""


_PROMPTS: Final = ("sentence", "tokens", "reusedTokens", "lostSeconds")
"""What is shown of prompts; all of it is at `/api/cache/prompts`."""


class Polled(Protocol):
    """Something that is read in the background while it is in use."""

    async def ready(self) -> None: ...


class Residents(Polled, Protocol):
    """The models that Ollama has loaded."""

    def latest(self) -> Sequence[Resident]: ...


class Cards(Polled, Protocol):
    """The graphics cards of this machine."""

    def latest(self) -> list[dict[str, Any]]: ...


class Figures:
    """The figures for `GET /api/cache/system`, and with history and last requests for the live page."""

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        *,
        recent: Recent,
        statistics: Callable[[], Awaitable[dict[str, Any]]],
        prompts: Callable[[], dict[str, Any]],
        count: Callable[[], Awaitable[KeyCount | None]],
        store_name: str,
        residents: Residents,
        cards: Cards,
        tasks: Tasks,
        upstreams: Callable[[], list[dict[str, Any]]] | None = None,
        lanes: Callable[[], list[dict[str, Any]]] | None = None,
    ) -> None:
        self._recent = recent
        self._statistics = statistics
        self._prompts = prompts
        self._count_entries = count
        self._store_name = store_name
        self._residents = residents
        self._cards = cards
        self._upstreams = upstreams
        self._lanes = lanes
        self._keys: int | None = None
        self._counting = Polling(self._update_count, "count entries", tasks=tasks, every=_EVERY)
        self.routes: dict[str, dict[str, Route]] = {"/api/cache/system": {"GET": self._system}}

    async def state(self) -> dict[str, Any]:
        """Return all that the live page shows."""
        return {
            **await self.system(),
            "span": SPAN,
            "history": self._recent.history(),
            "lastRequests": self._recent.requests(),
        }

    async def system(self) -> dict[str, Any]:
        """Return the figures; None stands for what is not known."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_READING):
                await asyncio.gather(self._residents.ready(), self._cards.ready(), self._counting.ready())
        statistics = await self._statistics()
        requests = {name: statistics[name] for name in ("hits", "misses", "bypasses")}
        prompts = self._prompts()
        speed = self._recent.tokens_per_second()
        return {
            "hitRate": statistics["hitRate"],
            "requests": {
                "total": sum(requests.values()),
                **requests,
                "perSecond": round(self._recent.rate(), 2),
            },
            "averageSeconds": statistics["averageSeconds"],
            "savedSeconds": statistics["savedSeconds"],
            "savedTokens": statistics["savedTokens"],
            "audit": statistics["audit"],
            "prompts": {name: prompts[name] for name in _PROMPTS},
            "tokensPerSecond": None if speed is None else round(speed, 1),
            "models": [
                {"name": model_names.short(found.model), "size": found.size, "vram": found.vram}
                for found in self._residents.latest()
            ],
            "gpus": self._cards.latest(),
            "store": {"name": self._store_name, "keys": self._keys, **self._recent.state(Part.STORE)},
            "upstream": self._recent.state(Part.UPSTREAM),
            **({} if self._upstreams is None else {"upstreams": self._upstreams()}),
            **({} if self._lanes is None else {"lanes": self._lanes()}),
        }

    async def _update_count(self) -> None:
        counted = await self._count_entries()
        self._keys = None if counted is None else counted.keys

    async def _system(self, _request: Request, _body: bytes) -> Reply:
        return json(await self.system())
