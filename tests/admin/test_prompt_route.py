"""`GET /api/cache/prompts`, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.admin import prompt_route
from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before

PATH = "/api/cache/prompts"


@pytest.mark.parametrize(("settings", "watched"), [({}, True), ({"prompt_watch": False}, False)])
async def test_before_anything_was_asked(simulator: Simulator, settings: dict[str, Any], watched: bool) -> None:
    assert PATH in prompt_route.prompt_routes(dict)
    async with proxy_before(simulator.url, **settings) as proxy:
        answer = await ask(proxy.url, "GET", PATH)
    found = json.loads(answer.body)
    assert found.pop("since") > 0
    assert found == {
        "prompts": 0,
        "tokens": 0,
        "reusedTokens": 0,
        "seconds": 0.0,
        "lostSeconds": 0.0,
        "error": None,
        "sentence": "",
        "findings": [],
        "watched": watched,
        "workers": 1,
    }


async def test_it_is_read_and_not_written(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        assert (await ask(proxy.url, "POST", PATH)).status == 405
