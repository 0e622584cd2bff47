"""What the settings `cache_…` make of each route, end to end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy.endpoints import REUSABLE, Kind
from ollama_cache_proxy.service.settings import setting_of
from ollama_cache_proxy.simulator import Simulator
from tests.support.plain_requests import PLAIN
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before

ELSEWHERE = ("v1-count-tokens",)
"""No Ollama has this one yet: test_agents.py has an upstream that does. Uploads are in test_transcriptions.py."""
BY_OPERATION = {row.operation: row for row in REUSABLE}
VECTORS = tuple(row.operation for row in REUSABLE if row.kind is Kind.EMBEDDING)
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    row.operation: (row.path, PLAIN[row.operation] | {"model": "all-minilm" if row.operation in VECTORS else "tiny"})
    for row in REUSABLE
    if row.operation in PLAIN and row.operation not in ELSEWHERE
}
ROUTES["embed"][1]["input"] = ["a", "b"]
MESSAGES = ROUTES["chat"][1]["messages"]
ALWAYS: dict[str, Any] = {setting_of(operation): "always" for operation in ROUTES}


async def post(url: str, operation: str, *, more: dict[str, Any] | None = None, **fields: str) -> RawAnswer:
    path, body = ROUTES[operation]
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body | (more or {})).encode(), fields=named)


def asked(simulator: Simulator, operation: str) -> int:
    return sum(request.target == ROUTES[operation][0] for request in simulator.received)


@pytest.mark.parametrize("operation", ROUTES)
async def test_always_keeps_whole_answers_of_every_route(operation: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **ALWAYS) as proxy:
        first, again = [await post(proxy.url, operation) for _ in range(2)]
        assert (first.status, first.field("X-Cache"), again.field("X-Cache")) == (200, "MISS", "HIT")
        assert again.body == first.body
        assert again.field("Content-Type") == first.field("Content-Type")
        assert asked(simulator, operation) == 1


@pytest.mark.parametrize("operation", ROUTES)
async def test_off_passes_everything_on(operation: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, **{setting_of(operation): "off"}) as proxy:
        for _ in range(2):
            answer = await post(proxy.url, operation)
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=opt-in"
        assert asked(simulator, operation) == 2


@pytest.mark.parametrize("operation", ROUTES)
async def test_read_only_answers_and_keeps_nothing(
    operation: str, simulator: Simulator, redis_server: RedisServer
) -> None:
    setting = setting_of(operation)
    async with (
        proxy_before(simulator.url, redis_url=redis_server.url, **{setting: "read-only"}) as reader,
        proxy_before(simulator.url, redis_url=redis_server.url, **{setting: "always"}) as writer,
    ):
        for _ in range(2):
            missed = await post(reader.url, operation)
            assert missed.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=read-only"
        await post(writer.url, operation)
        await writer.kept()
        assert (await post(reader.url, operation)).field("X-Cache") == "HIT"


@pytest.mark.parametrize("operation", ROUTES)
async def test_write_only_keeps_and_never_answers(
    operation: str, simulator: Simulator, redis_server: RedisServer
) -> None:
    setting = setting_of(operation)
    async with (
        proxy_before(simulator.url, redis_url=redis_server.url, **{setting: "write-only"}) as writer,
        proxy_before(simulator.url, redis_url=redis_server.url, **{setting: "always"}) as reader,
    ):
        for _ in range(2):
            answer = await post(writer.url, operation)
            assert answer.field("X-Cache") == "MISS"
            assert "; stored; ttl=" in (answer.field("Cache-Status") or "")
        assert asked(simulator, operation) == 2
        assert (await post(writer.url, operation, Cache_Control="only-if-cached")).status == 504
        await writer.kept()
        assert (await post(reader.url, operation)).field("X-Cache") == "HIT"


async def test_write_only_says_so(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_generate="write-only") as proxy:
        answer = await post(proxy.url, "generate")
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; stored; ttl=3600; detail=write-only"


@pytest.mark.parametrize("operation", ROUTES)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0}, {"seed": 7}, {"temperature": 0.7}, {"seed": -1}], ids=str)
async def test_deterministic_keeps_what_asks_for_it(
    operation: str, sampling: dict[str, Any], simulator: Simulator
) -> None:
    more = sampling if operation.startswith("v1") else {"options": sampling}
    seeded = sampling == {"seed": 7} and "seed" in BY_OPERATION[operation].sampling
    kept = BY_OPERATION[operation].deterministic or sampling == {"temperature": 0} or seeded
    async with proxy_before(simulator.url, **{setting_of(operation): "deterministic"}) as proxy:
        first, again = [await post(proxy.url, operation, more=more) for _ in range(2)]
        if kept:
            assert (first.field("X-Cache"), again.field("X-Cache")) == ("MISS", "HIT")
        else:
            assert again.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=not-deterministic"


async def test_the_defaults_are_those_of_the_design(proxy: Proxy) -> None:
    for operation in ROUTES:
        answers = [await post(proxy.url, operation) for _ in range(2)]
        expected = ["MISS", "HIT"] if operation in (*VECTORS, "generate") else ["BYPASS", "BYPASS"]
        if operation == "v1-embeddings":
            expected = ["MISS", "HIT"]  # /api/embed knew it in a list: a single text wants its own count
        assert [answer.field("X-Cache") for answer in answers] == expected


async def test_only_if_cached_never_reaches_ollama_on_routes_that_can_be_cached(
    proxy: Proxy, simulator: Simulator
) -> None:
    for operation in ROUTES:
        answer = await post(proxy.url, operation, Cache_Control="only-if-cached")
        assert (answer.status, answer.field("X-Cache")) == (504, "BYPASS")
        detail = "only-if-cached" if operation in (*VECTORS, "generate") else "opt-in"
        assert answer.field("Cache-Status") == f"ollama-cache-proxy; detail={detail}", "whether it could ever be a hit"
    assert not [request for request in simulator.received if request.method == "POST"]
    tags = await ask(proxy.url, "GET", "/api/tags", fields={"Cache-Control": "only-if-cached"})
    assert tags.status == 200


async def test_chats_that_differ_never_meet(simulator: Simulator) -> None:
    """The order inside messages and schemas is part of the question, as is everything we do not know."""
    number = {"type": "integer"}
    schema = {"type": "object", "properties": {"a": number, "b": number}}
    turned = {"type": "object", "properties": {"b": number, "a": number}}
    bodies: list[dict[str, Any]] = [
        {},
        {"messages": [dict(reversed(MESSAGES[0].items()))]},
        {"messages": [{"role": "system", "content": "s"}, *MESSAGES]},
        {"messages": [*MESSAGES, {"role": "system", "content": "s"}]},
        {"format": schema},
        {"format": turned},
        {"options": {"num_predict": 3}},
        {"unknown": 1},
        {"format": "json"},
    ]
    async with proxy_before(simulator.url, **ALWAYS) as proxy:
        for expected in ("MISS", "HIT"):
            for more in bodies:
                assert (await post(proxy.url, "chat", more=more)).field("X-Cache") == expected
