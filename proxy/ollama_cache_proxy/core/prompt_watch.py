"""What of each prompt Ollama had worked on before. A prompt is looked at when its response has been sent on.

By then it is known what Ollama says of it, and nobody waits: neither the request nor the response is held back. What is
remembered are fingerprints (policy/prompts). Looking takes a small share of the time at most: where so many short
prompts come that it would take more, some are left out, and what is remembered begins anew.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from ollama_cache_proxy.core.facts import Observer, PromptRead
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy import model_names, outline
from ollama_cache_proxy.policy.callers import agent_of
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.prompts.prompt_losses import PromptLosses
from ollama_cache_proxy.policy.prompts.prompt_memory import ModelMemory
from ollama_cache_proxy.policy.prompts.prompt_parts import has_prompt, parts_of
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import Steps
from ollama_cache_proxy.policy.time_budget import TimeBudget

_MOST_MODELS: Final = 16
"""Models, at each of several Ollamas, of which prompts are remembered; the one that was asked longest ago goes."""
_AT_ONCE: Final = 1 << 18
"""Bytes of a body that are read in one go: orjson takes 16 ms at most for them, whatever is in them."""
_MOST: Final = 1 << 20
"""Bytes of a body that is looked at, some hundred thousand tokens: as one step, a larger one would hold up others."""
_SHARE: Final = 0.01
"""Of the time, what looking may take."""
_AT_MOST: Final = 0.1
"""Seconds that it may take at once: a hundred turns of an agent, or a thousand short prompts."""
_MOST_AGENTS: Final = 32
_NOTHING: Final = Usage()


@record
class Answered:
    """A request that Ollama has answered with 200."""

    endpoint: Endpoint
    model: str
    """As the request names it."""
    host: str
    """Which of several Ollamas it was; empty where there is one."""
    fields: Fields
    category: str
    body: bytes
    usage: Usage | None
    begun: float
    """Monotonic time of the request, in seconds."""
    first_output: float | None = None
    """Seconds to the first output, where they are known."""


class PromptWatch:
    """Looks at prompts; one instance a process, which outlives a reload. No method waits, or raises.

    `share` is that of the time which looking may take.
    """

    def __init__(self, *, clock: Clock, observe: Observer, tasks: Tasks, turns: Turns, share: float = _SHARE) -> None:
        self._clock = clock
        self._observe = observe
        self._tasks = tasks
        self._turns = turns
        self._models: dict[tuple[str, str], ModelMemory] = {}
        self._latest: dict[str, str] = {}
        """By Ollama: the model that was asked last."""
        self._agents = Labels(_MOST_AGENTS)
        self._budget = TimeBudget(share=share, most=_AT_MOST)
        self._losses = PromptLosses(clock.now())

    def report(self) -> dict[str, Any]:
        """Return what became of prompts since the start, as values for JSON."""
        return self._losses.report(self._clock.now())

    def wants(self, endpoint: Endpoint, model: str, host: str, body: bytes) -> bool:
        """Return whether to describe a request that Ollama has answered with 200 (`answered`), and note what it is not.

        It is asked first, since most of what is answered fast has no prompt, or comes when the time is used up.
        """
        if not has_prompt(endpoint):
            self._latest[host] = model_names.canonical(model) or ""
            return False
        if len(body) > _MOST or not self._budget.allows(self._clock.monotonic()):
            self._forget(host)
            return False
        return True

    def answered(self, answered: Answered, slots: int) -> None:
        """Take in a request that is wanted, and whose response has ended. `slots` is how many prompts Ollama holds."""
        now = self._clock.monotonic()
        try:
            if len(answered.body) <= _AT_ONCE:
                self._read(answered, slots, now)
            else:
                steps = self._turns.run(self._in_steps(answered, slots, now))
                self._tasks.spawn(steps, "look at a large prompt", endless=True)
        except Exception as error:  # noqa: BLE001 - it reads requests that nothing else here reads
            told = {"message": "a prompt was not looked at", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)

    def _in_steps(self, answered: Answered, slots: int, now: float) -> Steps[None]:
        """Take in a large one, unless reading it would take too long."""
        if (yield from outline.is_read_soon(answered.body)):
            yield
            self._read(answered, slots, now)

    def _read(self, answered: Answered, slots: int, now: float) -> None:
        """Take one in, and count the time that this takes."""
        begun = self._clock.monotonic()
        try:
            self._look(answered, slots, now)
        finally:
            self._budget.took(self._clock.monotonic() - begun)

    def _forget(self, host: str) -> None:
        """Forget what was remembered of an Ollama: it holds a prompt now that nobody has looked at."""
        for name in [name for name in self._models if name[0] == host]:
            del self._models[name]

    def _look(self, answered: Answered, slots: int, now: float) -> None:
        try:
            document = orjson.loads(answered.body)
        except orjson.JSONDecodeError:
            return
        prompt = parts_of(answered.endpoint, document)
        if prompt is None:
            return
        name = prompt.document.get("model")
        model = (model_names.canonical(name) if isinstance(name, str) else None) or ""
        host, usage, begun = answered.host, answered.usage or _NOTHING, answered.begun
        memory = self._memory(host, model)
        waited = answered.first_output
        rival = self._latest.get(host, model) != model
        self._latest[host] = model
        reading = memory.read(prompt, usage, begun=begun, now=now, waited=waited, slots=slots, rival=rival)
        client = self._agents.of(agent_of(answered.fields)) if reading.losses else ""
        operation, category = answered.endpoint.operation, answered.category
        self._losses.add(
            reading,
            usage,
            client=client,
            category=category,
            model=model_names.short(model),
            operation=operation,
            took=now - begun,
        )
        self._observe(PromptRead(operation=operation, model=model, reading=reading))

    def _memory(self, host: str, model: str) -> ModelMemory:
        """Return what is remembered of a model at one Ollama; the latest one is at the end."""
        name = (host, model)
        memory = self._models.pop(name, None)
        if memory is None:
            if len(self._models) >= _MOST_MODELS:
                del self._models[next(iter(self._models))]
            memory = ModelMemory()
        self._models[name] = memory
        return memory
