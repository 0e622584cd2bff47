"""OpenAI's Python SDK, unchanged and pointed at the proxy by its base URL only, gets what it gets from Ollama itself."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.clients.twins import EVERYTHING, SLOW, Case, check, counted, has_left, results, seen, twice
from tests.support.servers import Proxy, proxy_before

HELLO = [{"role": "user", "content": "hello"}]
USAGE = {"include_usage": True}
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}, "required": ["b"]}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
TURNS = [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CLIENTS = {"sync": openai.OpenAI, "async": openai.AsyncOpenAI}


def client(kind: str, url: str, **more: Any) -> Any:
    return CLIENTS[kind](base_url=f"{url}/v1", api_key="unused", **more)


def chat(c: Any, model: str = "tiny", **more: Any) -> Any:
    return c.chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=8, **more)


def complete(c: Any, model: str = "tiny", **more: Any) -> Any:
    return c.completions.create(model=model, prompt="why?", temperature=0, max_tokens=8, **more)


def respond(c: Any, model: str = "tiny", **more: Any) -> Any:
    return c.responses.create(model=model, temperature=0, max_output_tokens=8, **({"input": "hello"} | more))


def embed(c: Any, text: str | list[str] = "a text", model: str = "all-minilm", **more: Any) -> Any:
    return c.embeddings.create(model=model, input=text, **more)


CASES = {
    "chat": Case(twice(chat), "v1-chat bypass, v1-chat bypass"),
    "chat a stream": Case(
        (lambda c: chat(c, stream=True), lambda c: chat(c, stream=True, stream_options=USAGE)),
        "v1-chat bypass, v1-chat bypass",
    ),
    "chat by a schema": Case((lambda c: chat(c, response_format=BY_SCHEMA),), "v1-chat bypass"),
    "complete": Case(twice(complete), "v1-completions bypass, v1-completions bypass"),
    "complete a stream": Case(
        (lambda c: complete(c, stream=True), lambda c: complete(c, stream=True, stream_options=USAGE)),
        "v1-completions bypass, v1-completions bypass",
    ),
    "respond": Case(twice(respond), "v1-responses bypass, v1-responses bypass"),
    "respond a stream": Case(twice(lambda c: respond(c, stream=True)), "v1-responses bypass, v1-responses bypass"),
    "respond with items and functions": Case(
        (
            lambda c: respond(c, input=TURNS, instructions="be brief", store=False),
            lambda c: respond(c, input=TURNS, tools=[FUNCTION]),
        ),
        "v1-responses bypass, v1-responses bypass",
        "does not support tools",
    ),
    "embed a text": Case(twice(embed), "v1-embeddings miss, v1-embeddings hit"),
    "embed a list": Case(twice(lambda c: embed(c, ["one", "two"])), "v1-embeddings miss, v1-embeddings hit"),
    "embed as floats": Case(
        (*twice(lambda c: embed(c, encoding_format="float", dimensions=8)), lambda c: embed(c, dimensions=8)),
        "v1-embeddings miss, v1-embeddings hit, v1-embeddings hit",
    ),
    "embed whoever asks": Case(
        (lambda c: embed(c, user="one"), lambda c: embed(c, user="two")), "v1-embeddings miss, v1-embeddings hit"
    ),
    "list": Case(twice(lambda c: c.models.list()), "v1-models bypass, v1-models bypass"),
    "retrieve": Case((lambda c: c.models.retrieve("tiny"),), "other bypass"),
    "a missing model": Case(
        (
            lambda c: chat(c, "missing"),
            lambda c: chat(c, "missing", stream=True),
            lambda c: complete(c, "missing"),
            lambda c: respond(c, "missing"),
            lambda c: embed(c, model="missing"),
            lambda c: c.models.retrieve("missing"),
        ),
        "v1-chat bypass, v1-chat bypass, v1-completions bypass, v1-responses bypass, v1-embeddings bypass,"
        " other bypass",
        "not found",
    ),
    "what is no request": Case(
        (lambda c: embed(c, []), lambda c: c.chat.completions.create(model="tiny", messages=[])),
        "v1-embeddings bypass, v1-chat bypass",
        "Error code: 400",
    ),
}


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("name", CASES)
async def test_as_directly(name: str, kind: str, simulator: Simulator, direct: Simulator, proxy: Proxy) -> None:
    case = CASES[name]
    alone = await results(client(kind, direct.url), case.calls)
    check(alone, await results(client(kind, proxy.url), case.calls), case.refusal)
    assert await seen(proxy) == counted(case.seen)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("name", CASES)
async def test_as_directly_with_everything_cached(
    name: str, kind: str, simulator: Simulator, direct: Simulator
) -> None:
    case = CASES[name]
    alone = await results(client(kind, direct.url), case.calls * 2)
    async with proxy_before(simulator.url, **EVERYTHING) as proxy:
        check(alone, await results(client(kind, proxy.url), case.calls * 2), case.refusal)
        counts = await seen(proxy)
    if "stream" in name or name in ("chat", "complete", "respond"):
        asked = sum(counts.values())
        assert sum(count for how, count in counts.items() if how.endswith(" hit")) >= asked / 2, counts
        assert not any("bypass" in how for how in counts), counts


async def test_a_missing_model_is_an_error_of_the_sdk_s_own(proxy: Proxy) -> None:
    found = await results(client("async", proxy.url), CASES["a missing model"].calls)
    assert {(result["raised"], result["status"]) for result in found} == {("NotFoundError", 404)}


async def test_vectors_in_base64_are_the_same_numbers(proxy: Proxy) -> None:
    """The SDK asks for base64 unless told otherwise, and gives numbers all the same."""
    packed, plain = await results(client("async", proxy.url), (embed, lambda c: embed(c, encoding_format="float")))
    assert packed["data"][0]["embedding"] == pytest.approx(plain["data"][0]["embedding"])
    assert await seen(proxy) == {"v1-embeddings miss": 1, "v1-embeddings hit": 1}


@pytest.mark.parametrize("kind", CLIENTS)
async def test_pointed_by_the_environment(kind: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{proxy.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    case = CASES["embed a text"]
    first, again = await results(CLIENTS[kind](), case.calls)
    assert first == again
    assert await seen(proxy) == counted(case.seen)


@pytest.mark.parametrize(("keys", "again"), [(("one", "one"), "hit"), (("one", "two"), "miss")])
async def test_keys_of_their_own_share_nothing(keys: tuple[str, str], again: str, proxy: Proxy) -> None:
    for key, kind in zip(keys, CLIENTS, strict=True):
        await results(CLIENTS[kind](base_url=f"{proxy.url}/v1", api_key=key), (embed,))
    assert await seen(proxy) == counted(f"v1-embeddings miss, v1-embeddings {again}")


async def test_the_cache_shows_in_the_raw_response(proxy: Proxy) -> None:
    async with client("async", proxy.url) as c:
        answers = [await c.embeddings.with_raw_response.create(model="all-minilm", input="x") for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT"]
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("kind", CLIENTS)
async def test_without_an_ollama(kind: str, simulator: Simulator, proxy: Proxy) -> None:
    await simulator.stop()
    (found,) = await results(client(kind, proxy.url, max_retries=0), (lambda c: c.models.list(),))
    assert (found["raised"], found["status"]) == ("InternalServerError", 502)


async def test_leaving_in_mid_stream() -> None:
    async with Simulator(SLOW) as simulator, proxy_before(simulator.url) as proxy:
        async with client("async", proxy.url) as c:
            stream = await chat(c, stream=True)
            assert (await anext(stream)).choices
            await stream.close()
            await has_left(simulator)
        assert await seen(proxy) == {"v1-chat bypass": 1}
