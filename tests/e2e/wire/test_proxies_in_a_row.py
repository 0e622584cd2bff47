"""Two proxies of ours in a row, a laptop's before a team's: both work, and both say what they did (RFC 9211)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.service.settings import setting_of
from ollama_cache_proxy.simulator import Simulator
from tests.support.plain_requests import PLAIN
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.upstream import ByteUpstream, Conversation, byte_upstream, whole

ALL = {setting_of(name): "always" for name in PLAIN} | {"cache_streams": True}
PATHS = {row.operation: row.path for row in ENDPOINTS}
GENERATE = {"model": "tiny", "prompt": "why", "stream": False}


@dataclass(slots=True)
class Row:
    """Two proxies in front of one Ollama; clients ask the laptop's."""

    laptop: Proxy
    team: Proxy
    ollama: Simulator

    async def ask(self, path: str, document: object) -> RawAnswer:
        answer = await ask(self.laptop.url, "POST", path, body=json.dumps(document).encode())
        for proxy in (self.team, self.laptop):
            await proxy.kept()
        return answer


@pytest_asyncio.fixture
async def row(simulator: Simulator) -> AsyncIterator[Row]:
    async with proxy_before(simulator.url, **ALL) as team, proxy_before(team.url, **ALL) as laptop:
        yield Row(laptop, team, simulator)


def told(answer: RawAnswer) -> list[str]:
    """Give the members of Cache-Status, the one nearest to Ollama first, without lifetimes."""
    lines = [value for name, value in answer.fields if name.lower() == "cache-status"]
    return [
        member.split("; ttl=")[0].removeprefix("ollama-cache-proxy; ") for line in lines for member in line.split(", ")
    ]


def x_cache(answer: RawAnswer) -> list[str]:
    return [value for name, value in answer.fields if name.lower() == "x-cache"]


SERVED = [name for name in PLAIN if name != "v1-count-tokens"]
"""Ollama has no such endpoint so far."""


@pytest.mark.parametrize("operation", [*SERVED, "generate/stream", "embed/list"])
async def test_each_answers_what_it_has_stored(operation: str, row: Row) -> None:
    name, _, form = operation.partition("/")
    document = PLAIN[name] | {"model": "all-minilm" if "embed" in name else "tiny"}
    document |= {"stream": {"stream": True}, "list": {"input": ["a", "b"]}}.get(form, {})
    missed = ["fwd=miss; detail=recording"] if form == "stream" else ["fwd=miss; stored"]
    first = await row.ask(PATHS[name], document)
    assert (told(first), x_cache(first)) == (missed * 2, ["MISS"])
    second = await row.ask(PATHS[name], document)
    assert (told(second), x_cache(second)) == (["hit"], ["HIT"]), "the team's part in the first one is not replayed"
    assert (await ask(row.laptop.url, "POST", "/api/cache/clear")).status == 200
    third = await row.ask(PATHS[name], document)
    assert (told(third), x_cache(third)) == (["hit", *missed], ["MISS"])
    assert first.body == second.body == third.body
    assert len([asked for asked in row.ollama.received if asked.target == PATHS[name]]) == 1


@pytest.mark.parametrize("path", ["/api/version", "/api/tags", "/api/ps", "/v1/models", "/", "/nowhere"])
async def test_what_is_passed_on_is_as_from_ollama(path: str, row: Row) -> None:
    answer, direct = await ask(row.laptop.url, "GET", path), await ask(row.ollama.url, "GET", path)
    assert (answer.status, answer.body) == (direct.status, direct.body)
    assert told(answer) == ["fwd=bypass; detail=endpoint"] * 2
    assert x_cache(answer) == ["BYPASS"]


async def test_the_field_of_another_cache_stands_first() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        lines = b'\r\nCache-Status: "a, b"; hit, Shop; fwd=miss\r\nX-Cache: HIT from shop\r\nContent-Length'
        await talk.write(whole(b"{}").replace(b"\r\nContent-Length", lines))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        answer = await ask(proxy.url, "GET", "/x")
        assert [value for name, value in answer.fields if name == "Cache-Status"] == [
            '"a, b"; hit, Shop; fwd=miss',
            "ollama-cache-proxy; fwd=bypass; detail=endpoint",
        ]
        assert x_cache(answer) == ["BYPASS"]


async def test_a_circle_of_two_is_a_508_of_the_first() -> None:
    """The laptop's asks the team's, and that one the laptop's again."""
    passed: list[list[bytes]] = []

    async def back(talk: Conversation) -> None:
        passed.append(talk.values(b"Via"))
        async with await RawConnection.open(laptop.url) as connection:
            connection.writer.write(talk.head)
            answer = await asyncio.wait_for(connection.answer(), 5)
        await talk.write(whole(answer.body, status=answer.status_line.partition(" ")[2]))

    detour: ByteUpstream
    async with byte_upstream(back) as detour, proxy_before(detour.url) as team, proxy_before(team.url) as laptop:
        answer = await ask(laptop.url, "GET", "/x")
        assert answer.status == 508
        assert told(answer) == ["fwd=bypass; detail=endpoint"] * 2
        assert [len(set(via)) for via in passed] == [2], "it came back once, with the names of both"
