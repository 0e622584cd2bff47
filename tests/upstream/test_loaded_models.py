"""Loaded models, from the real wire form: nothing waits for them, and an unresponsive Ollama is not asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ollama_cache_proxy.core.errors import ProxyError, unreachable
from ollama_cache_proxy.core.facts import Resident
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.upstream import loaded_models
from ollama_cache_proxy.upstream.connections import Connections
from ollama_cache_proxy.upstream.loaded_models import Residents
from ollama_cache_proxy.upstream.ollama_server import Ollama as RealOllama
from tests.support.recordings import RECORDINGS
from tests.support.waiting import until

RECORDED = RECORDINGS["0.24"]["ps"]["response"]["body"].encode()


class Response:
    def __init__(self, status: int, body: bytes) -> None:
        self.head = ResponseHead(status=status, reason="", fields=())
        self.length = None
        self._body = body

    def whole_body(self) -> None:
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body[:100]
        yield self._body[100:]


class Ollama:
    """Responds with `response`; an exception is raised, and None never responds."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.asked: list[str] = []
        self.is_unresponsive = False

    @asynccontextmanager
    async def ask(self, request: Request, body: Any, **_: Any) -> AsyncIterator[Response]:
        self.asked.append(request.target)
        if self.response is None:
            await asyncio.Event().wait()
        if isinstance(self.response, Exception):
            raise self.response
        yield self.response


@pytest.fixture
async def residents() -> AsyncIterator[Callable[[Ollama], Residents]]:
    tasks = Tasks()

    def make(ollama: Ollama) -> Residents:
        return Residents(ollama, tasks=tasks)

    yield make
    await tasks.close(0)


async def test_loaded_models_are_known_from_the_second_reading_on(residents: Callable[[Ollama], Residents]) -> None:
    ollama = Ollama(Response(200, RECORDED))
    loaded = residents(ollama)
    assert loaded.latest() == ()
    await until(lambda: loaded.latest() != ())
    assert loaded.latest() == (
        Resident(model="all-minilm:latest", size=85149696, vram=0),
        Resident(model="tiny:latest", size=951552, vram=0),
    )
    assert ollama.asked == ["/api/ps"]


@pytest.mark.parametrize(
    "response",
    [
        Response(200, b'{"models":null}'),
        Response(200, b'{"models":[{"size":5}]}'),
        Response(200, b'{"models":[5]}'),
        Response(200, b"[]"),
        Response(200, b"nonsense"),
        Response(500, RECORDED),
        unreachable("gone"),
        None,
    ],
    ids=["none", "part", "no-row", "no-object", "no-json", "status", "unreachable", "no-answer"],
)
async def test_a_failed_probe_leaves_no_models(
    response: Any, residents: Callable[[Ollama], Residents], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_models, "_DEADLINE", 0.05)
    loaded = residents(Ollama(response))
    loaded._latest = (Resident(model="old", size=1, vram=1),)
    assert loaded.latest()
    await until(lambda: loaded.latest() == ())


@pytest.mark.parametrize(
    ("odd", "size", "vram"),
    [
        ({"size": 5}, 5, None),
        ({"size": 5, "size_vram": None}, 5, None),
        ({"size": "5", "size_vram": 4}, None, 4),
        ({}, None, None),
    ],
)
async def test_what_one_model_does_not_tell_says_nothing_of_the_others(
    odd: dict[str, Any], size: int | None, vram: int | None, residents: Callable[[Ollama], Residents]
) -> None:
    listed = [{"name": "odd", **odd}, None, {"name": "whole", "size": 9, "size_vram": 3}]
    loaded = residents(Ollama(Response(200, json.dumps({"models": listed}).encode())))
    await until(lambda: loaded.latest() != ())
    assert loaded.latest() == (
        Resident(model="odd", size=size, vram=vram),
        Resident(model="whole", size=9, vram=3),
    )


async def test_an_unresponsive_ollama_is_not_probed(residents: Callable[[Ollama], Residents]) -> None:
    ollama = Ollama(Response(200, RECORDED))
    ollama.is_unresponsive = True
    loaded = residents(ollama)
    loaded._latest = (Resident(model="old", size=1, vram=1),)
    loaded.latest()
    await until(lambda: loaded.latest() == ())
    assert ollama.asked == []


async def test_an_ollama_that_accepts_no_connection_is_unresponsive_and_retries_are_left_to_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, clock, tried = Tasks(), SystemClock(), []

    async def never(_: Connections) -> None:
        tried.append(None)
        await asyncio.Event().wait()

    monkeypatch.setattr(Connections, "open", never)
    upstream = RealOllama(
        "http://127.0.0.1:1", connect_timeout=0.01, deadline=None, clock=clock, observe=lambda _: None, tasks=tasks
    )
    assert not upstream.is_unresponsive
    with pytest.raises(ProxyError):
        async with upstream.ask(Request(method="GET", target="/", fields=()), None):
            pass
    assert (upstream.is_unresponsive, upstream.asking, len(tried)) == (True, 0, 1)
    await Residents(upstream, tasks=tasks)._probe()
    assert len(tried) == 1
    await upstream.close()
