"""Which models are loaded, with which context, and until when (`/api/ps`).

Of more than LIMIT models the one with the shortest keep_alive is unloaded for the next (`server/sched.go`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ollama_cache_proxy.simulator.goschema import FOREVER
from ollama_cache_proxy.simulator.prompt_slots import PromptSlots
from ollama_cache_proxy.simulator.registry import Model

KEEP_ALIVE = 5 * 60 * 10**9
"""Nanoseconds that a model stays loaded after a request without keep_alive."""

LIMIT = 3
"""Models that are loaded at a time."""


@dataclass(slots=True, kw_only=True)
class Resident:
    """One loaded model; `context` in tokens, `expires` in nanoseconds since the epoch.

    `slots` are its prompt cache, None until it is used: they go with the model.
    """

    model: Model
    context: int
    keep_alive: int
    expires: int
    slots: PromptSlots | None = None


class Residence:
    """The loaded models by weights and parameters: a copy of a model shares the entry of its source."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._loaded: dict[str, Resident] = {}

    def load(self, model: Model, keep_alive: int | None, context: int) -> bool:
        """Start a use of a model; return whether it had to be loaded, or loaded anew for another context.

        Without a keep_alive the last one applies.
        """
        self._expire()
        resident = self._loaded.get(model.digest)
        cold = resident is None or resident.context != context
        if resident is None:
            self._make_room()
            resident = Resident(model=model, context=context, keep_alive=KEEP_ALIVE, expires=0)
            self._loaded[model.digest] = resident
        if cold:
            resident.slots = None
        resident.context = context
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        self._extend(resident)
        return cold

    def find(self, model: Model) -> Resident | None:
        """Return a loaded model, None if it is not."""
        return self._loaded.get(model.digest)

    def used(self, model: Model) -> None:
        """End a use of a model: its keep_alive starts again."""
        if (resident := self._loaded.get(model.digest)) is not None:
            self._extend(resident)
            self._expire()

    def unload(self, model: Model) -> None:
        """Unload a model."""
        self._loaded.pop(model.digest, None)

    def loaded(self) -> list[Resident]:
        """Return the loaded models, the one with the longest time left first."""
        self._expire()
        return sorted(self._loaded.values(), key=lambda resident: -resident.expires)

    def _make_room(self) -> None:
        if len(self._loaded) >= self._limit:
            first = min(self._loaded.values(), key=lambda one: (one.keep_alive, one.model.weights.digest))
            self.unload(first.model)

    @staticmethod
    def _extend(resident: Resident) -> None:
        resident.expires = min(time.time_ns() + resident.keep_alive, FOREVER)

    def _expire(self) -> None:
        now = time.time_ns()
        for digest in [digest for digest, resident in self._loaded.items() if resident.expires < now]:
            del self._loaded[digest]
