"""The ways that a session goes to Ollama, and what is measured of each.

`direct` goes to Ollama itself, and its answers become part of the requests of all ways, so that these differ only in
what the way changes. `still` is what could be had: the same session, in which nothing changes. `proxy` goes through the
proxy with its defaults, and `pinned` through one that mends what it has rules for (`stable_prefix`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any, Final

import orjson

from benchmarks.agents.player import Played, Player
from benchmarks.agents.sessions import Session
from ollama_cache_proxy.policy.stable_prefix import BUILT_IN
from ollama_cache_proxy.workbench.requests import Request
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before


class Way(Enum):
    """How a session gets to Ollama."""

    DIRECT = "direct"
    STILL = "still"
    PROXY = "proxy"
    PINNED = "pinned"


_SETTINGS: Final[Mapping[Way, dict[str, Any]]] = {Way.PROXY: {}, Way.PINNED: {"stable_prefix": list(BUILT_IN)}}
"""Of the proxies."""
_FORECAST: Final = re.compile(rb'prompt_forecast_tokens_total\{[^}]*source="([a-z]+)"[^}]*\} ([0-9.e+]+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A session that was played one way. What came between its turns is not in `turns`."""

    scenario: str
    way: str
    turns: tuple[Played, ...]
    same_answers: int
    """Turns whose answers are those of the direct way."""
    seen: int | None = None
    """Tokens that were reused by the proxy's forecast, None where it makes none."""

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(turn.prompt for turn in self.turns)

    @property
    def reused(self) -> int:
        """Tokens of them that were there already."""
        return sum(turn.there for turn in self.turns)

    @property
    def share(self) -> float:
        """The share of what came after the first turn, which finds nothing, that was reused."""
        later = self.turns[1:]
        return sum(turn.there for turn in later) / max(1, sum(turn.prompt for turn in later))

    @property
    def first(self) -> float:
        """Seconds to the first token, the median of what came after the first turn."""
        return median(turn.first for turn in self.turns[1:] or self.turns)


@dataclass(slots=True)
class _Course:
    """One way as it goes: its player, and at the end what its proxy has seen."""

    player: Player
    seen: int | None = None


@asynccontextmanager
async def _on(way: Way, direct: Player) -> AsyncIterator[_Course]:
    """Go a way."""
    settings = _SETTINGS.get(way)
    if settings is None:
        yield _Course(direct)
        return
    async with (
        proxy_before(direct.url, upstream_authorization=None, **settings) as proxy,
        Player(proxy.url, direct.speed, direct.log) as player,
    ):
        course = _Course(player)
        yield course
        await proxy.kept()
        course.seen = _forecast((await ask(proxy.url, "GET", "/metrics")).body)


def _forecast(metrics: bytes) -> int | None:
    """Return the tokens that a proxy's metrics forecast as reused, None where they forecast nothing."""
    found = _FORECAST.findall(metrics)
    return round(sum(float(value) for source, value in found if source == b"reused")) if found else None


async def played(direct: Player, session: Session, ways: Sequence[Way]) -> list[Run]:
    """Play a session each way, the direct one first; before each the prompt cache is empty. Raise PlayError."""
    runs: list[Run] = []
    answers: list[str] = []
    for way in (Way.DIRECT, *(way for way in ways if way is not Way.DIRECT)):
        await direct.empty(session.model, session.scenario.context)
        turns: list[Played] = []
        async with _on(way, direct) as course:
            for turn in range(session.turns):
                if way is not Way.STILL and (aside := session.aside(turn)) is not None:
                    await course.player.play(aside)
                turns.append(await course.player.play(session.request(turn, answers, still=way is Way.STILL)))
                if way is Way.DIRECT:
                    answers.append(turns[-1].text)
        same = sum(turn.text == answer for turn, answer in zip(turns, answers, strict=True))
        runs.append(
            Run(
                scenario=session.scenario.name,
                way=way.value,
                turns=tuple(turns),
                same_answers=same,
                seen=course.seen,
            )
        )
    return runs


async def replayed(direct: Player, name: str, requests: Sequence[Request], ways: Sequence[Way]) -> list[Run]:
    """Play a trace each way; nothing of it is changed, so that there is no still one. Raise PlayError."""
    runs: list[Run] = []
    answers: list[str] = []
    for way in (Way.DIRECT, *(way for way in ways if way not in (Way.DIRECT, Way.STILL))):
        for model in dict.fromkeys(models(requests)):
            await direct.empty(model)
        async with _on(way, direct) as course:
            turns = [await course.player.play(request) for request in requests]
        answers = answers or [turn.text for turn in turns]
        same = sum(turn.text == answer for turn, answer in zip(turns, answers, strict=True))
        runs.append(Run(scenario=name, way=way.value, turns=tuple(turns), same_answers=same, seen=course.seen))
    return runs


def models(requests: Sequence[Request]) -> list[str]:
    """Return the models that a trace asks for."""
    return [model for model in (_model(request) for request in requests) if model]


def _model(request: Request) -> str:
    document = orjson.loads(request.body)
    model = document.get("model") if isinstance(document, dict) else None
    return model if isinstance(model, str) else ""
