"""The state of a simulated Ollama that its endpoints share: behaviour, models, and barriers for tests."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace

from ollama_cache_proxy.simulator.prompt_slots import PromptSlots
from ollama_cache_proxy.simulator.registry import Model, ModelRegistry
from ollama_cache_proxy.simulator.releases import NEWEST, RELEASES, Release
from ollama_cache_proxy.simulator.residence import LIMIT, Residence


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the simulated server behaves; delays in seconds.

    `completion_delay` is for a whole completion, or before the first token of a stream without a `token_rate`; with one
    (tokens per second) tokens are evenly spaced. `embedding_delay` is per request, `load_delay` per first use of
    a model. `loopback` says whether the Host rule applies. `release` is a key of RELEASES; `version` is what
    /api/version says, if not that of the release.

    `context_length` is OLLAMA_CONTEXT_LENGTH, in tokens; None for the default of the release.

    With `prompt_cache` a loaded model has slots (`prompt_slots`), one for each request that is answered at a time:
    `parallel`, which is OLLAMA_NUM_PARALLEL. Tokens that a prompt shares with the beginning of what its slot has take
    no time, though they are counted; with `tells_cached` responses say how many they are, as Ollama does since 0.33.3.
    `prompt_rate` is how many other tokens of a prompt are worked on in a second, before the first token of the
    completion; with 0 that takes no time of its own. After `prompt_doubling` tokens the next one takes twice as long as
    the first, since each looks back at all before it; with 0 all take the same. `max_loaded` is
    OLLAMA_MAX_LOADED_MODELS.

    With `one_at_a_time` inference requests are worked on one after the other; then each text to embed takes
    `text_delay`, if it is set, and a completion `prompt_delay` before all else.
    """

    seed: int = 0
    completion_delay: float = 2.0
    embedding_delay: float = 0.3
    token_rate: float | None = None
    load_delay: float = 0.0
    release: str = NEWEST
    version: str = ""
    loopback: bool = True
    prompt_cache: bool = False
    tells_cached: bool = False
    prompt_rate: float = 0.0
    prompt_doubling: float = 0.0
    parallel: int = 1
    max_loaded: int = LIMIT
    context_length: int | None = None
    one_at_a_time: bool = False
    text_delay: float | None = None
    prompt_delay: float = 0.0

    def reading(self, tokens: float) -> float:
        """Return how many seconds a prompt of so many tokens takes of which nothing was there."""
        if not self.prompt_rate:
            return 0.0
        looking_back = tokens**2 / (2 * self.prompt_doubling) if self.prompt_doubling else 0.0
        return (tokens + looking_back) / self.prompt_rate


class Gate:
    """A barrier for tests: while it is closed, inference requests arrive but get no response."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def close(self) -> None:
        """Hold responses."""
        self._open.clear()

    def open(self) -> None:
        """Release responses."""
        self._open.set()

    async def passed(self) -> None:
        """Wait until the gate is open."""
        await self._open.wait()


class State:
    """Installed and loaded models, the random source, and barriers."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.models = ModelRegistry(behaviour.release)
        self.residence = Residence(behaviour.max_loaded)
        self.gate = Gate()
        self.making = Gate()
        """While it is closed, quantizing a model does not finish."""
        self.random = random.Random(behaviour.seed)

    @property
    def release(self) -> Release:
        """What differs between releases of Ollama."""
        release, length = RELEASES[self.behaviour.release], self.behaviour.context_length
        return release if length is None else replace(release, context_length=length)

    def prompt_slots(self, model: Model) -> PromptSlots | None:
        """Return the prompt cache of a model, None without one; of one that was unloaded meanwhile it is empty."""
        behaviour = self.behaviour
        if not behaviour.prompt_cache:
            return None
        resident = self.residence.find(model)
        slots = None if resident is None else resident.slots
        if slots is None:
            slots = PromptSlots(rules=self.release.slot_rules, count=behaviour.parallel)
            if resident is not None:
                resident.slots = slots
        return slots
