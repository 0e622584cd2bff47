"""Models whose template writes the date: cached like others, or by setting not at all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.simulator.naming import known
from ollama_cache_proxy.simulator.registry import TEMPLATE, text_layer
from tests.support.processes import serve
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.waiting import until

DATED = {
    "go": "Today is {{ currentDate }}. {{ .Prompt }}",
    "jinja": "{{ strftime_now('%Y-%m-%d') }} {{ messages[0]['content'] }}",
}
MESSAGES = [{"role": "user", "content": "why"}]
EVERYTHING: dict[str, Any] = {"cache_chat": "always", "cache_v1_chat": "always", "cache_v1_completions": "always"}
COMPLETIONS = {
    "/api/generate": {"prompt": "why", "stream": False},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "why"},
}
OTHERS = {
    "/api/generate": {"prompt": "why", "stream": False, "raw": True},
    "/api/embed": {"input": ["why"]},
    "/api/embeddings": {"prompt": "why"},
    "/v1/embeddings": {"input": "why"},
}


async def post(proxy: Proxy, path: str, body: Any, model: str) -> RawAnswer:
    return await ask(proxy.url, "POST", path, body=json.dumps({"model": model, **body}).encode())


def is_asking(proxy: Proxy) -> bool:
    templates = proxy.running.exchanges._intake._templates
    return templates is not None and bool(templates._asking)


async def results(proxy: Proxy, path: str, body: Any, model: str) -> list[str | None]:
    """Ask until the template has to be known, then twice more."""
    for _ in range(2):
        await post(proxy, path, body, model)
        await until(lambda: not is_asking(proxy))
        await proxy.kept()
    return [(await post(proxy, path, body, model)).field("X-Cache") for _ in range(2)]


def shows(simulator: Simulator) -> int:
    return [one.target for one in simulator.received].count("/api/show")


@pytest.mark.parametrize("path", COMPLETIONS)
@pytest.mark.parametrize("template", DATED)
async def test_by_setting_a_prompt_with_the_date_is_neither_stored_nor_served(
    path: str, template: str, simulator: Simulator
) -> None:
    simulator.models.add("dated", template=DATED[template])
    async with proxy_before(simulator.url, cache_dated_templates=False, **EVERYTHING) as proxy:
        assert await results(proxy, path, COMPLETIONS[path], "dated") == ["BYPASS", "BYPASS"]
        last = await post(proxy, path, COMPLETIONS[path], "dated")
        assert last.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=dated-template"
        assert await results(proxy, path, COMPLETIONS[path], "tiny") == ["HIT", "HIT"]
    assert shows(simulator) == 2, "once for each model"


@pytest.mark.parametrize("path", OTHERS)
async def test_what_has_no_template_is_cached_all_the_same(path: str, simulator: Simulator) -> None:
    base = simulator.models.get("tiny" if path == "/api/generate" else "all-minilm")
    layers = [layer for layer in base.layers if layer.kind != TEMPLATE]
    simulator.models.put(base.remade(known("dated"), [*layers, text_layer(TEMPLATE, DATED["go"])]))
    async with proxy_before(simulator.url, cache_dated_templates=False) as proxy:
        assert await results(proxy, path, OTHERS[path], "dated") == ["HIT", "HIT"]
    assert shows(simulator) == 0


async def test_a_template_of_the_request_counts_too(simulator: Simulator) -> None:
    body = COMPLETIONS["/api/generate"] | {"template": DATED["go"]}
    async with proxy_before(simulator.url, cache_dated_templates=False) as proxy:
        assert await results(proxy, "/api/generate", body, "tiny") == ["BYPASS", "BYPASS"]


async def test_a_model_that_is_replaced_is_asked_about_again(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_dated_templates=False) as proxy:
        body = COMPLETIONS["/api/generate"]
        assert await results(proxy, "/api/generate", body, "tiny") == ["HIT", "HIT"]
        create = {"from": "tiny", "template": DATED["go"], "stream": False}
        assert (await post(proxy, "/api/create", create, "tiny")).status == 200
        assert await results(proxy, "/api/generate", body, "tiny") == ["BYPASS", "BYPASS"]


async def test_without_the_setting_nothing_is_asked_and_the_date_may_be_of_yesterday(simulator: Simulator) -> None:
    simulator.models.add("dated", template=DATED["go"])
    async with proxy_before(simulator.url) as proxy:
        assert await results(proxy, "/api/generate", COMPLETIONS["/api/generate"], "dated") == ["HIT", "HIT"]
    assert shows(simulator) == 0


async def test_an_entry_from_before_the_setting_is_not_served(simulator: Simulator, redis_server: Any) -> None:
    simulator.models.add("dated", template=DATED["go"])
    body = COMPLETIONS["/api/generate"]
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        assert await results(proxy, "/api/generate", body, "dated") == ["HIT", "HIT"]
    async with proxy_before(simulator.url, redis_url=redis_server.url, cache_dated_templates=False) as proxy:
        assert await results(proxy, "/api/generate", body, "dated") == ["BYPASS", "BYPASS"]


async def test_it_is_explained(simulator: Simulator) -> None:
    simulator.models.add("dated", template=DATED["go"])
    async with proxy_before(simulator.url, cache_dated_templates=False) as proxy:
        asked = {"path": "/api/generate", "body": COMPLETIONS["/api/generate"] | {"model": "dated"}}
        answer = await ask(proxy.url, "POST", "/api/cache/explain", body=json.dumps(asked).encode())
        told = json.loads(answer.body)
    assert (told["candidate"], told["detail"]) == (False, "dated-template")


async def test_each_worker_learns_it(simulator: Simulator) -> None:
    simulator.models.add("dated", template=DATED["go"])
    started = serve(
        *("--listen", "127.0.0.1:0", "--upstream", simulator.url, "--workers", "2"),
        environment={"OCP_STORE": "private", "OCP_CACHE_DATED_TEMPLATES": "false"},
    )

    async def asked(url: str, model: str) -> str | None:
        body = json.dumps({"model": model, **COMPLETIONS["/api/generate"]}).encode()
        return (await ask(url, "POST", "/api/generate", body=body)).field("X-Cache")

    async with started as proxy:
        url = await proxy.url()
        found: list[str | None] = []
        async with asyncio.timeout(30):
            while found[-8:] != ["HIT"] * 8:  # each on a connection of its own, so that both workers are asked
                found.append(await asked(url, "tiny"))
                assert await asked(url, "dated") == "BYPASS"
    assert found[0] == "BYPASS"
    assert 2 <= shows(simulator) <= 4, "each worker asks once about each model"
