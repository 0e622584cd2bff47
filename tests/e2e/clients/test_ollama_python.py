"""ollama-python, unchanged and pointed at the proxy by its host only, gets what it gets from Ollama itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ollama
import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.clients.twins import EVERYTHING, SLOW, Case, check, counted, has_left, results, seen, twice
from tests.support.servers import Proxy, proxy_before

BRIEF = {"temperature": 0, "num_predict": 8}
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}, "required": ["b"]}
CLIENTS = {"sync": ollama.Client, "async": ollama.AsyncClient}


def weather(city: str) -> str:
    """Say how the weather is.

    Args:
        city: where

    """
    return f"fine in {city}"


def generate(client: Any, prompt: str = "why?", model: str = "tiny", **more: Any) -> Any:
    return client.generate(model, prompt, options=BRIEF, **more)


def chat(client: Any, **more: Any) -> Any:
    return client.chat("tiny", HELLO, options=BRIEF, **more)


CASES = {
    "generate": Case(twice(generate), "generate miss, generate hit"),
    "generate with more": Case(
        twice(lambda c: generate(c, system="be brief", keep_alive="5m", logprobs=True, top_logprobs=2)),
        "generate miss, generate hit",
    ),
    "generate by a schema": Case(twice(lambda c: generate(c, format=SCHEMA)), "generate miss, generate hit"),
    "generate whatever keep_alive": Case(
        (lambda c: generate(c, keep_alive=60), lambda c: generate(c, keep_alive="2h")), "generate miss, generate hit"
    ),
    "generate a stream": Case(twice(lambda c: generate(c, stream=True)), "generate bypass, generate bypass"),
    "load and unload": Case(
        (lambda c: c.generate("tiny"), lambda c: c.generate("tiny", keep_alive=0)),
        "generate bypass, generate bypass",
    ),
    "chat": Case(twice(chat), "chat bypass, chat bypass"),
    "chat a stream": Case(twice(lambda c: chat(c, stream=True)), "chat bypass, chat bypass"),
    "chat with tools": Case(
        (lambda c: chat(c, tools=[weather]), lambda c: chat(c, tools=[weather], stream=True)),
        "chat bypass, chat bypass",
        "does not support tools",
    ),
    "embed a text": Case(twice(lambda c: c.embed("all-minilm", "a text")), "embed miss, embed hit"),
    "embed a list": Case(twice(lambda c: c.embed("all-minilm", ["one", "two"])), "embed miss, embed hit"),
    "embed with more": Case(
        twice(lambda c: c.embed("all-minilm", "a text", truncate=True, dimensions=8, keep_alive="1m")),
        "embed miss, embed hit",
    ),
    "embeddings": Case(twice(lambda c: c.embeddings("all-minilm", "a text")), "embeddings miss, embeddings hit"),
    "list": Case(twice(lambda c: c.list()), "tags bypass, tags bypass"),
    "show": Case(twice(lambda c: c.show("tiny")), "show bypass, show bypass"),
    "ps": Case((generate, lambda c: c.ps()), "generate miss, ps bypass"),
    "copy": Case(
        (generate, lambda c: c.copy("tiny", "other"), lambda c: generate(c, model="other"), lambda c: c.list()),
        "generate miss, copy bypass, generate miss, tags bypass",
    ),
    "delete": Case(
        (generate, lambda c: c.delete("tiny"), lambda c: c.delete("tiny"), generate),
        "generate miss, delete bypass, delete bypass, generate bypass",
        "not found",
    ),
    "create": Case(
        (
            lambda c: c.create("mine", from_="tiny", system="be brief"),
            lambda c: generate(c, model="mine"),
            lambda c: c.create("mine", from_="tiny", system="be long", stream=True),
            lambda c: generate(c, model="mine"),
            lambda c: generate(c, model="mine"),
        ),
        "create bypass, generate miss, create bypass, generate miss, generate hit",
    ),
    "create of nothing": Case((lambda c: c.create("mine"),), "create bypass", "neither 'from' or 'files'"),
    "pull": Case((lambda c: c.pull("tiny"),), "pull bypass"),
    "pull what is not there": Case(
        (lambda c: c.pull("nobody/nothing"), lambda c: c.pull("nobody/nothing", stream=True)),
        "pull bypass, pull bypass",
        "pull model manifest",
    ),
    "a missing model": Case(
        (
            lambda c: generate(c, model="missing"),
            lambda c: generate(c, model="missing", stream=True),
            lambda c: c.embed("missing", "a text"),
            lambda c: c.chat("missing", HELLO),
            lambda c: c.show("missing"),
        ),
        "generate bypass, generate bypass, embed bypass, chat bypass, show bypass",
        "not found",
    ),
}


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("name", CASES)
async def test_as_directly(name: str, kind: str, simulator: Simulator, direct: Simulator, proxy: Proxy) -> None:
    make, case = CLIENTS[kind], CASES[name]
    alone = await results(make(host=direct.url), case.calls)
    check(alone, await results(make(host=proxy.url), case.calls), case.refusal)
    assert await seen(proxy) == counted(case.seen)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("name", CASES)
async def test_as_directly_with_everything_cached(
    name: str, kind: str, simulator: Simulator, direct: Simulator
) -> None:
    make, case = CLIENTS[kind], CASES[name]
    alone = await results(make(host=direct.url), case.calls * 2)
    async with proxy_before(simulator.url, **EVERYTHING) as proxy:
        check(alone, await results(make(host=proxy.url), case.calls * 2), case.refusal)
        counts = await seen(proxy)
    if "stream" in name or name in ("chat", "complete", "generate"):
        asked = sum(counts.values())
        assert sum(count for how, count in counts.items() if how.endswith(" hit")) >= asked / 2, counts
        assert not any("bypass" in how for how in counts), counts


@pytest.mark.parametrize("kind", CLIENTS)
async def test_an_upload(kind: str, simulator: Simulator, direct: Simulator, proxy: Proxy, tmp_path: Path) -> None:
    """One client announces a length, the other sends chunks."""
    path = tmp_path / "weights.gguf"
    weights = bytes(range(256)) * 4096
    path.write_bytes(weights)
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
    case = Case(
        (
            lambda c: c.create_blob(path),
            lambda c: c.create("mine", files={path.name: digest}),
            lambda c: generate(c, model="mine"),
        ),
        "other bypass, create bypass, generate miss",
    )
    alone = await results(CLIENTS[kind](host=direct.url), case.calls)
    check(alone, await results(CLIENTS[kind](host=proxy.url), case.calls), case.refusal)
    assert await seen(proxy) == counted(case.seen)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", ":{}"])
async def test_pointed_by_the_environment(form: str, kind: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", form.format(proxy.url.rpartition(":")[2]))
    case = CASES["generate"]
    first, again = await results(CLIENTS[kind](), case.calls)
    assert first == again
    assert await seen(proxy) == counted(case.seen)


async def test_both_kinds_share_what_is_cached(proxy: Proxy) -> None:
    for make in CLIENTS.values():
        await results(make(host=proxy.url), (generate,))
    assert await seen(proxy) == counted(CASES["generate"].seen)


@pytest.mark.parametrize("kind", CLIENTS)
async def test_without_an_ollama(kind: str, simulator: Simulator, proxy: Proxy) -> None:
    await simulator.stop()
    (found,) = await results(CLIENTS[kind](host=proxy.url), (lambda client: client.list(),))
    assert (found["raised"], found["status"]) == ("ResponseError", 502)


async def test_leaving_in_mid_stream() -> None:
    async with Simulator(SLOW) as simulator, proxy_before(simulator.url) as proxy:
        async with ollama.AsyncClient(host=proxy.url) as client:
            stream = await client.generate("tiny", "why?", stream=True)
            assert not (await anext(stream)).done
            await stream.aclose()
            await has_left(simulator)
        assert await seen(proxy) == {"generate bypass": 1}
