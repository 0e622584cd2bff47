"""Ollama's prompt cache: the slots of a loaded model, each with the tokens that it worked on last.

A request takes a free slot, and only the tokens after those that it shares with the beginning of what is there are
worked on. Which slot it takes, and what becomes of what was there, is a matter of the release:

- 0.24, `runner/llamarunner/cache.go` and `runner/ollamarunner/cache.go`: the slot that shares the most
- 0.33, llama.cpp's `tools/server` (`get_available_slot`, `server_prompt_cache`): the slot that shares the most if that
  is more than a tenth of the prompt, else the one that was not used for the longest time; a prompt most of which would
  be lost is kept in main memory (`--cache-ram`, 8 GiB), and comes back for a prompt that shares more with it
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Tokens = Sequence[str]

_LOSES_MOST = 0.5
"""A slot that would keep less of what it has than this share is saved before."""
_COMES_BACK = 0.25
"""A saved prompt comes back only if this share of it is of use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRules:
    """How a release chooses a slot."""

    least_shared: float
    """The share of a prompt over which its slot is the one that shares the most; 0 where it always is."""
    kept_tokens: int
    """How many tokens of prompts that lost their slot are kept."""


LONGEST = SlotRules(least_shared=0.0, kept_tokens=0)
SIMILAR = SlotRules(least_shared=0.1, kept_tokens=65_536)
"""8 GiB are that many tokens at 128 KiB each, as of a model of 8 billion weights."""


def shared(one: Tokens, other: Tokens) -> int:
    """Return how many tokens two sequences share at their beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def shifted(tokens: Tokens, context: int, keep: int) -> Tokens:
    """Return what is left of tokens that outgrew a context: half of what follows the first `keep` goes at a time.

    So does llama.cpp while it generates (`ShiftCacheSlot` in 0.24, `--context-shift` in 0.33).
    """
    while len(tokens) > context:
        cut = max((context - keep) // 2, 1)
        tokens = (*tokens[:keep], *tokens[keep + cut :])
    return tokens


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot:
    tokens: Tokens = ()
    used: int = 0
    """The number of the last request."""
    busy: bool = False


@dataclass(slots=True, kw_only=True)
class Held:
    """A slot while a request has it: how much of the prompt was there, and what to leave behind."""

    waited: int
    """Nanoseconds."""
    reused: int
    left: Tokens


@dataclass(slots=True, kw_only=True)
class PromptSlots:
    """The slots of one loaded model, for `count` requests at a time; others wait for their turn."""

    rules: SlotRules
    count: int
    _slots: list[_Slot] = field(init=False)
    _free: asyncio.Semaphore = field(init=False)
    _kept: list[Tokens] = field(init=False, default_factory=list)
    _requests: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Make empty slots."""
        self._slots = [_Slot() for _ in range(self.count)]
        self._free = asyncio.Semaphore(self.count)

    @asynccontextmanager
    async def held(self, prompt: Tokens) -> AsyncIterator[Held]:
        """Hold a slot for a prompt; its last token is always worked on."""
        is_free, arrived = not self._free.locked(), time.perf_counter_ns()
        async with self._free:
            waited = 0 if is_free else time.perf_counter_ns() - arrived
            slot = self._choose(prompt)
            slot.busy = True
            reused = min(shared(slot.tokens, prompt), len(prompt) - 1)
            held = Held(waited=waited, reused=reused, left=prompt[:reused])
            try:
                yield held
            finally:
                self._requests += 1
                slot.tokens, slot.used, slot.busy = held.left, self._requests, False

    def _choose(self, prompt: Tokens) -> _Slot:
        free = [slot for slot in self._slots if not slot.busy]
        best = max(free, key=lambda slot: shared(slot.tokens, prompt))
        common = shared(best.tokens, prompt)
        least = self.rules.least_shared
        if not least:
            return best
        if common <= least * len(prompt):
            best = min(free, key=lambda slot: slot.used)
        elif common >= _LOSES_MOST * len(best.tokens):
            return best
        self._swap(best, prompt)
        return best

    def _swap(self, slot: _Slot, prompt: Tokens) -> None:
        """Keep what is in a slot, and bring back what was kept if more of it is of use."""
        self._keep(slot.tokens)
        common = shared(slot.tokens, prompt)
        share = common / len(slot.tokens) if slot.tokens else 0.0
        found: Tokens | None = None
        for kept in self._kept:
            useful = shared(kept, prompt)
            if useful > common and useful / len(kept) > max(share, _COMES_BACK):
                found, common, share = kept, useful, useful / len(kept)
        if found is not None:
            self._kept.remove(found)
            slot.tokens = found

    def _keep(self, tokens: Tokens) -> None:
        """Keep a prompt; those that are the beginning of another one go, and the oldest when all are too many."""
        if not tokens or any(shared(kept, tokens) == len(tokens) for kept in self._kept):
            return
        self._kept = [kept for kept in self._kept if shared(kept, tokens) < len(kept)] + [tokens]
        while len(self._kept) > 1 and sum(map(len, self._kept)) > self.rules.kept_tokens:
            del self._kept[0]
