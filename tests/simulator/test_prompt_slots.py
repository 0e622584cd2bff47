"""The simulated prompt cache: which slot a prompt takes, what is reused, and what it costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.simulator import RELEASES, Behaviour, Simulator
from ollama_cache_proxy.simulator.prompt_slots import LONGEST, SIMILAR, PromptSlots, SlotRules, shifted
from tests.support.rawhttp import RawConnection, ask
from tests.support.waiting import until

CODER = "coder"


async def reused(rules: SlotRules, count: int, prompts: Sequence[str]) -> list[int]:
    """Letters of each prompt that were there already; a slot is left with the prompt."""
    slots, found = PromptSlots(rules=rules, count=count), []
    for prompt in prompts:
        async with slots.held(prompt) as held:
            found.append(held.reused)
            held.left = prompt
    return found


@pytest.mark.parametrize(
    ("rules", "count", "prompts", "expected"),
    [
        (LONGEST, 1, ["abcd", "abcd", "abcdef", "abx"], [0, 3, 4, 2]),
        (LONGEST, 1, ["abcdefgh", "xbcdefgh", "abcdefgh"], [0, 0, 0]),
        (LONGEST, 2, ["abcdefgh", "stuv", "abcdefghi", "stuvw"], [0, 0, 0, 0]),  # the first one, where none shares
        (LONGEST, 2, ["abcdefgh", "abst", "abcd"], [0, 2, 2]),
        (SIMILAR, 2, ["abcdefgh", "stuv", "abcdefghi", "stuvw"], [0, 0, 8, 4]),  # the one unused for longest
        (SIMILAR, 1, ["abcd", "abcd", "abcdef", "abx"], [0, 3, 4, 2]),
        (SIMILAR, 1, ["abcdefgh", "stuvwxyz", "abcdefghi"], [0, 0, 8]),  # kept in memory meanwhile
        (replace(SIMILAR, kept_tokens=0), 1, ["abcdefgh", "stuvwxyz", "kl", "abcdefghi"], [0, 0, 0, 0]),
        (SIMILAR, 1, ["abcdefgh", "stuvwxyz", "aXYZ"], [0, 0, 0]),  # an eighth of it is too little
        (
            SIMILAR,
            1,
            ["ab", "abcdefgh", "stuvwxyz", "abc", "abcdefgh"],
            [0, 2, 0, 2, 3],
        ),  # it came back, and lost its end
    ],
)
async def test_slots(rules: SlotRules, count: int, prompts: list[str], expected: list[int]) -> None:
    assert await reused(rules, count, prompts) == expected


def test_what_outgrows_its_context_loses_half_of_what_may_go() -> None:
    assert "".join(shifted("abcdefghijkl", 12, 2)) == "abcdefghijkl"
    assert "".join(shifted("abcdefghijklm", 12, 2)) == "abhijklm"
    assert len(shifted("a" * 50, 12, 2)) <= 12


@pytest.fixture
def behaviour(release: str) -> Behaviour:
    return Behaviour(
        completion_delay=0,
        embedding_delay=0,
        prompt_cache=True,
        tells_cached=True,
        release=release,
        context_length=4096,
    )


async def post(simulator: Simulator, path: str = "/api/chat", **body: Any) -> dict[str, Any]:
    asked = {"model": CODER, "stream": False, **body}
    return dict(json.loads((await ask(simulator.url, "POST", path, body=json.dumps(asked).encode())).body))


def coders(behaviour: Behaviour, *others: str) -> Simulator:
    simulator = Simulator(behaviour)
    for name in (CODER, *others):
        simulator.models.add(name, template="{{ .System }}{{ .Tools }}{{ .Messages }}", tools=True)
    return simulator


def chat(*texts: str) -> list[dict[str, str]]:
    """The messages of a chat: the system's, then the user's and the assistant's by turns."""
    roles = ("system", *(("user", "assistant") * len(texts)))
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


LONG = "rules of the house " * 50


@pytest.mark.parametrize("release", RELEASES)
async def test_a_chat_that_goes_on_reuses_prompt_and_answer(behaviour: Behaviour) -> None:
    async with coders(behaviour) as simulator:
        first = await post(simulator, messages=chat(LONG, "go"))
        second = await post(simulator, messages=chat(LONG, "go", first["message"]["content"], "on"))
    assert first["prompt_eval_cached_count"] == 0
    assert second["prompt_eval_cached_count"] >= first["prompt_eval_count"] + first["eval_count"] - 1
    assert second["prompt_eval_count"] - second["prompt_eval_cached_count"] < 40


@pytest.mark.parametrize("release", RELEASES)
async def test_a_changed_beginning_loses_everything_behind_it(behaviour: Behaviour) -> None:
    async with coders(behaviour) as simulator:
        for number in range(3):
            last = await post(simulator, messages=chat(f"{number} {LONG}", "go"))
    assert last["prompt_eval_cached_count"] < 10


async def test_tools_and_their_results_are_part_of_the_prompt(behaviour: Behaviour) -> None:
    tool = {"name": "look", "description": "Look into a file", "input_schema": {"type": "object", "properties": {}}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {"path": "x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "what is in it"}]},
    ]
    asked: dict[str, Any] = {"max_tokens": 4, "tools": [tool], "system": [{"type": "text", "text": LONG}]}

    async def counted(**changed: Any) -> dict[str, int]:
        return dict((await post(simulator, "/v1/messages", **(asked | {"messages": messages} | changed)))["usage"])

    async with coders(behaviour) as simulator:
        first, again = await counted(), await counted()
        other_tool = await counted(tools=[tool | {"description": "Read a file"}])
        no_result = await counted(messages=messages[:2])
    whole = first["input_tokens"]
    assert (first["cache_read_input_tokens"], again["cache_read_input_tokens"]) == (0, whole - 1)
    assert 200 <= other_tool["cache_read_input_tokens"] < whole - 20, "the tools stand after the system's text"
    assert no_result["input_tokens"] + no_result["cache_read_input_tokens"] < whole - 3


async def test_work_takes_time_by_token(behaviour: Behaviour) -> None:
    async with coders(replace(behaviour, prompt_rate=20_000.0)) as simulator:
        rows = [await post(simulator, messages=chat(LONG, "go")) for _ in range(2)]
    for row in rows:
        computed = row["prompt_eval_count"] - row["prompt_eval_cached_count"]
        assert row["prompt_eval_duration"] == pytest.approx(computed * 50_000, abs=1)
        assert row["total_duration"] >= row["prompt_eval_duration"] + row["eval_duration"]


def test_a_token_looks_back_at_all_before_it() -> None:
    even = Behaviour(prompt_rate=100.0)
    assert [even.reading(tokens) for tokens in (0, 100, 300)] == [0.0, 1.0, 3.0]
    back = replace(even, prompt_doubling=100.0)
    assert [back.reading(tokens) for tokens in (0, 100, 200)] == [0.0, 1.5, 4.0]
    assert Behaviour(prompt_doubling=100.0).reading(100) == 0.0


async def test_a_stream_begins_when_its_prompt_was_read(behaviour: Behaviour) -> None:
    async with coders(replace(behaviour, prompt_rate=2_000.0, token_rate=1e6)) as simulator:
        async with await RawConnection.open(simulator.url) as client:
            loop = asyncio.get_running_loop()
            began = loop.time()
            body = {"model": CODER, "messages": chat(LONG, "go")}
            client.send("POST", "/api/chat", body=json.dumps(body).encode())
            await client.head()
            await client.chunk()
            assert loop.time() - began >= 0.1


async def test_one_slot_answers_one_request_at_a_time(behaviour: Behaviour) -> None:
    async with coders(replace(behaviour, prompt_rate=5_000.0)) as simulator:
        rows = await asyncio.gather(*(post(simulator, messages=chat(f"{name} {LONG}", "go")) for name in "ab"))
    waited, at_once = sorted(rows, key=lambda row: -row["total_duration"])
    assert waited["total_duration"] >= waited["prompt_eval_duration"] + at_once["prompt_eval_duration"]
    assert waited["prompt_eval_duration"] <= at_once["prompt_eval_duration"], "waiting is no work"


async def test_each_conversation_has_a_slot_where_there_are_enough(behaviour: Behaviour) -> None:
    for parallel, least in ((1, 0), (2, 100)):
        plain = replace(behaviour, parallel=parallel, release="0.24")
        async with coders(plain) as simulator:
            names = ("one", "two") * 2
            if parallel > 1:  # both at once, so that each takes a slot of its own
                simulator.behaviour = replace(plain, prompt_rate=5_000.0)
                await asyncio.gather(*(post(simulator, messages=chat(f"{name} {LONG}", "go")) for name in names[:2]))
                simulator.behaviour = plain
            found = [await post(simulator, messages=chat(f"{name} {LONG}", "go")) for name in names]
        cached = [row["prompt_eval_cached_count"] for row in found[2:]]
        assert all(count >= least for count in cached)
        assert parallel > 1 or max(cached) < 10


@pytest.mark.parametrize("gone", ["another context", "keep_alive", "another model", "unloaded"])
async def test_a_slot_goes_with_its_model(behaviour: Behaviour, gone: str) -> None:
    asked: dict[str, Any] = {"messages": chat(LONG, "go")}
    async with coders(replace(behaviour, max_loaded=1), "other") as simulator:
        await post(simulator, **asked)
        assert (await post(simulator, **asked))["prompt_eval_cached_count"] > 100
        match gone:
            case "another context":
                asked["options"] = {"num_ctx": 2048}
            case "keep_alive":
                await post(simulator, **asked, keep_alive=0)
            case "another model":
                await post(simulator, **asked, model="other")
            case _:
                await post(simulator, "/api/generate", keep_alive=0)
        assert (await post(simulator, **asked))["prompt_eval_cached_count"] == 0


@pytest.mark.parametrize("release", RELEASES)
async def test_a_prompt_over_the_context_loses_its_beginning(behaviour: Behaviour) -> None:
    """And so everything that was there of it, but for the first tokens, which are never left out."""
    words = [f"w{number}" for number in range(400)]
    async with coders(replace(behaviour, context_length=256)) as simulator:

        async def asked(count: int) -> dict[str, Any]:
            return await post(simulator, "/api/generate", raw=True, prompt=" ".join(words[:count]), **few)

        few: dict[str, Any] = {"options": {"num_predict": 1}}
        fits, grown, over = await asked(200), await asked(210), await asked(400)
    assert fits["prompt_eval_cached_count"] == 0
    assert grown["prompt_eval_cached_count"] == 200
    assert over["prompt_eval_count"] < 257
    assert over["prompt_eval_cached_count"] <= 4


async def test_a_chat_over_the_context_loses_its_first_messages_and_keeps_the_systems(behaviour: Behaviour) -> None:
    async with coders(replace(behaviour, context_length=512)) as simulator:
        texts = ["be brief", *(f"turn {number} " + "word " * 100 for number in range(9))]
        row = await post(simulator, messages=chat(*texts), _debug_render_only=True)
        whole = await post(simulator, messages=chat(*texts[:4]), _debug_render_only=True)
    rendered = row["_debug_info"]["rendered_template"]
    assert [text in rendered for text in ("be brief", "turn 8", "turn 0")] == [True, True, False]
    assert "turn 0" in whole["_debug_info"]["rendered_template"]


async def test_the_context_of_a_generation_is_part_of_its_prompt(behaviour: Behaviour) -> None:
    async with coders(behaviour) as simulator:
        first = await post(simulator, "/api/generate", model="tiny", prompt=LONG, options={"num_predict": 8})
        again = await post(simulator, "/api/generate", model="tiny", prompt=" on", context=first["context"])
    assert again["prompt_eval_cached_count"] > 0.9 * again["prompt_eval_count"]


async def test_what_a_client_that_left_has_had_read_stays(behaviour: Behaviour) -> None:
    async with coders(replace(behaviour, prompt_rate=1_000.0)) as simulator:
        body = json.dumps({"model": CODER, "messages": chat(LONG, "go")}).encode()
        async with await RawConnection.open(simulator.url) as client:
            client.send("POST", "/api/chat", body=body)
            await simulator.arrived(1)
            await asyncio.sleep(0.1)
        await until(lambda: simulator.cancelled == 1)
        simulator.behaviour = behaviour
        found = (await post(simulator, messages=chat(LONG, "go")))["prompt_eval_cached_count"]
    assert 50 <= found < 300
