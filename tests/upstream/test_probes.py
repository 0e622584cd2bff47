"""What the proxy asks of itself: with its credentials, and what is told of a refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.upstream.probes import Probes

CORRECT = "correct upstream, or set upstream_authorization"
VERSION = Request(method="GET", target="/api/version", fields=((b"User-Agent", b"x"),))
TAGS = Request(method="GET", target="/api/tags", fields=())
LOADED = Request(method="GET", target="/api/ps", fields=())


class Response:
    def __init__(self, head: ResponseHead) -> None:
        self.head = head


class Ollama:
    """Answers each target with a status; an empty body is one without a length."""

    def __init__(self) -> None:
        self.name = "ollama.example:443"
        self.is_unresponsive = False
        self.statuses: dict[str, int] = {}
        self.fields: tuple[tuple[bytes, bytes], ...] = ()
        self.asked: list[Request] = []
        self.reasons: list[str] = []

    @asynccontextmanager
    async def ask(self, request: Request, body: Any, **_: Any) -> AsyncIterator[Response]:
        self.asked.append(request)
        status = self.statuses.get(request.target, 200)
        yield Response(ResponseHead(status=status, reason="", fields=self.fields))

    def note_refusal(self, reason: str) -> None:
        self.reasons.append(reason)


async def ask(probes: Probes, *requests: Request) -> None:
    for request in requests:
        async with probes.ask(request, None) as response:
            assert response.head.status


@pytest.mark.parametrize("authorization", ["", "Bearer t"])
async def test_a_request_of_the_proxys_own_has_its_credentials(authorization: str) -> None:
    ollama = Ollama()
    await ask(Probes(ollama, authorization=authorization), VERSION, LOADED)
    credentials = ((b"Authorization", b"Bearer t"),) if authorization else ()
    assert [request.fields for request in ollama.asked] == [VERSION.fields + credentials, credentials]


@pytest.mark.parametrize(
    ("status", "fields", "authorization", "reason"),
    [
        (401, (), "Bearer t", "Ollama refuses the proxy's credentials (401): set upstream_authorization"),
        (403, (), "Bearer t", "Ollama refuses the proxy's credentials (403): set upstream_authorization"),
        (401, (), "", "Ollama refuses the proxy, which has no credentials (401): set upstream_authorization"),
        (
            403,
            ((b"Content-Length", b"0"),),
            "Bearer t",
            "Ollama refuses the Host ollama.example:443 (403): it listens on loopback; use its IP address in upstream",
        ),
        *((status, (), "Bearer t", "") for status in (200, 304, 400, 404, 429, 500, 503)),
        *(
            (status, (), "", f"Ollama at ollama.example:443 redirects the proxy ({status}): {CORRECT}")
            for status in (301, 302, 303, 307, 308)
        ),
    ],
)
async def test_a_refusal_is_told_in_words(status: int, fields: Any, authorization: str, reason: str) -> None:
    ollama = Ollama()
    ollama.statuses, ollama.fields = {"/api/version": status}, fields
    await ask(Probes(ollama, authorization=authorization), VERSION)
    assert ollama.reasons == [reason]


async def test_one_refused_route_of_those_that_are_needed_is_enough_and_any_other_does_not_count() -> None:
    ollama = Ollama()
    probes = Probes(ollama, authorization="Bearer t")
    ollama.statuses = {"/api/tags": 401, "/api/ps": 403}
    await ask(probes, VERSION, TAGS, VERSION, LOADED)
    refusal = "Ollama refuses the proxy's credentials (401): set upstream_authorization"
    assert ollama.reasons == ["", refusal, refusal]
    ollama.statuses = {"/api/ps": 403}
    await ask(probes, VERSION, TAGS, LOADED)
    assert ollama.reasons[3:] == [refusal, ""]


async def test_whether_it_is_unresponsive_is_what_ollama_says() -> None:
    ollama = Ollama()
    assert not Probes(ollama, authorization="").is_unresponsive
    ollama.is_unresponsive = True
    assert Probes(ollama, authorization="").is_unresponsive


async def test_other_credentials_take_the_place_of_those_that_were() -> None:
    ollama = Ollama()
    probes = Probes(ollama, authorization="Bearer a")  # type: ignore[arg-type] # it has what is called
    for authorization in ("Bearer b", ""):
        probes.use(authorization)
        async with probes.ask(VERSION, None):
            pass
    assert [dict(request.fields).get(b"Authorization") for request in ollama.asked] == [b"Bearer b", None]
