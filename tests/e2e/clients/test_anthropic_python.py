"""Anthropic's Python SDK, unchanged and pointed at the proxy by its base URL only, gets what it gets from Ollama."""

from __future__ import annotations

from functools import partial
from typing import Any

import anthropic
import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.clients import twins
from tests.e2e.clients.twins import (
    EVERYTHING,
    SLOW,
    Case,
    check,
    counted,
    has_left,
    refused,
    seen,
    settled,
    twice,
)
from tests.support.servers import Proxy, proxy_before

HELLO = [{"role": "user", "content": "hello"}]
BLOCKS = [{"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]}]
BRIEF = [{"type": "text", "text": "be brief"}]
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
results = partial(twins.results, errors=(anthropic.APIError,))
CLIENTS = {"sync": anthropic.Anthropic, "async": anthropic.AsyncAnthropic}


def client(kind: str, url: str, **more: Any) -> Any:
    return CLIENTS[kind](base_url=url, api_key="unused", **more)


def message(c: Any, model: str = "tiny", **more: Any) -> Any:
    return c.messages.create(model=model, **({"messages": HELLO, "max_tokens": 8} | more))


def beta(c: Any, **more: Any) -> Any:
    return c.beta.messages.create(model="tiny", messages=HELLO, max_tokens=8, **more)


CASES = {
    "message": Case(twice(message), "v1-messages bypass, v1-messages bypass"),
    "message a stream": Case(twice(lambda c: message(c, stream=True)), "v1-messages bypass, v1-messages bypass"),
    "message of blocks": Case(
        twice(
            lambda c: message(
                c, messages=BLOCKS, system=BRIEF, stop_sequences=["never"], extra_body={"temperature": 0, "top_k": 1}
            )
        ),
        "v1-messages bypass, v1-messages bypass",
    ),
    "message with tools": Case(
        (lambda c: message(c, tools=[TOOL]), lambda c: message(c, tools=[TOOL], stream=True)),
        "v1-messages bypass, v1-messages bypass",
        "does not support tools",
    ),
    "message with a search": Case(
        (lambda c: message(c, tools=[SEARCH]),), "v1-messages bypass", "does not support tools"
    ),
    "beta": Case((*twice(beta), message), "v1-messages bypass, v1-messages bypass, v1-messages bypass"),
    "beta a stream": Case(twice(lambda c: beta(c, stream=True)), "v1-messages bypass, v1-messages bypass"),
    "count tokens": Case(
        (lambda c: c.messages.count_tokens(model="tiny", messages=HELLO),), "v1-count-tokens bypass", "404"
    ),
    "a missing model": Case(
        (lambda c: message(c, "missing"), lambda c: message(c, "missing", stream=True)),
        "v1-messages bypass, v1-messages bypass",
        "not found",
    ),
    "what is no request": Case(
        (lambda c: message(c, messages=[]), lambda c: message(c, max_tokens=0)),
        "v1-messages bypass, v1-messages bypass",
        "Error code: 400",
    ),
}
CACHED = ("message", "message of blocks", "beta", "message a stream", "beta a stream")


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
    asked = sum(counts.values())
    if name in CACHED:
        assert counts == {"v1-messages miss": 1, "v1-messages hit": asked - 1}
    else:
        assert not any(how.endswith(" hit") for how in counts), counts


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_hit_is_the_stored_message_with_its_id(stream: bool, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **EVERYTHING) as proxy, client("async", proxy.url) as c:
        if stream:
            found = []
            for _ in range(2):
                async with c.messages.stream(model="tiny", messages=HELLO, max_tokens=8) as events:
                    found.append(await events.get_final_message())
        else:
            found = [await message(c) for _ in range(2)]
        assert found[0].content[0].text
        assert found[0].id.startswith("msg_")
        assert found[0].model_dump() == found[1].model_dump()
        assert await seen(proxy) == {"v1-messages miss": 1, "v1-messages hit": 1}


async def test_keys_of_their_own_share_nothing(simulator: Simulator) -> None:
    """The SDK shows an `api_key` as it shows an `auth_token`: as a Bearer."""
    async with proxy_before(simulator.url, **EVERYTHING) as proxy:
        for credentials in ({"api_key": "one"}, {"api_key": "two"}, {"auth_token": "one"}, {"api_key": "one"}):
            await results(anthropic.AsyncAnthropic(base_url=proxy.url, **credentials), (message,))
        assert await seen(proxy) == {"v1-messages miss": 2, "v1-messages hit": 2}


@pytest.mark.parametrize("kind", CLIENTS)
async def test_pointed_by_the_environment(kind: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", proxy.url)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "unused")
    first, again = await results(CLIENTS[kind](), CASES["message"].calls)
    assert first == again
    assert await seen(proxy) == counted(CASES["message"].seen)


async def test_an_error_of_the_proxys_own_is_one_of_the_sdks(simulator: Simulator, proxy: Proxy) -> None:
    await simulator.stop()
    async with client("async", proxy.url, max_retries=0) as c:
        with pytest.raises(anthropic.InternalServerError) as raised:
            await message(c)
    assert refused(raised.value)["status"] == 502
    told = settled(raised.value.body)
    assert (told["type"], told["error"]["type"]) == ("error", "api_error")
    assert told["error"]["message"].startswith("Ollama at 127.0.0.1:")


async def test_leaving_in_mid_stream() -> None:
    async with Simulator(SLOW) as simulator, proxy_before(simulator.url) as proxy:
        async with client("async", proxy.url) as c:
            stream = await message(c, stream=True)
            assert (await anext(stream)).type == "message_start"
            await stream.close()
            await has_left(simulator)
        assert await seen(proxy) == {"v1-messages bypass": 1}
