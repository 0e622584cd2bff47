"""What agents wait for, by what their clients change: `python -m benchmarks.agents`, `make bench ARGS="--only agents"`.

It plays sessions of 20 turns in front of a simulated Ollama, or of a real one, directly and through the proxy, and says
how much of the prompts was reused and when the first token came; then what looking at prompts costs, and what lanes do
for chats beside an indexer. docs/agents.md describes sessions and traces.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import lanes, prompt_watch
from benchmarks.agents import report, traces
from benchmarks.agents.player import Player, PlayError, RunnerLog
from benchmarks.agents.scenarios import SCENARIOS
from benchmarks.agents.sessions import Session
from benchmarks.agents.ways import Run, Way, models, played, replayed
from ollama_cache_proxy.simulator import NEWEST, RELEASES, Behaviour, Simulator

_SIMULATED: Final = "coder"
_TEMPLATE: Final = "{{ .System }}{{ .Tools }}{{ .Messages }}"
_CONTEXT: Final = 16_384
_PROMPT_RATE: Final = 10_000.0
"""Prompt tokens a second of the simulated Ollama: quick, so that all sessions take three minutes."""
_TOKEN_RATE: Final = 5_000.0
_NAMES: Final = [scenario.name for scenario in SCENARIOS]


def simulated(release: str = NEWEST, **behaviour: Any) -> Simulator:
    """Return a simulated Ollama with a prompt cache and a model for agents; it is not started."""
    usual = {"prompt_cache": True, "tells_cached": True, "context_length": _CONTEXT, "completion_delay": 0.0}
    simulator = Simulator(Behaviour(**{**usual, "release": release, **behaviour}))
    simulator.models.add(_SIMULATED, template=_TEMPLATE, tools=True, trained_context=2 * _CONTEXT)
    return simulator


@asynccontextmanager
async def target(given: argparse.Namespace) -> AsyncIterator[tuple[str, str]]:
    """Give the URL of Ollama, and the model to ask."""
    if given.ollama:
        yield given.ollama, given.model
        return
    async with simulated(given.release, prompt_rate=_PROMPT_RATE, token_rate=_TOKEN_RATE) as simulator:
        yield simulator.url, _SIMULATED


async def measure(given: argparse.Namespace) -> tuple[list[Run], list[tuple[int, float]]]:
    """Play what the arguments select; return the runs, and the cold ones (tokens, seconds) that the speed is from.

    Raise PlayError, OSError and ValueError.
    """
    ways = [Way(name) for name in given.way or [way.value for way in Way]]
    runs: list[Run] = []
    log = None if given.runner_log is None else RunnerLog(given.runner_log)
    async with target(given) as (url, model), Player(url, log=log) as player:
        if given.ollama:
            await player.measure_speed(model)
        if given.trace is not None:
            requests = [traces.for_model(request, model) for request in traces.read(given.trace)]
            sys.stderr.write(f"{given.trace.name}: {len(requests)} requests for {', '.join(set(models(requests)))}\n")
            return await replayed(player, given.trace.name, requests, ways), player.cold
        for scenario in SCENARIOS:
            if not given.scenario or scenario.name in given.scenario:
                session = Session(scenario=scenario, model=model, turns=given.turns, seed=given.seed, size=given.size)
                runs += await played(player, session, ways)
                sys.stderr.write(f"{scenario.name}: played\n")
        return runs, player.cold


def write_trace(given: argparse.Namespace) -> None:
    """Write the sessions as a trace, as they are when nothing is answered."""
    with given.write_trace.open("wb") as file:
        for scenario in SCENARIOS:
            if not given.scenario or scenario.name in given.scenario:
                session = Session(
                    scenario=scenario, model=given.model, turns=given.turns, seed=given.seed, size=given.size
                )
                for turn in range(session.turns):
                    file.write(traces.line(session.request(turn, [""] * turn)))


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents", description=__doc__)
    parser.add_argument(
        "--ollama",
        metavar="URL",
        default=os.environ.get("AGENTS_OLLAMA", ""),
        help="a real Ollama on this machine (default: $AGENTS_OLLAMA, else a simulated one)",
    )
    parser.add_argument(
        "--model", default=os.environ.get("AGENTS_MODEL", _SIMULATED), help="its model (default: $AGENTS_MODEL, coder)"
    )
    parser.add_argument(
        "--runner-log",
        type=Path,
        metavar="FILE",
        help="its log with OLLAMA_DEBUG=1, which says what was reused",
    )
    parser.add_argument("--release", choices=RELEASES, default=NEWEST, help="of the simulated one")
    parser.add_argument("--scenario", action="append", choices=_NAMES, help="only this one; may be repeated")
    parser.add_argument(
        "--way", action="append", choices=[way.value for way in Way], help="only this one beside direct"
    )
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--size", type=float, default=1.0, help="length of the texts, by the usual one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", type=Path, metavar="PATH", help="play this file, or folder, instead")
    parser.add_argument(
        "--write-trace", type=Path, metavar="FILE", help="write the sessions to a file, and play nothing"
    )
    parser.add_argument(
        "--lanes",
        type=int,
        metavar="TEXTS",
        help=f"then benchmarks.lanes with so many texts (default: {lanes.TEXTS}; 0 where sessions are selected)",
    )
    parser.add_argument("--embed", metavar="MODEL", help="of --ollama, which the indexer asks; without it none does")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Play sessions and print a table; return 1 where something to be reached was not, 2 for what cannot be played."""
    chosen = arguments(given)
    if chosen.write_trace is not None:
        write_trace(chosen)
        return 0
    try:
        runs, cold = asyncio.run(measure(chosen))
    except (PlayError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("\n".join(report.table(runs)) + "\n")
    found = report.verdicts(runs)
    for text, is_reached in found:
        sys.stdout.write(f"{'ok' if is_reached else 'MISSED':<7}{text}\n")
    if chosen.json is not None:
        about = {
            "ollama": "real" if chosen.ollama else f"simulated {chosen.release}",
            **{name: getattr(chosen, name) for name in ("turns", "size", "seed")},
            "cold": [(tokens, round(seconds * 1e3, 3)) for tokens, seconds in cold],
        }
        chosen.json.write_text(report.written(report.document(runs, about)))
    return max(0 if all(is_reached for _, is_reached in found) else 1, rest(chosen))


def rest(given: argparse.Namespace) -> int:
    """Measure what is no session, unless some were selected; return 1 where something to be reached was not."""
    is_whole = not (given.scenario or given.way or given.trace)
    if is_whole:
        prompt_watch.report(prompt_watch.ROUNDS)
    texts = (lanes.TEXTS if is_whole else 0) if given.lanes is None else given.lanes
    if not texts or (given.ollama and not given.embed):
        return 0
    behind = lanes.Behind(given.ollama, given.model, given.embed) if given.ollama else lanes.SIMULATED
    return asyncio.run(lanes.main(texts, 1.0, [], behind))


if __name__ == "__main__":
    sys.exit(main())
