"""`GET /api/cache/forecast`, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.admin import forecast_route
from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before

PATH = "/api/cache/forecast"


async def forecast(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(url, "GET", PATH)).body)
    return found


async def test_it_says_that_there_is_too_little_traffic(simulator: Simulator) -> None:
    assert PATH in forecast_route.forecast_routes(dict)
    async with proxy_before(simulator.url) as proxy:
        found = await forecast(proxy.url)
    assert found["advice"]["sentence"].startswith("Too little traffic yet to say, since ")
    assert (found["requests"], found["workers"]) == (0, 1)
    assert not found["embeddings"]["enough"]


@pytest.mark.parametrize(
    ("settings", "store"),
    [
        ({}, {"bytes": 256 << 20, "setting": "memory_bytes"}),
        ({"memory_bytes": 1 << 20}, {"bytes": 1 << 20, "setting": "memory_bytes"}),
    ],
)
async def test_it_names_the_size_of_the_store(simulator: Simulator, settings: dict[str, Any], store: Any) -> None:
    async with proxy_before(simulator.url, **settings) as proxy:
        assert (await forecast(proxy.url))["store"] == store


async def test_nothing_of_a_request_is_told(simulator: Simulator) -> None:
    body = json.dumps({"model": "tiny", "prompt": "a secret of mine", "stream": False}).encode()
    async with proxy_before(simulator.url) as proxy:
        await ask(proxy.url, "POST", "/api/generate", body=body, fields={"X-Cache-Category": "mine"})
        text = (await ask(proxy.url, "GET", PATH)).body
    assert b"secret" not in text
    assert b"mine" not in text
    assert b"tiny" not in text
