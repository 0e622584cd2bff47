"""How models are loaded at this moment (`GET /api/ps`), what their prompts are made with, and unloading one."""

from __future__ import annotations

import asyncio
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import orjson

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.ports import Identity, Runner, Upstream
from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.upstream.probes import read_json

_DEADLINE: Final = 2.0
"""Seconds."""
_MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of a response."""
_AGENT: Final = (b"User-Agent", b"ollama-cache-proxy")
_JSON: Final = (_AGENT, (b"Content-Type", b"application/json"))
_SHOWN: Final = ("template", "system", "parameters", "renderer", "parser")
"""Members of /api/show that prompts depend on."""
_UNLOADS: Final = next(row.path for row in ENDPOINTS if row.operation == "generate")
_FAULTS: Final = (ProxyError, TimeoutError, ValueError, KeyError, TypeError, AttributeError)


class OllamaRunners:
    """See ports.Runners. `upstream` has the proxy's own credentials."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def loaded(self, identity: Identity) -> Runner | None:
        """See ports.Runners. A copy of a model is loaded under the name of either, so the digest tells."""
        try:
            found = (await self._ask("GET", "/api/ps", None))["models"] or ()
            rows = [row for row in found if isinstance(row, dict) and row.get("digest") == identity.digest]
            return _runner(rows[0]) if rows else None
        except _FAULTS:
            return None

    async def template(self, identity: Identity) -> str | None:
        """See ports.Runners."""
        try:
            found = await self._ask("POST", "/api/show", {"model": identity.model})
            shown = orjson.dumps([found.get(name) for name in _SHOWN])
        except _FAULTS:
            return None
        return sha256(shown).hexdigest()

    async def unload(self, identity: Identity) -> None:
        """See ports.Runners (`GenerateHandler`: no prompt, and a keep_alive of 0)."""
        try:
            await self._ask("POST", _UNLOADS, {"model": identity.model, "keep_alive": 0, "stream": False})
        except _FAULTS:
            return

    async def _ask(self, method: str, target: str, document: dict[str, Any] | None) -> Any:
        fields = (_AGENT,) if document is None else _JSON
        request = Request(method=method, target=target, fields=fields)
        body = None if document is None else orjson.dumps(document)
        async with asyncio.timeout(_DEADLINE):
            return await read_json(self._upstream, request, body, limit=_MAX_BYTES)


def _runner(row: dict[str, Any]) -> Runner:
    context = row.get("context_length")
    return Runner(
        expires=datetime.fromisoformat(_to_microseconds(row["expires_at"])).timestamp(),
        context=context if type(context) is int and context > 0 else None,
    )


def _to_microseconds(moment: str) -> str:
    """Return a time of Go's, which has up to nine digits of a second, with six."""
    whole, point, rest = moment.partition(".")
    if not point:
        return moment
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{whole}.{digits[:6]:0<6}{rest[len(digits) :]}"
