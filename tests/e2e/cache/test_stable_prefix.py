"""Marks that are pinned in prompts where a setting says so: what Ollama gets, what clients are told, what is kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import proxy_before
from tests.support.waiting import until

PATH = "/v1/messages"
AGENT = {"User-Agent": "claude-cli/2.1.114 (external, cli)"}
PINNED: dict[str, Any] = {"stable_prefix": ["claude-code"], "cache_v1_messages": "always", "cache_streams": True}


def body(mark: str = "ea6aa", *, stream: bool = False) -> bytes:
    text = f"x-anthropic-billing-header: cc_version=2.1.114.76c; cc_entrypoint=cli; cch={mark};"
    asked = {
        "model": "tiny",
        "max_tokens": 8,
        "temperature": 0,
        "messages": [{"role": "user", "content": "why"}],
        "system": [{"type": "text", "text": text}, {"type": "text", "text": "Write code."}],
        "stream": stream,
    }
    return json.dumps(asked).encode()


def sent(simulator: Simulator) -> list[bytes]:
    return [one.body for one in simulator.received if one.method == "POST"]


async def post(url: str, raw: bytes, path: str = PATH, **fields: str) -> RawAnswer:
    return await ask(url, "POST", path, body=raw, fields={**AGENT, **fields})


@pytest.mark.parametrize("stream", [False, True])
async def test_ollama_gets_the_same_beginning_for_each_mark_and_nothing_is_kept(
    stream: bool, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, **PINNED) as proxy:
        answers = [await post(proxy.url, body(mark, stream=stream)) for mark in ("ea6aa", "01234", "01234")]
        assert [answer.status for answer in answers] == [200] * 3
        told = "ollama-cache-proxy; fwd=bypass; detail=prefix-stabilised"
        assert [answer.field("Cache-Status") for answer in answers] == [told] * 3
        pinned = body("00000", stream=stream).replace(b".76c;", b".000;")
        assert sent(simulator) == [pinned] * 3
        assert json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"] == []
        assert proxy.log.getvalue().count("BYPASS: prefix-stabilised (claude-code)") == 3
        metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert 'detail="prefix-stabilised"' in metrics


async def test_nobody_joins_a_request_that_was_changed(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **PINNED) as proxy:
        simulator.gate.close()
        tasks = [asyncio.create_task(post(proxy.url, body())) for _ in range(2)]
        await until(lambda: simulator.inferences == 2)
        simulator.gate.open()
        assert {(await task).status for task in tasks} == {200}


async def test_it_is_not_looked_up_where_the_same_request_was_kept_before(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_v1_messages="always") as proxy:
        assert [(await post(proxy.url, body())).field("X-Cache") for _ in range(2)] == ["MISS", "HIT"]
        assert sent(simulator) == [body()], "off, it is sent as it came"


@pytest.mark.parametrize(
    ("raw", "path", "fields"),
    [
        pytest.param(body("ea6a"), PATH, {}, id="another mark"),
        pytest.param(body(), PATH, {"User-Agent": "curl/8.9"}, id="another client"),
        pytest.param(b" " + body("ea6ax") + b"\n", PATH, {}, id="blanks around"),
        pytest.param(body(), f"{PATH}/count_tokens", {}, id="counted"),
    ],
)
async def test_what_no_rule_fits_passes_byte_for_byte(
    raw: bytes, path: str, fields: dict[str, str], simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, **PINNED) as proxy:
        direct = await post(simulator.url, raw, path, **fields)
        through = await post(proxy.url, raw, path, **fields)
        assert through.status == direct.status
        assert sent(simulator) == [raw, raw]
        assert "prefix-stabilised" not in (through.field("Cache-Status") or "")


async def test_explain_says_so(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **PINNED) as proxy:
        question = {"path": PATH, "headers": AGENT, "body": body().decode()}
        asked = await post(proxy.url, json.dumps(question).encode(), "/api/cache/explain")
        assert "prefix-stabilised" in asked.body.decode()
        assert sent(simulator) == []


async def test_a_rule_of_ones_own(simulator: Simulator) -> None:
    rules = {"turns": {"path": "messages[0].content", "pattern": "^Turn ([0-9]+)\\.", "client": "agent/"}}
    settings: dict[str, Any] = {"stable_prefix": ["turns"], "stable_prefix_rules": rules}
    asked = {"model": "tiny", "messages": [{"role": "system", "content": "Turn 17. Write code."}], "stream": False}
    raw = json.dumps(asked).encode()
    async with proxy_before(simulator.url, **settings) as proxy:
        answer = await post(proxy.url, raw, "/api/chat", **{"User-Agent": "agent/2"})
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=prefix-stabilised"
        assert sent(simulator) == [raw.replace(b"17", b"00")]
