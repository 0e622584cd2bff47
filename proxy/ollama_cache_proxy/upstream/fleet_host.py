"""One of several Ollamas: what was seen of it, what is in flight there, and whether it takes requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ollama_cache_proxy.core.errors import ProxyError, unreachable
from ollama_cache_proxy.core.facts import Event, Health, Observer
from ollama_cache_proxy.core.ports import Upstream
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.host_health import HostHealth
from ollama_cache_proxy.policy.placement import Host
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.upstream.ollama_server import Ollama
from ollama_cache_proxy.upstream.probes import Probes

_SILENT: Final = "it does not answer"


@record
class About:
    """What the settings say of a host."""

    name: str
    weight: float = 1.0
    models: frozenset[str] = frozenset()
    """Canonical names of the models that it may serve; empty: all."""
    labels: tuple[str, ...] = ()
    epoch: str | None = None


class FleetHost:
    """A host. What is not known of it is None."""

    def __init__(self, about: About, observe: Observer) -> None:
        self._observe = observe
        self._refuses = False
        self.about = about
        self.name = about.name
        self.ollama: Ollama
        self.upstream: Upstream
        """The same, behind its lanes where there are any."""
        self.probes: Probes
        self.health = HostHealth()
        self.draining = False
        self.reason = ""
        """Why it failed last; empty while it is well."""
        self.version: str | None = None
        self.digests: dict[str, str] | None = None
        """By canonical name, what it has."""
        self.loaded: frozenset[str] = frozenset()
        """Canonical names of the models that it has loaded."""
        self.running: Counter[str] = Counter()
        """Requests in flight, by canonical name of their model."""
        self.served: set[str] = set()
        """Those of requests since the latest look, which have had their models loaded."""
        self.answered = self.failed = 0
        """Requests so far, by whether a response began."""
        self.look = asyncio.Event()
        """Set when it is to be looked at now."""
        self.tags_wanted = True
        self._waiting: set[asyncio.Timeout] = set()

    def observe(self, event: Event) -> None:
        """Take in what the connection to it reports; the fleet reports which hosts take requests.

        That it refuses the proxy's own requests, or no longer does, is told as with one Ollama.
        """
        if isinstance(event, Health):
            self.reason = "" if event.well else event.reason
            if event.refused or self._refuses:
                self._refuses = event.refused
                self._observe(event)

    @property
    def in_flight(self) -> int:
        """How many requests are in flight."""
        return self.running.total()

    @property
    def takes_requests(self) -> bool:
        """Whether requests are sent to it while there are others."""
        return not (self.health.ejected or self.draining)

    @property
    def state(self) -> str:
        """What it is in one word."""
        return "ejected" if self.health.ejected else "draining" if self.draining else "ok"

    def serves(self, model: str) -> bool:
        """Return whether the settings let it serve a model, by its canonical name."""
        return not self.about.models or model in self.about.models

    def seen_for(self, model: str) -> Host:
        """Return it as placement sees it, for a request for this model."""
        return Host(
            name=self.name,
            weight=self.about.weight,
            serves=not model or self.serves(model),
            present=not model or self.digests is None or model in self.digests,
            loaded=model in self.loaded or model in self.running or model in self.served,
            in_flight=self.in_flight,
            models=len(self.loaded),
            well=not self.health.ejected,
            draining=self.draining,
        )

    def begin(self, model: str) -> None:
        """Count a request for a model, by its canonical name."""
        self.running[model] += 1
        self.served.add(model)

    def end(self, model: str) -> None:
        """Count the end of such a request."""
        self.running[model] -= 1
        if not self.running[model]:
            del self.running[model]

    @contextmanager
    def waited_for(self, *, movable: bool) -> Iterator[asyncio.Timeout]:
        """Give a timeout that ends the block when this host hangs, if the request may be sent to another one."""
        scope = asyncio.timeout(None)
        if movable:
            self._waiting.add(scope)
        try:
            yield scope
        finally:
            self._waiting.discard(scope)

    def described(self) -> dict[str, Any]:
        """Return how it is, and what it has, as JSON values."""
        told = {"name": self.name, "state": self.state, "weight": self.about.weight, "labels": [*self.about.labels]}
        return {
            **told,
            **({"reason": self.why()} if self.health.ejected else {}),
            "version": self.version,
            "inFlight": self.in_flight,
            "answered": self.answered,
            "failed": self.failed,
            "models": [
                {"name": model_names.short(name), "digest": digest, "loaded": name in self.loaded}
                for name, digest in (self.digests or {}).items()
            ],
        }

    def lose(self) -> None:
        """End the waiting of all requests that may be sent to another host."""
        now = asyncio.get_running_loop().time()
        for scope in self._waiting:
            scope.reschedule(now)
        self._waiting.clear()

    def lost(self) -> ProxyError:
        """Return the error for a request whose waiting has been ended."""
        return unreachable(f"Ollama at {self.ollama.name} does not answer", unanswered=True)

    def why(self) -> str:
        """Return why it is ejected."""
        return self.reason or _SILENT
