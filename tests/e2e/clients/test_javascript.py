"""ollama-js and OpenAI's JavaScript SDK, unchanged and pointed at the proxy by their URL only, get what Ollama gives.

The scripts in js/ make the calls; each runs once against an Ollama and once against the proxy before an equal one.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.clients.twins import SLOW, check, counted, has_left, seen, settled
from tests.support.leaving_out import leave_out, program
from tests.support.servers import Proxy, proxy_before

HERE = Path(__file__).parent
PACKAGES = ("ollama", "openai")
RUNS_WITHIN = 60.0

SCRIPTS = {
    "ollama.mjs": {
        "version": "version bypass",
        "list": "tags bypass, tags bypass",
        "show": "show bypass, show bypass",
        "generate": "generate miss, generate hit, ps bypass",
        "generate a stream": "generate bypass, generate bypass",
        "chat": "chat bypass, chat bypass",
        "chat a stream": "chat bypass, chat bypass",
        "chat with tools": "chat bypass, chat bypass",
        "embed a text": "embed miss, embed hit",
        "embed a list": "embed miss, embed hit",
        "embeddings": "embeddings miss, embeddings hit",
        "create": "create bypass, generate miss, create bypass, generate miss, generate hit",
        "copy and delete": "copy bypass, generate miss, delete bypass, tags bypass",
        "pull what is not there": "pull bypass, pull bypass",
        "a missing model": "generate bypass, generate bypass, chat bypass, embed bypass, delete bypass",
    },
    "openai.mjs": {
        "list": "v1-models bypass, v1-models bypass",
        "retrieve": "other bypass",
        "chat": "v1-chat bypass, v1-chat bypass",
        "chat a stream": "v1-chat bypass, v1-chat bypass",
        "complete": "v1-completions bypass, v1-completions bypass",
        "complete a stream": "v1-completions bypass, v1-completions bypass",
        "respond": "v1-responses bypass, v1-responses bypass",
        "embed a text": "v1-embeddings miss, v1-embeddings hit",
        "embed a list": "v1-embeddings miss, v1-embeddings hit",
        "embed as floats": "v1-embeddings hit, v1-embeddings hit",
        "a missing model": "v1-chat bypass, v1-chat bypass, v1-completions bypass, v1-responses bypass, v1-embeddings bypass",
    },
}
"""How the proxy counts the calls of a script, by the names that the script gives them."""

REFUSALS = {
    "chat with tools": "does not support tools",
    "pull what is not there": "pull model manifest",
    "a missing model": "not found",
}


@pytest.fixture
def node() -> str:
    """Where node is; without it, or without the packages, the tests are left out, except in CI."""
    binary = program("node")
    if not all((HERE / "node_modules" / name).is_dir() for name in PACKAGES):
        leave_out("the JavaScript clients are not installed: run `make clients`")
    return binary


@asynccontextmanager
async def script(node: str, name: str, url: str) -> AsyncIterator[Process]:
    """Run a script; what is left of it at the end is killed."""
    process = await asyncio.create_subprocess_exec(node, HERE / "js" / name, url, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(RUNS_WITHIN):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def results(node: str, name: str, url: str) -> dict[str, list[Any]]:
    async with script(node, name, url) as process:
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return {name: settled(found) for name, found in json.loads(out).items()}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_as_directly(name: str, node: str, simulator: Simulator, direct: Simulator, proxy: Proxy) -> None:
    alone, through = await asyncio.gather(results(node, name, direct.url), results(node, name, proxy.url))
    assert alone.keys() == through.keys() == SCRIPTS[name].keys()
    for case in alone:
        check(alone[case], through[case], REFUSALS.get(case, ""))
    assert await seen(proxy) == counted(*SCRIPTS[name].values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("leave_ollama.mjs", "generate bypass"), ("leave_openai.mjs", "v1-chat bypass")],
)
async def test_leaving_in_mid_stream(name: str, expected: str, node: str) -> None:
    async with Simulator(SLOW) as simulator, proxy_before(simulator.url) as proxy:
        async with script(node, name, proxy.url) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"left\n"
            await has_left(simulator)
        assert await seen(proxy) == {expected: 1}


@pytest.mark.parametrize(("ci", "end"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_node(
    ci: str, end: type[BaseException], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(end, match="no node"):
        request.getfixturevalue("node")
