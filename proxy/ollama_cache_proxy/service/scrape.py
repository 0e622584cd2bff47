"""The metrics of this process, for its supervisor, and those of all processes, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from ollama_cache_proxy.core.facts import Levels
from ollama_cache_proxy.downstream.listener import Listener
from ollama_cache_proxy.policy.sums import Snapshot
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.in_service import InService
from ollama_cache_proxy.service.neighbours import Opened


class Scrape:
    """Collects metrics for a scrape; `listener` returns what is made later."""

    def __init__(
        self, context: Context, opened: Opened, in_service: InService, *, listener: Callable[[], Listener]
    ) -> None:
        self._metrics = context.metrics
        self._siblings = context.siblings
        self._opened = opened
        self._in_service = in_service
        self._listener = listener

    def snapshot(self) -> Snapshot:
        """Return the metrics of this process, without asking Redis or Ollama."""
        self._update_levels(asking=False)
        return self._metrics.snapshot()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all processes and their Content-Type; raise TimeoutError or ConnectionError."""
        self._update_levels(asking=True)
        together = None if self._siblings is None else await self._siblings.together(self._metrics.snapshot())
        return self._metrics.render(accept, together)

    def _update_levels(self, *, asking: bool) -> None:
        """Count deferred hits and set the gauges; `asking`: also probe Redis and Ollama, which only a scrape does."""
        self._in_service.report()
        gauges, listener = self._opened.chosen.gauges, self._listener()
        self._metrics.level(
            Levels(
                serving=self._in_service.serving,
                asking=self._opened.upstream.asking,
                connections=listener.connections,
                idle=listener.idle,
                places=listener.places,
                tiers=[tier for part in gauges for tier in part.tiers(asking=asking)],
                broken={name: is_open for part in gauges for name, is_open in part.breakers().items()},
                residents=self._opened.residents.latest() if asking else (),
                lanes=() if (lanes := self._opened.neighbours.lanes) is None else lanes.levels(),
                upstreams=() if self._opened.fleet is None else self._opened.fleet.levels(),
            )
        )
