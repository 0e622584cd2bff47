"""What is said of prompts that Ollama reads again: who, where, what it costs, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.prompts.prompt_losses import PromptLosses
from ollama_cache_proxy.policy.prompts.prompt_memory import Loss, LossCause, Reading
from ollama_cache_proxy.policy.prompts.prompt_places import Place, Where
from ollama_cache_proxy.policy.prompts.prompt_shapes import Shape

HOUR = 3600.0
PLACE = Place(Where.SYSTEM, "system[0].text", 192)


def reading(*losses: Loss, reused: int = 0, told: int | None = None, seconds: float = 0.001) -> Reading:
    return Reading(40_000, 200, 10_000, reused, told, told is not None, seconds, losses)


def changed(shape: Shape = Shape.UNKNOWN, place: Place | None = PLACE) -> Loss:
    return Loss(LossCause.CHANGED, 9_000, place, shape)


def told(*readings: Reading, client: str = "claude-cli", category: str = "", prompt_seconds: float | None = 9.0) -> Any:
    losses = PromptLosses(0.0)
    for one in readings:
        usage, about = Usage(prompt_seconds=prompt_seconds), {"category": category, "model": "qwen3:latest"}
        losses.add(one, usage, client=client, operation="v1-messages", took=30.0, **about)
    return losses.report(2 * HOUR)


def test_without_losses_there_is_nothing_to_say() -> None:
    found = told(*[reading(reused=9_000, told=8_000)] * 5)
    assert (found["sentence"], found["findings"]) == ("", [])
    assert (found["prompts"], found["tokens"], found["reusedTokens"], found["error"]) == (5, 50_000, 45_000, 0.1)


@pytest.mark.parametrize("times", [1, 2])
def test_what_has_happened_twice_is_not_told(times: int) -> None:
    assert told(*[reading(changed())] * times)["findings"] == []


def test_a_change_is_told_with_its_place_its_shape_and_its_cost() -> None:
    found = told(reading(changed()), *[reading(changed(Shape.NUMBER))] * 2)
    (finding,) = found["findings"]
    assert finding["sentence"] == (
        "claude-cli (v1-messages, qwen3:latest): a number changes at byte 192 of system[0].text, in front of what stays"
        " the same; 3 times so far, 9,000 tokens each; at this rate 5 min 24 s of Ollama’s time a day"
    )
    assert (
        finding["fix"]
        == 'set CLAUDE_CODE_ATTRIBUTION_HEADER=0 where Claude Code runs, or stable_prefix = ["claude-code"] here'
    )
    assert (finding["path"], finding["at"], finding["changes"]) == ("system[0].text", 192, "number")
    assert (finding["times"], finding["tokens"], finding["seconds"], finding["secondsADay"]) == (3, 27_000, 27.0, 324.0)
    assert found["sentence"] == (
        "Nearly all of Ollama’s time went into reading again what it had read: claude-cli, a number changes at byte 192"
        " of system[0].text, in front of what stays the same."
    )


@pytest.mark.parametrize("cause", [cause for cause in LossCause if cause is not LossCause.CHANGED])
def test_every_other_cause_has_a_sentence_and_a_remedy(cause: LossCause) -> None:
    (finding,) = told(*[reading(Loss(cause, 9_000))] * 3, client="", category="mail")["findings"]
    assert finding["sentence"].startswith("a client without a User-Agent [mail] (v1-messages, qwen3:latest): ")
    assert finding["fix"]
    assert (finding["cause"], finding["path"], finding["changes"]) == (cause.value, "", None)


@pytest.mark.parametrize("shape", Shape)
def test_every_shape_has_a_sentence_and_a_remedy(shape: Shape) -> None:
    (finding,) = told(*[reading(changed(shape))] * 3, client="opencode")["findings"]
    assert "system[0].text" in finding["sentence"]
    assert finding["fix"]


@pytest.mark.parametrize(
    ("where", "why", "fix"),
    [
        (Where.MESSAGES, "the history is written anew, in messages[…].content", "shorten its history less often"),
        (Where.SYSTEM, "a text changes at byte 0 of messages[…].content", "say it as the user"),
    ],
)
def test_later_messages_of_a_conversation_that_grows_are_one_place(where: Where, why: str, fix: str) -> None:
    places = [Place(where, f"messages[{number}].content", 0) for number in (3, 5, 17)]
    (finding,) = told(*[reading(changed(Shape.TEXT, place)) for place in places])["findings"]
    assert (finding["path"], finding["times"]) == ("messages[…].content", 3)
    assert why in finding["sentence"]
    assert fix in finding["fix"]


@pytest.mark.parametrize(
    ("shape", "at", "pins"),
    [(Shape.NUMBER, 0, True), (Shape.ID, 4032, True), (Shape.ID, 4096, False), (Shape.DATE, 0, False)],
)
def test_digits_in_the_beginning_of_a_text_may_be_pinned(shape: Shape, at: int, pins: bool) -> None:
    loss = changed(shape, Place(Where.SYSTEM, "messages[0].content", at))
    (finding,) = told(*[reading(loss)] * 3, client="opencode")["findings"]
    assert ("pin it (stable_prefix)" in finding["fix"]) is pins


@pytest.mark.parametrize(
    ("seconds", "share"),
    [(9.0, "Nearly all"), (20.0, "Half"), (30.0, "A third"), (40.0, "A quarter"), (100.0, "9 %")],
)
def test_the_share_of_ollamas_time_is_said_in_words(seconds: float, share: str) -> None:
    found = told(*[reading(changed(Shape.ID))] * 4, prompt_seconds=seconds)
    assert found["sentence"].startswith(f"{share} of Ollama’s time went into reading again")


def test_without_ollamas_times_the_requests_own_count() -> None:
    assert told(*[reading(changed())] * 4, prompt_seconds=None)["seconds"] == 120.0


def test_without_a_speed_tokens_are_told_and_no_time() -> None:
    found = told(*[reading(changed(), seconds=0.0)] * 4)
    (finding,) = found["findings"]
    assert finding["sentence"].endswith("; 4 times so far, 9,000 tokens each")


def test_what_costs_most_comes_first_and_little_ones_are_forgotten() -> None:
    losses = PromptLosses(0.0)
    for number in range(200):
        place = Place(Where.TOOLS, f"tools[{number}].name", 0)
        one = reading(Loss(LossCause.CHANGED, 1000 + number, place))
        for _ in range(3):
            usage, about = Usage(prompt_seconds=1.0), {"category": "", "model": "tiny", "operation": "chat"}
            losses.add(one, usage, client="x", took=1.0, **about)
    found = losses.report(HOUR)
    assert [finding["path"] for finding in found["findings"]][:2] == ["tools[199].name", "tools[198].name"]
    assert len(found["findings"]) == 8
