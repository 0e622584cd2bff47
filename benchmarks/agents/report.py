"""The figures of runs: a table to read, and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.agents.scenarios import SCENARIOS
from benchmarks.agents.ways import Run, Way

_ABOUT: Final = {scenario.name: (scenario.path, scenario.change.value) for scenario in SCENARIOS}
_GOAL: Final = 0.95
"""Of what the still session reuses, the least that a pinned one has to."""
_SOONER: Final = 5.0
"""Times that its first token has to be sooner than directly."""
_WRONG: Final = 0.1
"""Of the prompt tokens, the most by which a forecast may be wrong."""
_PINNED: Final = "mark"
"""The scenario that a built-in rule is for."""


def table(runs: Iterable[Run]) -> Iterator[str]:
    """Yield the lines: of each scenario the share of prompt tokens reused after the first turn, and the first token."""
    ways = [way.value for way in Way]
    heads = "".join(f"{way:>9}" for way in ways)
    yield f"{'':<12}{'reused after the first turn':>45}   {'first token, ms':>36}"
    yield f"{'scenario':<12}{heads}{'seen':>9}   {heads}   what changes"
    for name, by_way in _by_scenario(runs).items():
        shares = "".join(_cell(by_way.get(way), lambda run: f"{run.share:.1%}") for way in ways)
        shares += _cell(by_way.get(Way.PROXY.value), _seen)
        firsts = "".join(_cell(by_way.get(way), lambda run: f"{run.first * 1e3:.1f}") for way in ways)
        yield f"{name:<12}{shares}   {firsts}   {', '.join(_ABOUT.get(name, ()))}"


def _seen(run: Run) -> str:
    return "" if run.seen is None else f"{run.seen / max(1, sum(turn.prompt for turn in run.turns[1:])):.1%}"


def _cell(run: Run | None, show: Any) -> str:
    return f"{'' if run is None else show(run):>9}"


def _by_scenario(runs: Iterable[Run]) -> dict[str, dict[str, Run]]:
    found: dict[str, dict[str, Run]] = {}
    for run in runs:
        found.setdefault(run.scenario, {})[run.way] = run
    return found


def verdicts(runs: Sequence[Run]) -> list[tuple[str, bool]]:
    """Return what is to be reached, each with whether it was."""
    return [*_mended(runs), *_forecast(runs)]


def _forecast(runs: Sequence[Run]) -> list[tuple[str, bool]]:
    """Judge the proxies' forecasts, where they make some."""
    errors = {run.scenario: abs(run.seen - run.reused) / run.prompt for run in runs if run.seen is not None}
    if not errors:
        return []
    worst = max(errors, key=lambda name: errors[name])
    text = f"seen by the proxy: wrong by {errors[worst]:.1%} of the prompts at most, in {worst} (at most 10 %)"
    return [(text, errors[worst] <= _WRONG)]


def _mended(runs: Sequence[Run]) -> list[tuple[str, bool]]:
    """Judge the scenario that a built-in rule is for."""
    by_way = _by_scenario(runs).get(_PINNED, {})
    if not {way.value for way in Way} <= set(by_way):
        return []
    direct, still, pinned = (by_way[way.value] for way in (Way.DIRECT, Way.STILL, Way.PINNED))
    of_still, sooner = pinned.reused / max(1, still.reused), direct.first / pinned.first
    differ = len(pinned.turns) - pinned.same_answers
    return [
        (f"unpinned, {direct.share:.1%} of the prompts are reused (under 5 %)", direct.share < 1 - _GOAL),
        (f"pinned, {of_still:.1%} of what the still session reuses (at least 95 %)", of_still >= _GOAL),
        (f"pinned, the first token is {sooner:.1f} times sooner (at least 5)", sooner >= _SOONER),
        (f"pinned, {differ} of {len(pinned.turns)} answers differ from the unpinned (told, no goal)", True),
    ]


def document(runs: Iterable[Run], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was measured, without texts, for JSON."""
    rows = [
        {
            "scenario": run.scenario,
            "way": run.way,
            "prompt": run.prompt,
            "reused": run.reused,
            "share": round(run.share, 4),
            "first_ms": round(run.first * 1e3, 3),
            "same_answers": run.same_answers,
            "seen": run.seen,
            "turns": {name: [turn.facts[name] for turn in run.turns] for name in run.turns[0].facts},
        }
        for run in runs
    ]
    return {"about": dict(about), "runs": rows}


def written(made: Mapping[str, Any]) -> str:
    """Return the text of a document, with one line for each run."""
    lines = ",\n".join(json.dumps(run) for run in made["runs"])
    return f'{{"about": {json.dumps(made["about"])},\n"runs": [\n{lines}\n]}}\n'
