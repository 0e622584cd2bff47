"""What the proxy itself asks of Ollama (its version, its models, those that are loaded), with the proxy's credentials.

Whether something in front of Ollama refuses them is known here: 401 and 403 are told once for each change.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Protocol

import orjson

from ollama_cache_proxy.core.ports import Body, Upstream, UpstreamResponse
from ollama_cache_proxy.policy.messages import Fields, Request, ResponseHead, first

_NEEDED: Final = ("/api/version", "/api/tags")
"""Without these nothing is cached; whether others are refused shows where they are read."""


async def read_json(
    upstream: Upstream, request: Request, body: bytes | None = None, *, limit: int | None = None
) -> Any:
    """Return what Ollama answers the proxy itself, parsed.

    Raises ProxyError, and ValueError for another status than 200, for more than `limit` bytes, and for what is no JSON.
    """
    read = bytearray()
    async with upstream.ask(request, body) as response:
        async for chunk in response.chunks():
            read += chunk
            if limit is not None and len(read) > limit:
                raise ValueError("too long")
        if response.head.status != HTTPStatus.OK:
            raise ValueError(request.target)
    return orjson.loads(read)


class Ollama(Upstream, Protocol):
    """An upstream that knows whether it is unresponsive, and is told that it refuses the proxy."""

    name: str
    """Host and port."""

    @property
    def is_unresponsive(self) -> bool: ...

    def note_refusal(self, reason: str) -> None:
        """Note why it refuses the proxy, empty where it does not."""


class Probes:
    """Ollama as the proxy itself asks it; see ports.Upstream. Without credentials `authorization` is empty."""

    def __init__(self, ollama: Ollama, *, authorization: str) -> None:
        self._ollama = ollama
        self._credentials: Fields = ()
        self._refused: dict[str, str] = {}
        self.use(authorization)

    def use(self, authorization: str) -> None:
        """Ask with other credentials from now on."""
        self._credentials = ((b"Authorization", authorization.encode()),) if authorization else ()

    @property
    def is_unresponsive(self) -> bool:
        """See `Ollama`."""
        return self._ollama.is_unresponsive

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0, patient: bool = False
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """See ports.Upstream. The request gets the proxy's credentials."""
        asked = replace(request, fields=(*request.fields, *self._credentials))
        asking = self._ollama.ask(asked, body, repeatable=repeatable, spent=spent, patient=patient)
        return _Probe(self, request.target, asking)

    def note(self, target: str, head: ResponseHead) -> None:
        """Note the response to a probe."""
        if target not in _NEEDED:
            return
        self._refused[target] = self._refusal(head)
        self._ollama.note_refusal(next(filter(None, self._refused.values()), ""))

    def _refusal(self, head: ResponseHead) -> str:
        """Return why this response refuses the proxy, empty where it does not."""
        status, name = head.status, self._ollama.name
        if status == HTTPStatus.FORBIDDEN and first(head.fields, b"content-length") == b"0":
            # Ollama's own rule (server/routes.go, 0.24), whose 403 has no body
            return f"Ollama refuses the Host {name} (403): it listens on loopback; use its IP address in upstream"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            whom = "the proxy's credentials" if self._credentials else "the proxy, which has no credentials"
            return f"Ollama refuses {whom} ({status}): set upstream_authorization"
        if status in _REDIRECTS:  # a login page, or https in place of http
            return f"Ollama at {name} redirects the proxy ({status}): correct upstream, or set upstream_authorization"
        return ""


_REDIRECTS: Final = (301, 302, 303, 307, 308)


class _Probe(AbstractAsyncContextManager[UpstreamResponse]):
    """One request of the proxy's own, and its response."""

    def __init__(self, probes: Probes, target: str, asking: AbstractAsyncContextManager[UpstreamResponse]) -> None:
        self._probes = probes
        self._target = target
        self._asking = asking

    async def __aenter__(self) -> UpstreamResponse:
        response = await self._asking.__aenter__()
        self._probes.note(self._target, response.head)
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._asking.__aexit__(kind, error, trace)
