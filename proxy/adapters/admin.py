"""The proxy's own routes: what the cache did, clearing it, health, metrics.

Reading follows the Host rule of proxied requests and nothing more. Changing needs an Origin that is none or our own,
and, on a listener that others can reach, the admin token.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import orjson

from proxy.errors import ProxyError
from proxy.policy.fields import is_own_origin
from proxy.policy.messages import Fields, Request, ResponseHead, first
from proxy.ports import Client, Clock, Store, Upstream

JSON: Final = "application/json; charset=utf-8"
_MAX_BODY: Final = 65_536
_PROBE: Final = 1.0
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may change things: anyone on a `loopback` listener, else whoever brings `token` (empty: nobody)."""

    loopback: bool
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    body: bytes
    kind: str = JSON
    fields: Fields = ()


Counts: TypeAlias = Callable[[], tuple[int, int]]
"""Gives hits and misses so far."""

Render: TypeAlias = Callable[[str], tuple[bytes, str]]
"""Gives metrics and their Content-Type for an Accept."""


class Admin:
    """Answers the requests whose path is one of `paths`."""

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        *,
        store: Store,
        store_name: Callable[[], str],
        store_well: Callable[[], Awaitable[bool]],
        upstream: Upstream,
        counts: Counts,
        render: Render,
        serving: Callable[[], bool],
        access: Access,
        clock: Clock,
    ) -> None:
        self._store = store
        self._store_name = store_name
        self._store_well = store_well
        self._upstream = upstream
        self._counts = counts
        self._render = render
        self._serving = serving
        self._access = access
        self._clock = clock
        self._routes: dict[str, tuple[str, Callable[[Request, bytes], Awaitable[_Answer]]]] = {
            "/api/cache/stats": ("GET", self._stats),
            "/api/cache/clear": ("POST", self._clear),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
            "/metrics": ("GET", self._metrics),
        }

    def owns(self, request: Request) -> bool:
        """Whether the request is for a route of the proxy's own."""
        return request.target.partition("?")[0] in self._routes

    async def serve(self, request: Request, client: Client) -> None:
        """Answer a request that this owns."""
        method, route = self._routes[request.target.partition("?")[0]]
        answer = self._barred(request, method)
        if answer is None:
            body = await client.body(_MAX_BODY)
            answer = await route(request, body) if body is not None else _error(413, "the body is too large")
        lines = (
            (b"Content-Type", answer.kind.encode()),
            (b"Date", formatdate(self._clock.now(), usegmt=True).encode()),
            (b"Content-Length", str(len(answer.body)).encode()),
            (b"Cache-Control", b"no-store"),
            *answer.fields,
        )
        reason = HTTPStatus(answer.status).phrase
        await client.send(ResponseHead(status=answer.status, reason=reason, fields=lines), answer.body)

    def _barred(self, request: Request, method: str) -> _Answer | None:
        """Say why the request may not be answered, or None."""
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            allow = b"GET, HEAD" if method == "GET" else method.encode()
            return _Answer(status=405, body=_json({"error": "method not allowed"}), fields=((b"Allow", allow),))
        return None if method == "GET" else self._may_not_change(request)

    def _may_not_change(self, request: Request) -> _Answer | None:
        """Say why the request may not change anything, or None."""
        if not is_own_origin(request.fields):
            return _error(403, "a page of another origin may not change the cache")
        if self._access.loopback:
            return None
        if not self._access.token:
            return _error(403, "set OCP_ADMIN_TOKEN to allow changes on a listener that is not on loopback")
        scheme, _, given = (first(request.fields, b"authorization") or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given, self._access.token.encode()):
            challenge = ((b"WWW-Authenticate", b'Bearer realm="ollama-cache-proxy"'),)
            return _Answer(status=401, body=_json({"error": "the admin token is missing or wrong"}), fields=challenge)
        return None

    async def _stats(self, _request: Request, _body: bytes) -> _Answer:
        hits, misses = self._counts()
        counted = await self._store.count()
        stats: dict[str, Any] = {
            "hits": hits,
            "misses": misses,
            "hitRate": round(100 * hits / (hits + misses), 1) if hits + misses else 0.0,
            "keys": counted.keys if counted is not None else 0,
        }
        if counted is not None and counted.age > 0:
            stats["keysAge"] = round(counted.age, 1)
        stats["store"] = {"name": self._store_name(), "state": "ok" if counted is not None else "degraded"}
        return _Answer(status=200, body=_json(stats))

    async def _clear(self, _request: Request, body: bytes) -> _Answer:
        if body.strip():
            try:
                filters = orjson.loads(body)
            except orjson.JSONDecodeError:
                return _error(400, "the body is not JSON")
            if filters != {}:
                return _error(400, "only an empty body or {} is understood: it clears everything")
        cleared = await self._store.clear()
        if cleared is None:
            return _error(503, "the store does not answer; nothing was cleared")
        return _Answer(status=200, body=_json({"cleared": cleared}))

    async def _healthz(self, _request: Request, _body: bytes) -> _Answer:
        return _Answer(status=200, body=_json({"status": "ok"}))

    async def _readyz(self, request: Request, _body: bytes) -> _Answer:
        """Say 200 while requests can be served, also without a neighbour; `?require=` makes named ones necessary."""
        upstream, store = await asyncio.gather(self._upstream_well(), self._store_well())
        parts = {"upstream": upstream, "store": store}
        required = {
            name
            for value in parse_qs(request.target.partition("?")[2]).get("require", [])
            for name in value.split(",")
            if name
        }
        unknown = required - parts.keys()
        if unknown:
            return _error(400, "require takes upstream and store")
        ready = self._serving() and all(parts[name] for name in required)
        told = {name: "ok" if well else "down" for name, well in parts.items()}
        status = ("ok" if all(parts.values()) else "degraded") if self._serving() else "draining"
        return _Answer(status=200 if ready else 503, body=_json({"status": status, **told}))

    async def _upstream_well(self) -> bool:
        request = Request(method="GET", target="/api/version", fields=())
        try:
            async with asyncio.timeout(_PROBE), self._upstream.ask(request, None) as answer:
                return answer.head.status < _SERVER_ERROR
        except (ProxyError, TimeoutError):
            return False

    async def _metrics(self, request: Request, _body: bytes) -> _Answer:
        accept = (first(request.fields, b"accept") or b"").decode("latin-1")
        body, kind = self._render(accept)
        return _Answer(status=200, body=body, kind=kind)


def _json(document: object) -> bytes:
    return orjson.dumps(document)


def _error(status: int, text: str) -> _Answer:
    return _Answer(status=status, body=_json({"error": text}))
