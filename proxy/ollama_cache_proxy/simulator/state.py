"""The state of a simulated Ollama that its endpoints share: behaviour, models, and barriers for tests."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace

from ollama_cache_proxy.simulator.registry import ModelRegistry
from ollama_cache_proxy.simulator.releases import NEWEST, RELEASES, Release
from ollama_cache_proxy.simulator.residence import Residence


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the simulated server behaves; delays in seconds.

    `completion_delay` is for a whole completion, or before the first token of a stream without a `token_rate`; with one
    (tokens per second) tokens are evenly spaced. `embedding_delay` is per request, `load_delay` per first use of
    a model. `loopback` says whether the Host rule applies. `release` is a key of RELEASES; `version` is what
    /api/version says, if not that of the release.

    `context_length` is OLLAMA_CONTEXT_LENGTH, in tokens; None for the default of the release.

    With `prompt_cache` the tokens that a prompt shares with the start of the last one of its model take no time, though
    they are counted; with `tells_cached` responses say how many they are, as Ollama does since 0.33.3.
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
    context_length: int | None = None


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
        self.residence = Residence()
        self.gate = Gate()
        self.making = Gate()
        """While it is closed, quantizing a model does not finish."""
        self.random = random.Random(behaviour.seed)
        self._prompts: dict[str, str] = {}

    @property
    def release(self) -> Release:
        """What differs between releases of Ollama."""
        release, length = RELEASES[self.behaviour.release], self.behaviour.context_length
        return release if length is None else replace(release, context_length=length)

    def shared_prompt(self, digest: str, prompt: str) -> str:
        """Return what a prompt shares with the start of the last one of a model; empty without a prompt cache."""
        last = self._prompts.get(digest, "")
        self._prompts[digest] = prompt
        if not self.behaviour.prompt_cache:
            return ""
        return prompt[: next((at for at, (a, b) in enumerate(zip(last, prompt, strict=False)) if a != b), len(last))]
