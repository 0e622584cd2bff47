"""How models are loaded, as `/api/ps` and `/api/show` tell it; whatever else comes is no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from ollama_cache_proxy.core.errors import unreachable
from ollama_cache_proxy.core.ports import Identity
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.upstream.runners import OllamaRunners

TINY = Identity(
    model="registry.ollama.ai/library/tiny:latest", digest="d1", version="0.24.0", stability=SimpleNamespace()
)
ROW = {"name": "copy:latest", "digest": "d1", "expires_at": "2026-11-29T13:00:00.5Z", "context_length": 4096}


class Upstream:
    """Answers every request the same; None: it cannot be reached."""

    def __init__(self, body: bytes | None, status: int = 200) -> None:
        self.asked: list[tuple[Request, Any]] = []
        self._body, self._status = body, status

    @asynccontextmanager
    async def ask(self, request: Request, body: Any) -> AsyncIterator[Any]:
        self.asked.append((request, body))
        if self._body is None:
            raise unreachable("gone")

        async def chunks() -> AsyncIterator[bytes]:
            yield self._body or b""

        yield SimpleNamespace(head=SimpleNamespace(status=self._status), chunks=chunks)


def ps(*rows: Any) -> bytes:
    return orjson.dumps({"models": list(rows)})


@pytest.mark.parametrize(
    ("expires", "microsecond"),
    [
        ("2026-11-29T13:00:00.5Z", 500_000),
        ("2026-11-29T13:00:00Z", 0),
        ("2026-11-29T14:00:00.123456789+01:00", 123_456),
    ],
)
async def test_a_loaded_model_is_found_by_its_digest(expires: str, microsecond: int) -> None:
    found = await OllamaRunners(Upstream(ps({"name": "other", "digest": "d2"}, ROW | {"expires_at": expires}))).loaded(
        TINY
    )
    assert found is not None
    assert found.context == 4096
    assert found.expires == datetime(2026, 11, 29, 13, 0, 0, microsecond, UTC).timestamp()


@pytest.mark.parametrize("odd", [None, 5, {}, {"name": "a"}, {"name": "a", "digest": None}])
async def test_a_row_without_a_digest_says_nothing_of_the_others(odd: Any) -> None:
    found = await OllamaRunners(Upstream(ps(odd, ROW))).loaded(TINY)
    assert found is not None
    assert found.context == 4096


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (None, 200),
        (b"no", 200),
        (b"[]", 200),
        (b"{}", 200),
        (b'{"models":null}', 200),
        (ps({"digest": "d2"}), 200),
        (ps({"name": "tiny"}), 200),
        (ps({"digest": "d1"}), 200),
        (ps(ROW | {"expires_at": "soon"}), 200),
        (ps(ROW), 401),
    ],
)
async def test_anything_else_is_not_known_to_be_loaded(body: bytes | None, status: int) -> None:
    assert await OllamaRunners(Upstream(body, status)).loaded(TINY) is None


async def test_a_context_that_is_not_told_is_none() -> None:
    found = await OllamaRunners(Upstream(ps({name: ROW[name] for name in ("digest", "expires_at")}))).loaded(TINY)
    assert found is not None
    assert found.context is None


async def test_a_template_is_a_hash_that_changes_with_what_prompts_are_made_with() -> None:
    shown = {"template": "{{ .Prompt }}", "modified_at": "now", "parameters": "stop x"}
    one, same, other = [
        await OllamaRunners(Upstream(orjson.dumps(shown | more))).template(TINY)
        for more in ({}, {"modified_at": "later"}, {"template": "{{ .System }}"})
    ]
    assert one == same != other
    assert "Prompt" not in str(one)
    assert await OllamaRunners(Upstream(None)).template(TINY) is None


async def test_unloading_asks_for_no_text_and_a_keep_alive_of_0() -> None:
    upstream = Upstream(b"{}")
    await OllamaRunners(upstream).unload(TINY)
    ((request, body),) = upstream.asked
    assert request.target == "/api/generate"
    assert orjson.loads(body) == {"model": TINY.model, "keep_alive": 0, "stream": False}
    await OllamaRunners(Upstream(None)).unload(TINY)
