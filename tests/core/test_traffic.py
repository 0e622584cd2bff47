"""What the audit sees of the clients' requests to Ollama."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ollama_cache_proxy.core.errors import ProxyError, unreachable
from ollama_cache_proxy.core.traffic import Traffic
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.service.system_clock import SystemClock

REQUEST = Request(method="POST", target="/api/embed", fields=())
TINY = "registry.ollama.ai/library/tiny:latest"


class Upstream:
    def __init__(self, error: ProxyError | None = None) -> None:
        self._error = error

    @asynccontextmanager
    async def ask(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        if self._error is not None:
            raise self._error
        yield "response"


async def test_a_request_counts_until_its_response_was_read() -> None:
    traffic = Traffic(Upstream(), SystemClock())
    begun: list[int] = []
    traffic.on_request = lambda: begun.append(traffic.asking)
    async with traffic.ask(REQUEST, b"{}") as response:
        assert (response, traffic.asking) == ("response", 1)
        assert traffic.ended_at == float("-inf")
    assert traffic.asking == 0
    assert traffic.ended_at > 0
    assert begun == [1]


async def test_one_that_fails_counts_no_longer() -> None:
    traffic = Traffic(Upstream(unreachable("gone")), SystemClock())
    with pytest.raises(ProxyError):
        async with traffic.ask(REQUEST, None):
            pass
    assert traffic.asking == 0
    traffic = Traffic(Upstream(), SystemClock())
    with pytest.raises(ZeroDivisionError):
        async with traffic.ask(REQUEST, None):
            raise ZeroDivisionError
    assert traffic.asking == 0


async def test_the_options_with_which_a_model_was_asked_for_last_are_known() -> None:
    traffic = Traffic(Upstream(), SystemClock())

    async def ask(**body: Any) -> None:
        async with traffic.ask(REQUEST, json.dumps(body).encode()):
            pass

    await ask(model="tiny", options={"temperature": 1})
    assert traffic.options(TINY) == frozenset()
    await ask(model="tiny", options={"num_ctx": 512})
    assert traffic.options(TINY) == {("num_ctx", "512")}
    await ask(model="other")
    assert traffic.options(TINY) == {("num_ctx", "512")}
    await ask(model="TINY:latest", prompt="a")
    assert traffic.options(TINY) == frozenset()
    for number in range(300):
        await ask(model=f"m{number}", options={"num_ctx": 512})
    assert len(traffic._options) == 256
