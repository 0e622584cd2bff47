"""`ollama-cache-proxy advise`, as a process before a real proxy."""

from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.terminal import piped, terminal, widest

TEXTS = [f"text {number}" for number in range(250)]


def embed(name: str) -> dict[str, object]:
    return {"body": json.dumps({"model": "all-minilm", "input": TEXTS}).encode(), "fields": {"Authorization": name}}


async def test_without_traffic_it_says_so(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        done = await piped("advise", "--url", proxy.url)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Too little traffic yet to say, since ")


async def test_of_one_request_it_says_so(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        assert (await ask(proxy.url, "POST", "/api/embed", **embed("Bearer anne"))).status == 200
        done = await piped("advise", "--url", proxy.url)
    assert "\n1 request, and 0 that a setting would let in, since " in done.out


@pytest.mark.parametrize("columns", [60, 120])
async def test_it_shows_tables_and_the_change_that_is_worth_the_most(simulator: Simulator, columns: int) -> None:
    async with proxy_before(simulator.url) as proxy:
        for name in ("Bearer anne", "Bearer bert"):
            assert (await ask(proxy.url, "POST", "/api/embed", **embed(name))).status == 200
        done = await piped("advise", "--url", proxy.url)
        told = json.loads((await piped("advise", "--url", proxy.url, "--json")).out)
        async with terminal("advise", "--url", proxy.url, columns=columns) as shown:
            assert await shown.end() == 0
    assert told["embeddings"]["sharedAuthorization"]["texts"] == 50
    assert done.out.splitlines()[0] == told["advice"]["sentence"]
    lines = {line.split("  ")[0]: line for line in done.out.splitlines()}
    assert "0.0 %" in lines["as it is"]
    assert "0.0 %" in lines["fixed, 24 h (in force)"]
    assert "≥ 0.0 %" in lines["fixed, 7 d"]
    assert "50.0 %" in lines["one Authorization for all"]
    assert widest(shown.text) <= columns
