"""What prompts cost that Ollama reads again: by client, model and place, with what to do. It is what `doctor` says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.prompts.prompt_memory import Loss, LossCause, Reading
from ollama_cache_proxy.policy.prompts.prompt_places import Place, Where
from ollama_cache_proxy.policy.prompts.prompt_shapes import Shape

_MOST: Final = 64
"""Losses that are told apart; beyond that the one that cost least is forgotten."""
_SHOWN: Final = 8
_TIMES: Final = 3
"""How often a loss has to happen before it is told."""
_SECONDS: Final = 1.0
_TOKENS: Final = 2000
"""What it has to cost since the start before it is told, one or the other."""
_DAY: Final = 86_400
_LEAST_SPAN: Final = 3600.0
"""Seconds that a rate is taken over at least: a busy first minute is no day."""


_SURER: Final = (Shape.UNKNOWN, Shape.NUMBER, Shape.DATE, Shape.TIME, Shape.TEXT, Shape.ID, Shape.MOVED)
"""Shapes; a later one tells more where a place has shown both: an id may have digits alone, or letters alone."""


_LATER: Final = re.compile(r"^(messages|input)\[[1-9]\d*\]")
"""How the path of a later message begins: of a conversation that grows, it is another one each time."""


class _What(NamedTuple):
    """What losses are told apart by."""

    client: str
    category: str
    model: str
    operation: str
    cause: LossCause
    path: str
    where: Where | None

    @property
    def is_history(self) -> bool:
        """Whether it is a message that was said before."""
        return self.where is Where.MESSAGES and "[…]" in self.path


@dataclass(slots=True)
class _Tally:
    """What losses of one kind have cost."""

    times: int = 0
    tokens: int = 0
    seconds: float = 0.0
    place: Place | None = None
    shape: Shape = Shape.UNKNOWN


class PromptLosses:
    """Adds up what became of prompts, and what it cost. Times are seconds; `now` is Unix time."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._prompts = self._tokens = self._reused = 0
        self._checked = self._wrong = 0
        self._busy = self._lost = 0.0
        self._tallies: dict[_What, _Tally] = {}

    def add(  # noqa: PLR0913 - all by which losses are told apart
        self, reading: Reading, usage: Usage, *, client: str, category: str, model: str, operation: str, took: float
    ) -> None:
        """Add a prompt. `took` is how long its request was under way, for where Ollama tells no times."""
        self._prompts += 1
        self._tokens += reading.tokens
        self._reused += reading.reused
        if reading.told is not None:
            self._checked += reading.tokens
            self._wrong += abs(reading.told - reading.reused)
        told = (usage.prompt_seconds, usage.output_seconds, usage.load_seconds)
        known = [seconds for seconds in told if seconds is not None]
        self._busy += sum(known) if known else took
        for loss in reading.losses:
            path = "" if loss.place is None else _LATER.sub(r"\1[…]", loss.place.path)
            where = None if loss.place is None else loss.place.where
            self._count(_What(client, category, model, operation, loss.cause, path, where), loss, reading.seconds)

    def _count(self, what: _What, loss: Loss, seconds: float) -> None:
        tally = self._tallies.get(what)
        if tally is None:
            if len(self._tallies) >= _MOST:
                del self._tallies[min(self._tallies, key=lambda one: self._tallies[one].tokens)]
            tally = self._tallies[what] = _Tally()
        tally.times += 1
        tally.tokens += loss.tokens
        tally.seconds += loss.tokens * seconds
        tally.place = loss.place
        tally.shape = max(tally.shape, loss.shape, key=_SURER.index)
        self._lost += loss.tokens * seconds

    def report(self, now: float) -> dict[str, Any]:
        """Return what is known, as values for JSON."""
        span = max(_LEAST_SPAN, now - self._since)
        return {
            "since": round(self._since),
            "prompts": self._prompts,
            "tokens": self._tokens,
            "reusedTokens": self._reused,
            "seconds": round(self._busy, 1),
            "lostSeconds": round(self._lost, 1),
            "error": round(self._wrong / self._checked, 4) if self._checked else None,
            "sentence": self._sentence(),
            "findings": [self._finding(what, tally, span) for what, tally in self._worth()],
        }

    def _worth(self) -> Iterator[tuple[_What, _Tally]]:
        """Yield the losses that are worth telling, those first that cost most."""
        found = [
            (what, tally)
            for what, tally in self._tallies.items()
            if tally.times >= _TIMES and (tally.seconds >= _SECONDS or tally.tokens >= _TOKENS)
        ]
        yield from sorted(found, key=lambda one: (-one[1].seconds, -one[1].tokens))[:_SHOWN]

    def _sentence(self) -> str:
        """Return what it all comes to, in one sentence; empty where nothing is worth telling."""
        worth = [*self._worth()]
        if not worth or not self._busy:
            return ""
        share = min(1.0, sum(tally.seconds for _, tally in worth) / self._busy)
        clients = {(what.client, what.category) for what, _ in worth}
        what, tally = worth[0]
        who = f"{len(clients)} clients, {_who(what)} first" if len(clients) > 1 else _who(what)
        return f"{_part(share)} of Ollama’s time went into reading again what it had read: {who}, {_why(what, tally)}."

    @staticmethod
    def _finding(what: _What, tally: _Tally, span: float) -> dict[str, Any]:
        seconds = tally.seconds * _DAY / span
        cost = f"{_times(tally.times)} so far, {tally.tokens // tally.times:,} tokens each"
        if tally.seconds:
            cost += f"; at this rate {_duration(seconds)} of Ollama’s time a day"
        return {
            "client": what.client,
            "category": what.category,
            "model": what.model,
            "operation": what.operation,
            "cause": what.cause.value,
            "path": what.path,
            "at": None if tally.place is None else tally.place.at,
            "changes": tally.shape.value if what.cause is LossCause.CHANGED else None,
            "times": tally.times,
            "tokens": tally.tokens,
            "seconds": round(tally.seconds, 1),
            "secondsADay": round(seconds, 1),
            "sentence": f"{_who(what)} ({what.operation}, {what.model}): {_why(what, tally)}; {cost}",
            "fix": _fix(what, tally),
        }


_CHANGES: Final = {
    Shape.NUMBER: "a number changes",
    Shape.TIME: "a time changes",
    Shape.DATE: "a date changes",
    Shape.ID: "an id changes",
    Shape.TEXT: "a text changes",
    Shape.UNKNOWN: "something changes",
}
_WHY: Final = {
    LossCause.DISPLACED: "other prompts take its place in Ollama’s prompt cache",
    LossCause.UNLOADED: "the model is unloaded between its requests",
    LossCause.SWAPPED: "the model is unloaded for another one",
    LossCause.CUT: "its prompts do not fit into the context length, so Ollama cuts them at the beginning",
    LossCause.NOT_REUSED: "Ollama reuses less than was the same",
}
_FIX: Final = {
    LossCause.DISPLACED: "raise OLLAMA_NUM_PARALLEL where the memory allows it, and prompt_slots with it, or let its"
    " side tasks ask another model",
    LossCause.UNLOADED: "raise keep_alive in its requests, or OLLAMA_KEEP_ALIVE",
    LossCause.SWAPPED: "let both fit (OLLAMA_MAX_LOADED_MODELS, a smaller model or context length), or use one model"
    " for both",
    LossCause.CUT: "raise num_ctx in its requests, or OLLAMA_CONTEXT_LENGTH, or have the client shorten its history",
    LossCause.NOT_REUSED: "see whether others ask this Ollama without the proxy, or the model was unloaded"
    " (keep_alive); some models cannot reuse a part of their cache",
}
_CLAUDE_CODE: Final = "claude-cli"


def _who(what: _What) -> str:
    name = what.client or "a client without a User-Agent"
    return f"{name} [{what.category}]" if what.category else name


def _why(what: _What, tally: _Tally) -> str:
    """Return what happens, as half a sentence."""
    if what.cause is not LossCause.CHANGED:
        return _WHY[what.cause]
    at = "" if tally.place is None else f" at byte {tally.place.at} of {what.path}"
    if what.is_history:
        return f"the history is written anew, in {what.path}, and all behind it is read again"
    if tally.shape is Shape.MOVED:
        return f"what came before {what.path} is left out or put in, and all behind it is read again"
    return f"{_CHANGES[tally.shape]}{at}, in front of what stays the same"


def _fix(what: _What, tally: _Tally) -> str:
    """Return what to do."""
    if what.cause is not LossCause.CHANGED:
        return _FIX[what.cause]
    if tally.shape is Shape.MOVED or what.is_history:
        return "have the client shorten its history less often and by more at a time, or send its tools in one order"
    if "[…]" in what.path:
        return (
            "have the client say it as the user, in the last message: templates put all messages of the system in front"
        )
    if what.client == _CLAUDE_CODE and what.path.startswith("system[0]"):
        return 'set CLAUDE_CODE_ATTRIBUTION_HEADER=0 where Claude Code runs, or stable_prefix = ["claude-code"] here'
    if tally.shape is Shape.DATE:
        return "it costs this once a day; have the client write it behind what stays the same, in the last message"
    fix = "have the client leave it out, or write it behind what stays the same, in the last message"
    return (
        f"{fix}; if it is nothing that the model is meant to read, pin it (stable_prefix)" if _can_pin(tally) else fix
    )


def _can_pin(tally: _Tally) -> bool:
    """Return whether a rule of `stable_prefix` could pin what changes: digits, in the first bytes of a text."""
    return tally.shape in (Shape.NUMBER, Shape.ID) and tally.place is not None and tally.place.at < _PINNED


_PINNED: Final = 4096
_PARTS: Final = ((0.9, "Nearly all"), (0.7, "Three quarters"), (0.6, "Two thirds"), (0.45, "Half"), (0.3, "A third"))
_QUARTER: Final = 0.2


def _part(share: float) -> str:
    """Return a share as it is said."""
    for least, text in _PARTS:
        if share >= least:
            return text
    return "A quarter" if share >= _QUARTER else f"{max(1, round(100 * share))} %"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _duration(seconds: float) -> str:
    """Return a time in the two largest units that it has."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
