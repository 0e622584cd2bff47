"""The simulated prompt cache, held against what a real Ollama 0.24 and 0.34 did with the same sessions.

benchmarks/results/agents-0.24.json and agents-0.34.json have their figures: `used` is what was reused, as the runner of
0.24 wrote to its log, and as 0.34 tells; `cpu_ms` the CPU that 0.24 took for a prompt, beside the cold runs of the same
hour.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.agents.__main__ import simulated
from benchmarks.agents.player import Player
from benchmarks.agents.prompt_speed import fitted
from benchmarks.agents.scenarios import SCENARIOS
from benchmarks.agents.sessions import Session
from benchmarks.agents.ways import Run, Way, played
from ollama_cache_proxy.simulator import NEWEST

_RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDED = json.loads((_RESULTS / "agents-0.24.json").read_text())
NEWER = json.loads((_RESULTS / "agents-0.34.json").read_text())
"""Of the newest simulated release, which has the same prompt cache."""
ABOUT = RECORDED["about"]
RUNS = {(run["scenario"], run["way"]): run["turns"] for run in RECORDED["runs"]}
TURNS = {scenario: len(turns["prompt"]) for (scenario, _), turns in RUNS.items()}
"""Of the sessions that were recorded."""
SPEED = fitted([(tokens, milliseconds / 1e3) for tokens, milliseconds in ABOUT["cold"]])
NAMED = {scenario.name: scenario for scenario in SCENARIOS}
SCALE = 1000.0
"""How many times faster than the real one the simulated Ollama reads."""


async def simulate(
    name: str, turns: int, *, release: str = "0.24", about: dict[str, Any] = ABOUT, **behaviour: Any
) -> dict[str, Run]:
    asked = Session(scenario=NAMED[name], model="coder", turns=turns, size=about["size"], seed=about["seed"])
    async with simulated(release, **behaviour) as simulator, Player(simulator.url) as player:
        return {run.way: run for run in await played(player, asked, [Way.STILL])}


def hold(found: Run, real: dict[str, Any], *, little: float) -> None:
    """Hold a run against a real one: the tokens that it reuses within a tenth, or that share of the prompts."""
    shares = [turn.reused / turn.prompt for turn in found.turns]
    forecast = sum(share * prompt for share, prompt in zip(shares, real["prompt"], strict=True))
    used, prompts = sum(real["used"]), sum(real["prompt"])
    assert forecast == pytest.approx(used, abs=max(0.1 * used, little * prompts))


@pytest.mark.parametrize("name", [name for name in TURNS if name != "overflow"])
async def test_as_much_is_reused_as_a_real_one_reuses(name: str) -> None:
    """Within a tenth, in tokens of the real one, whose tokenizer cuts otherwise; or a fiftieth of the prompts."""
    found = await simulate(name, TURNS[name])
    for way in ("direct", "still"):
        hold(found[way], RUNS[name, way], little=0.02)


@pytest.mark.parametrize("name", sorted({run["scenario"] for run in NEWER["runs"]}))
async def test_as_much_is_reused_as_a_newer_one_reuses(name: str) -> None:
    """Within a tenth, or six hundredths of the prompts: of the tools a real tokenizer makes another share of them."""
    runs = {run["way"]: run["turns"] for run in NEWER["runs"] if run["scenario"] == name}
    turns = len(runs["direct"]["prompt"])
    found = await simulate(name, turns, release=NEWEST, about=NEWER["about"])
    for way in ("direct", "still"):
        hold(found[way], runs[way], little=0.06)


async def test_a_full_context_leaves_the_systems_text_and_the_tools_or_next_to_nothing() -> None:
    """Which of them depends on whether the answer still fits, and so on every token: sums are not compared."""
    simulated_turns = (await simulate("overflow", TURNS["overflow"]))["direct"].turns
    real = RUNS["overflow", "direct"]
    for prompts, used in (
        (real["prompt"], real["used"]),
        ([turn.prompt for turn in simulated_turns], [turn.reused for turn in simulated_turns]),
    ):
        grown = next(turn for turn in range(1, len(used)) if used[turn] < used[turn - 1])
        assert used[1:grown] == pytest.approx(prompts[: grown - 1], abs=30), "as long as it is not full"
        kinds = {"nothing" if count <= 4 else "the beginning" for count in used[grown:]}
        assert kinds == {"nothing", "the beginning"}
        assert all(0.9 * prompts[0] < count < prompts[0] for count in used[grown:] if count > 4)


@pytest.mark.parametrize("recorded", RECORDED["timed"], ids=lambda recorded: recorded["way"])
async def test_prompts_take_as_long_as_with_a_real_one(recorded: dict[str, Any]) -> None:
    """In sum over a session, by the speed of the cold runs; in each turn where most of a prompt is read."""
    name, turns = recorded["scenario"], len(recorded["prompt"])
    counted = (await simulate(name, turns))[recorded["way"]]
    ratio = sum(recorded["prompt"]) / counted.prompt
    """Tokens of the real one by those of the simulated one."""
    found = await simulate(
        name,
        turns,
        prompt_rate=SCALE / (SPEED.each * ratio),
        prompt_doubling=SPEED.each / (2 * SPEED.looking_back * ratio),
    )
    forecast = [(turn.work or 0.0) * SCALE * 1e3 for turn in found[recorded["way"]].turns]
    assert sum(forecast) == pytest.approx(sum(recorded["cpu_ms"]), rel=0.2)
    for made, real in zip(forecast, recorded["cpu_ms"], strict=True):
        assert made == pytest.approx(real, rel=0.25 if real > 500 else 1.0)


@pytest.mark.parametrize("recorded", [RECORDED, NEWER], ids=["0.24", "0.34"])
def test_a_session_with_a_mark_that_changes_was_mended_in_front_of_a_real_one(recorded: dict[str, Any]) -> None:
    """The figures of docs/agents.md."""
    runs = {run["way"]: run["turns"] for run in recorded["runs"] if run["scenario"] == "mark"}
    direct, still, pinned = (sum(runs[way]["used"]) for way in ("direct", "still", "pinned"))
    assert direct < 0.05 * sum(runs["direct"]["prompt"])
    assert pinned >= 0.95 * still
    assert runs["proxy"]["used"] == pytest.approx(runs["direct"]["used"], abs=1)
