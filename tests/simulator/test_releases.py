"""What differs between the simulated releases beyond what was recorded, and what others ask of the newer one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator, releases
from ollama_cache_proxy.simulator.releases import NEWEST, RELEASES, Release
from tests.support.rawhttp import RawAnswer, ask

MESSAGES = [{"role": "user", "content": "one two three four"}]
LONG = "word " * 5000


@pytest.fixture
async def simulator(release: str) -> AsyncIterator[Simulator]:
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0, release=release)) as running:
        yield running


async def post(simulator: Simulator, path: str, **body: Any) -> RawAnswer:
    return await ask(simulator.url, "POST", path, body=json.dumps(body).encode())


async def rows(simulator: Simulator, path: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((await ask(simulator.url, "GET", path)).body)["models"]}


def test_each_field_of_a_release_differs_somewhere() -> None:
    for field in fields(Release):
        assert len({repr(getattr(release, field.name)) for release in RELEASES.values()}) > 1, field.name
    assert list(RELEASES)[-1] == NEWEST


@pytest.mark.parametrize("release", RELEASES)
async def test_both_have_the_models_that_tests_use(simulator: Simulator) -> None:
    models = await rows(simulator, "/api/tags")
    assert set(models) == {"all-minilm:latest", "small:latest", "tiny:latest", "tiny2:latest"}
    assert {json.loads((await ask(simulator.url, "GET", "/api/version")).body)["version"]} == {
        RELEASES[simulator.behaviour.release].version
    }


async def test_lists_tell_what_a_model_can_do_and_its_lengths(simulator: Simulator) -> None:
    simulator.models.add("bge", embedding=True, width=48)
    simulator.models.add("thinker", thinking=True)
    models = await rows(simulator, "/api/tags")
    assert models["bge:latest"]["capabilities"] == ["embedding"]
    assert models["bge:latest"]["details"]["embedding_length"] == 48
    assert models["thinker:latest"]["capabilities"] == ["completion", "thinking"]
    assert models["thinker:latest"]["details"]["context_length"] == 4096
    # Ollama stops reading a GGUF file at its tokenizer; this one has its other keys behind it.
    assert models["all-minilm:latest"]["capabilities"] == ["completion"]
    assert "embedding_length" not in models["all-minilm:latest"]["details"]


@pytest.mark.parametrize("release", RELEASES)
async def test_a_model_is_loaded_with_the_context_that_is_asked_for(simulator: Simulator) -> None:
    usual = simulator.release.context_length
    for options, expected in (({}, usual), ({"num_ctx": 64}, 64), ({"num_ctx": 10**6}, 4096)):
        await post(simulator, "/api/generate", model="tiny", prompt="x", options=options)
        assert (await rows(simulator, "/api/ps"))["tiny:latest"]["context_length"] == expected
    answer = await post(simulator, "/api/embed", model="all-minilm", input=LONG, options={"num_ctx": 32})
    assert json.loads(answer.body)["prompt_eval_count"] == 32


async def test_a_fourth_model_takes_the_place_of_the_one_that_is_kept_shortest(simulator: Simulator) -> None:
    for model, keep_alive in (("tiny", "9m"), ("tiny2", "1m"), ("small", "5m"), ("all-minilm", "5m")):
        await post(simulator, "/api/embed", model=model, input=[], keep_alive=keep_alive)
    assert set(await rows(simulator, "/api/ps")) == {"tiny:latest", "small:latest", "all-minilm:latest"}


@pytest.mark.parametrize("release", ["0.24"])
async def test_the_older_one_cuts_off_what_is_over(simulator: Simulator) -> None:
    answer = await post(simulator, "/api/generate", model="tiny", prompt=LONG, stream=False)
    assert json.loads(answer.body)["prompt_eval_count"] == 512


async def test_the_newer_one_cuts_off_half(simulator: Simulator) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": LONG, "stream": False}
    counts = [
        json.loads((await post(simulator, "/api/generate", **asked, options=options)).body)["prompt_eval_count"]
        for options in ({}, {"num_keep": 100}, {"num_ctx": 256})
    ]
    assert counts == [2050, 2098, 130]
    refused = await post(simulator, "/api/generate", **asked, truncate=False)
    error = json.loads(json.loads(refused.body)["error"])["error"]
    assert (refused.status, error["type"], error["n_ctx"]) == (400, "exceed_context_size_error", 4096)


async def test_a_remote_model_is_in_the_list_and_does_not_run(simulator: Simulator) -> None:
    assert (await post(simulator, "/api/pull", model="stub", stream=False)).status == 200
    row = (await rows(simulator, "/api/tags"))["stub:latest"]
    assert (row["remote_model"], row["details"]["families"], "capabilities" in row) == ("llama3", None, False)
    for path, given in (("/api/generate", {"prompt": "x"}), ("/v1/chat/completions", {"messages": MESSAGES})):
        assert (await post(simulator, path, model="stub", **given)).status == 400


async def test_a_template_in_the_weights_can_write_the_date(simulator: Simulator) -> None:
    await post(simulator, "/api/pull", model="tinyj")
    answer = await post(simulator, "/api/chat", model="tinyj", messages=MESSAGES, stream=False, _debug_render_only=True)
    rendered = json.loads(answer.body)["_debug_info"]["rendered_template"]
    today = datetime.now(UTC).date().isoformat()
    assert rendered == f"Today is {today}\n<|im_start|>user: one two three four<|im_end|>assistant:"
    shown = json.loads((await post(simulator, "/api/show", model="tinyj")).body)
    assert "strftime_now" in shown["template"]
    own = await post(simulator, "/api/generate", model="tinyj", prompt="x", template="{{ .Prompt }}", stream=False)
    assert json.loads(own.body)["prompt_eval_count"] == 1


async def test_quantizing_is_silent_until_it_is_done(simulator: Simulator) -> None:
    given = {"model": "q", "from": "tiny", "quantize": "q8_0"}
    statuses = [json.loads(chunk)["status"] for chunk in (await post(simulator, "/api/create", **given)).chunks]
    assert (statuses[0], statuses[-1]) == ("verifying conversion", "success")


async def test_a_default_penalty_is_the_named_one(simulator: Simulator) -> None:
    async def text(**options: float) -> str:
        given = {"temperature": 0, "num_predict": 12} | options
        answer = await post(simulator, "/api/generate", model="tiny", prompt="once", stream=False, options=given)
        return str(json.loads(answer.body)["response"])

    default = await text()
    assert await text(repeat_penalty=1.0) == default != await text(repeat_penalty=1.1)
    simulator.behaviour = replace(simulator.behaviour, release="0.24")
    assert await text(repeat_penalty=1.1) == await text()


# Tokens from the prompt cache.

USAGE = {
    "/api/generate": {"prompt": MESSAGES[0]["content"], "stream": False},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": MESSAGES[0]["content"]},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 8},
    "/v1/responses": {"input": MESSAGES[0]["content"]},
}


def usage(path: str, document: dict[str, Any]) -> tuple[int, int | None]:
    """Tokens of the prompt, and those of them that came from the cache, None if it is not told."""
    told = document.get("usage", document)
    if path == "/v1/messages":
        cached = told.get("cache_read_input_tokens")
        return told["input_tokens"] + (cached or 0), cached
    if path == "/v1/responses":
        return told["input_tokens"], told["input_tokens_details"]["cached_tokens"]
    if path.startswith("/v1"):
        return told["prompt_tokens"], told.get("prompt_tokens_details", {}).get("cached_tokens")
    return told["prompt_eval_count"], told.get("prompt_eval_cached_count")


@pytest.mark.parametrize("path", USAGE)
async def test_tokens_from_the_prompt_cache(path: str, simulator: Simulator) -> None:
    async def asked() -> tuple[int, int | None]:
        return usage(path, json.loads((await post(simulator, path, model="tiny", **USAGE[path])).body))

    nothing = 0 if path == "/v1/responses" else None
    assert [await asked(), await asked()] == [(4, nothing), (4, nothing)], "neither cached nor told"
    simulator.behaviour = replace(simulator.behaviour, prompt_cache=True)
    assert await asked() == (4, nothing), "cached, not told"
    simulator.behaviour = replace(simulator.behaviour, tells_cached=True)
    assert await asked() == (4, 3), "the last token is always worked on"


async def test_what_is_cached_of_a_prompt_takes_no_time(simulator: Simulator) -> None:
    """A tenth of the time of a whole prompt is spent on it, and so much less the less of it has to be worked on."""
    simulator.behaviour = Behaviour(completion_delay=0.001, prompt_cache=True)
    prompt = "word " * 400
    spent = [
        json.loads((await post(simulator, "/api/generate", model="tiny", prompt=prompt, stream=False)).body)
        for _ in range(2)
    ]
    assert [row["prompt_eval_count"] for row in spent] == [400, 400]
    for row, share in zip(spent, (10, 4000), strict=True):
        assert row["prompt_eval_duration"] == (row["total_duration"] - row["load_duration"]) // share


# What a real 0.33.0-rc2 was asked beside the recording, with what it answered.

IMAGE = "data:image/png;base64,aGVsbG8="
EFFORTS = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'


def chat_with(url: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": "bar"}, {"type": "image_url", "image_url": url}]
    return {"messages": [{"role": "user", "content": parts}]}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", chat_with({"url": IMAGE}), releases.NO_IMAGES),
    ("/v1/chat/completions", chat_with(IMAGE) | {"stream": True}, releases.NO_IMAGES),
    ("/v1/chat/completions", chat_with("data:image/bmp;base64,aGVsbG8="), "invalid image input"),
    ("/v1/chat/completions", chat_with("data:image/png;base64,a"), "invalid image input"),
    ("/v1/chat/completions", chat_with({"uri": IMAGE}), "invalid message format"),
    (
        "/v1/chat/completions",
        chat_with("https://localhost/a.png"),
        "image URLs are not currently supported, please use base64 encoded data instead",
    ),
    (
        "/v1/responses",
        {"input": "hi", "reasoning": {"effort": "huge"}},
        f'invalid reasoning value: "huge" (must be {EFFORTS})',
    ),
    ("/v1/responses", {"input": "hi", "reasoning": {"effort": "xhigh"}}, '"tiny" does not support thinking'),
]


@pytest.mark.parametrize(("path", "given", "message"), REFUSED)
async def test_what_the_compatible_routes_refuse(
    path: str, given: dict[str, Any], message: str, simulator: Simulator
) -> None:
    answer = await post(simulator, path, model="tiny", **given)
    assert (answer.status, json.loads(answer.body)["error"]["message"]) == (400, message)


async def test_a_missing_model_is_named_with_its_tag(simulator: Simulator) -> None:
    answer = await ask(simulator.url, "GET", "/v1/models/nope")
    assert json.loads(answer.body)["error"]["message"] == "model 'nope:latest' not found"


async def test_an_empty_text_has_a_vector_of_its_own(simulator: Simulator) -> None:
    row = json.loads((await post(simulator, "/api/embed", model="all-minilm", input=["hi", ""])).body)
    assert (len(row["embeddings"]), row["prompt_eval_count"]) == (2, 5)


async def test_bf16_is_made_too(simulator: Simulator) -> None:
    made = await post(simulator, "/api/create", model="b", **{"from": "tiny", "quantize": "bf16", "stream": False})
    assert json.loads(made.body) == {"status": "success"}
    assert (await rows(simulator, "/api/tags"))["b:latest"]["details"]["quantization_level"] == "BF16"


@pytest.mark.parametrize("release", RELEASES)
async def test_streams_of_agents_say_no_cache(simulator: Simulator) -> None:
    for path, given in (("/v1/messages", {"messages": MESSAGES, "max_tokens": 4}), ("/v1/responses", {"input": "hi"})):
        answer = await post(simulator, path, model="tiny", stream=True, **given)
        assert answer.field("Cache-Control") == "no-cache"
