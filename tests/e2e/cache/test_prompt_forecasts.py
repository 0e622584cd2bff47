"""How far forecasts of what Ollama reuses are from what it reuses, over sessions of agents as public reports have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.agents.__main__ import simulated
from benchmarks.agents.player import Player
from benchmarks.agents.scenarios import SCENARIOS, Scenario
from benchmarks.agents.sessions import Session
from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.prompts.prompt_memory import LossCause, ModelMemory, Reading
from ollama_cache_proxy.policy.prompts.prompt_parts import parts_of
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before

_TURNS = 14
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
OWN_FORM = [scenario for scenario in SCENARIOS if scenario.path.startswith("/api/")]
"""Only Ollama's own form has times."""

BOUNDS = {("overflow", "0.24"): 0.15}
"""0.24 moves what it holds when an answer outgrows the context, which no prompt shows: three turns of these are wrong."""


_RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
RECORDED = {release: json.loads((_RESULTS / f"agents-{release}.json").read_text()) for release in ("0.24", "0.34")}
"""What real Ollamas did with such sessions: `used` is what was reused, by the log of the runner of 0.24, and by 0.34's own
word, which the proxy hears too."""


def forecast(release: str, recorded: dict[str, Any]) -> list[Reading]:
    """Return what is said of a session that was recorded, by its requests and by the tokens that Ollama told."""
    about, told = RECORDED[release]["about"], recorded["turns"]
    tells_cached = about.get("tells_cached", False)
    turns = len(told["prompt"])
    scenario = BY_NAME[recorded["scenario"]]
    session = Session(scenario=scenario, model="coder", turns=turns, size=about["size"], seed=about["seed"])
    memory, answers, still = ModelMemory(), list[str](), recorded["way"] == "still"
    readings = []

    def read(body: bytes, path: str, usage: Usage, now: float) -> Reading:
        prompt = parts_of(endpoints.find("POST", path)[0], orjson.loads(body))
        assert prompt is not None
        return memory.read(prompt, usage, begun=now, now=now)

    for turn in range(turns):
        if not still and (aside := session.aside(turn)) is not None:
            read(aside.body, aside.path, Usage(), turn - 0.5)
        request = session.request(turn, answers, still=still)
        usage = Usage(
            prompt_tokens=told["prompt"][turn],
            output_tokens=told["output"][turn],
            cached_tokens=told["used"][turn] if tells_cached else None,
        )
        readings.append(read(request.body, request.path, usage, turn))
        answers.append("and " * told["output"][turn])
    return readings


@pytest.mark.parametrize(
    ("release", "recorded"),
    [
        pytest.param(release, run, id=f"{release}-{run['scenario']}-{run['way']}")
        for release, recorded in RECORDED.items()
        for run in recorded["runs"]
        if run["way"] in ("direct", "still") and (run["scenario"], release) != ("overflow", "0.24")
    ],
)
def test_a_forecast_is_within_ten_percent_of_what_was_recorded_of_a_real_one(
    release: str, recorded: dict[str, Any]
) -> None:
    """Turn by turn. How much 0.24 leaves of a prompt that is cut depends on tokens that no request shows."""
    used, prompts = recorded["turns"]["used"], recorded["turns"]["prompt"]
    found = [reading.reused for reading in forecast(release, recorded)]
    wrong = sum(abs(one - other) for one, other in zip(found, used, strict=True))
    assert wrong <= 0.1 * sum(prompts)


async def report(scenario: Scenario, release: str, **behaviour: Any) -> dict[str, Any]:
    """Play a session through a proxy, and return what that says of prompts."""
    session = Session(scenario=scenario, model="coder", turns=_TURNS, size=0.5)
    answers: list[str] = []
    async with (
        simulated(release, **behaviour) as ollama,
        proxy_before(ollama.url, upstream_authorization=None) as proxy,
        Player(ollama.url) as direct,
        Player(proxy.url) as player,
    ):
        await direct.empty(session.model, scenario.context)
        for turn in range(session.turns):
            if (aside := session.aside(turn)) is not None:
                await player.play(aside)
            answers.append((await player.play(session.request(turn, answers))).text)
        found: dict[str, Any] = json.loads((await ask(proxy.url, "GET", "/api/cache/prompts")).body)
        return found


@pytest.mark.parametrize("release", ["0.24", "0.33"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_forecast_is_within_ten_percent_of_what_ollama_tells(scenario: Scenario, release: str) -> None:
    found = await report(scenario, release)
    assert found["error"] <= BOUNDS.get((scenario.name, release), 0.1)
    assert found["prompts"] >= _TURNS


@pytest.mark.parametrize("release", ["0.24", "0.33"])
@pytest.mark.parametrize("scenario", OWN_FORM, ids=lambda scenario: scenario.name)
async def test_a_forecast_is_within_ten_percent_of_what_the_time_tells(scenario: Scenario, release: str) -> None:
    found = await report(scenario, release, tells_cached=False, prompt_rate=50_000.0)
    assert found["error"] <= BOUNDS.get((scenario.name, release), 0.1)


@pytest.mark.parametrize(
    ("name", "release", "causes", "path"),
    [
        ("steady", "0.33", [], ""),
        ("mark", "0.33", [LossCause.CHANGED], "system[0].text"),
        ("counter", "0.33", [LossCause.CHANGED], "messages[0].content"),
        ("clock", "0.33", [LossCause.CHANGED], "messages[0].content"),
        ("tool-id", "0.33", [LossCause.CHANGED], "tools[0].function.description"),
        ("elided", "0.33", [LossCause.CHANGED], "messages[…].content[0].content"),
        ("countdown", "0.33", [LossCause.CHANGED], "messages[…].content"),
        ("aside", "0.33", [], ""),
        ("aside", "0.24", [LossCause.DISPLACED], ""),
        ("overflow", "0.33", [LossCause.CUT], ""),
    ],
)
async def test_what_is_lost_is_named(name: str, release: str, causes: list[LossCause], path: str) -> None:
    found = await report(BY_NAME[name], release)
    assert [finding["cause"] for finding in found["findings"]] == [cause.value for cause in causes]
    assert [finding["path"] for finding in found["findings"]] == [path] * len(causes)
