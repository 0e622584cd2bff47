"""The proxy's own routes: access, health and metrics. Those about entries are in entry_routes.py.

Reading follows the Host rule of proxied requests and nothing more. Changing, and listing entries or requests, needs an
Origin that is absent or our own and, on a listener that others can reach, the admin token. Packs need the token
everywhere: whoever imports chooses what others are served, and whoever exports reads what others have asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, TypeAlias, assert_never
from urllib.parse import parse_qs

from ollama_cache_proxy.admin.own_route import Route, Stream
from ollama_cache_proxy.admin.pack_routes import EXPORT, IMPORT
from ollama_cache_proxy.admin.token_guard import TokenGuard
from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.ports import Client, Clock, Upstream
from ollama_cache_proxy.core.store_ports import StoreState
from ollama_cache_proxy.policy.fields import is_own_origin
from ollama_cache_proxy.policy.messages import Request, first
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.replies import Reply, error, head, json, stream_head

_MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes of a request's body."""
_PROBE_TIMEOUT: Final = 1.0
"""Seconds that Ollama has to respond to `/readyz`."""
_READING: Final = frozenset({"GET", "HEAD"})
_GUARDED: Final = "/api/cache/entries"
"""Keys and namespaces reveal more than figures: a guessed prompt could be confirmed by its key."""
_WITH_TOKEN: Final = frozenset({EXPORT, IMPORT})
"""On loopback other users of the machine could ask, too."""


@record
class Access:
    """Who may change things: everyone on a `loopback` listener, else only with `token` (empty: no one)."""

    loopback: bool
    token: str


Render: TypeAlias = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Returns the metrics and their Content-Type for an Accept field."""

OpenEvents: TypeAlias = Callable[[bool], Reply | Stream]
"""Returns a stream of events; the argument says whether the client may see single requests."""

Routes: TypeAlias = Mapping[str, Mapping[str, Route]]
"""Handlers by path and method. A path that ends in a slash stands for every path below it."""


class Admin:
    """Serves the proxy's own routes: `routes`, health, metrics and events.

    `upstream` is asked for its version; `refusal` tells why it refuses the proxy, empty where it does not.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        *,
        routes: Routes,
        store_state: Callable[[], StoreState],
        upstream: Upstream,
        refusal: Callable[[], str],
        render: Render,
        events: OpenEvents,
        serving: Callable[[], bool],
        access: Access,
        guard: TokenGuard,
        clock: Clock,
    ) -> None:
        self._store_state = store_state
        self._upstream = upstream
        self._refusal = refusal
        self._render = render
        self._open_events = events
        self._serving = serving
        self._access = access
        self._guard = guard
        self._clock = clock
        self._routes: Routes = {
            **routes,
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/api/cache/events": {"GET": self._figures},
        }

    def owns(self, request: Request) -> bool:
        """Return whether the request is for one of the proxy's own routes."""
        return self._methods_of(request) is not None

    def _methods_of(self, request: Request) -> Mapping[str, Route] | None:
        path = request.target.partition("?")[0]
        below = path[: path.rfind("/") + 1]
        return self._routes.get(path) or self._routes.get(below)

    async def serve(self, request: Request, client: Client) -> None:
        """Respond to a request that this owns."""
        response = await self._respond(request, client, self._methods_of(request) or {})
        match response:
            case Reply():
                await client.send(head(response, self._clock.now()), response.body)
            case Stream():
                async with aclosing(response.pieces):
                    await self._stream(response, client, bodyless=request.method == "HEAD")
            case never:
                assert_never(never)

    async def _stream(self, response: Stream, client: Client, *, bodyless: bool) -> None:
        """Send piece by piece; reset the connection of a client that reads too slowly."""
        try:
            await client.begin(stream_head(response.kind, self._clock.now(), response.fields), None)
            if not bodyless:
                async for piece in response.pieces:
                    async with asyncio.timeout(response.write_timeout):
                        await client.write(piece)
            await client.finish()
        except TimeoutError:
            client.abort()

    async def _respond(self, request: Request, client: Client, methods: Mapping[str, Route]) -> Reply | Stream:
        method = "GET" if request.method == "HEAD" else request.method
        route = methods.get(method)
        if route is None:
            allow = ", ".join("GET, HEAD" if name == "GET" else name for name in methods)
            return error(405, "method not allowed", ((b"Allow", allow.encode()),))
        guarded = method not in _READING or request.target.startswith(_GUARDED) or _wants_token(request)
        answered = await self._answered_here(request, client, route, guarded=guarded)
        if answered is not None:
            return answered
        if not guarded:  # bodies of unguarded requests are not read into memory
            return await route(request, b"")
        try:
            body = await client.body(_MAX_BODY, _any_size)
        except ProxyError as late:
            return error(late.status, late.message)
        return await route(request, body) if body is not None else error(413, "the body is too large")

    async def _answered_here(
        self, request: Request, client: Client, route: Route, *, guarded: bool
    ) -> Reply | Stream | None:
        """Return the response to a client that may not have what it wants, or may see more than others; else None."""
        more = route == self._figures
        if not (guarded or more):
            return None
        if not is_own_origin(request.fields):
            return error(403, "a page of another origin may not change or list the cache")
        denied = await self._denial(request, client)
        if denied is None:
            return self._open_events(True) if more else None  # noqa: FBT003 - OpenEvents says what it means
        return denied if guarded or denied.status == HTTPStatus.TOO_MANY_REQUESTS else None

    async def _denial(self, request: Request, client: Client) -> Reply | None:
        """Return the error for a request that may neither change nor list the cache; None if it may."""
        if self._access.loopback and not _wants_token(request):
            return None
        if not self._access.token and _wants_token(request):
            return error(403, "packs need an admin token, also on loopback: start the proxy with OCP_ADMIN_TOKEN")
        if not self._access.token:
            return error(403, "set OCP_ADMIN_TOKEN to allow changes on a listener that is not on loopback")
        return await self._guard.denial(request, client, self._access.token)

    async def _figures(self, _request: Request, _body: bytes) -> Reply | Stream:
        """Stream figures to every client; who may list entries is shown single requests too."""
        return self._open_events(False)  # noqa: FBT003 - as above

    async def _healthz(self, _request: Request, _body: bytes) -> Reply:
        return json({"status": "ok"})

    async def _readyz(self, request: Request, _body: bytes) -> Reply:
        """Respond 200 while requests can be served, even without store or Ollama unless `?require=` names them."""
        upstream, store = await self._upstream_well(), self._store_state()
        refusal = self._refusal() if upstream else ""
        parts = {"upstream": upstream and not refusal, "store": store.answers and store.stores}
        required = {
            name
            for value in parse_qs(request.target.partition("?")[2]).get("require", [])
            for name in value.split(",")
            if name
        }
        unknown = required - parts.keys()
        if unknown:
            return error(400, "require takes upstream and store")
        ready = self._serving() and all(parts[name] for name in required)
        states = {name: "ok" if well else "down" for name, well in parts.items()}
        if refusal:
            states |= {"upstream": "refused", "reason": refusal}
        if store.answers and not store.stores:
            states["store"] = "read-only"
        if not parts["store"]:
            states["storeReason"] = store.reason
        status = ("ok" if all(parts.values()) else "degraded") if self._serving() else "draining"
        return json({"status": status, **states}, 200 if ready else 503)

    async def _upstream_well(self) -> bool:
        request = Request(method="GET", target="/api/version", fields=())
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT), self._upstream.ask(request, None) as response:
                return response.head.status < HTTPStatus.INTERNAL_SERVER_ERROR
        except (ProxyError, TimeoutError):
            return False

    async def _metrics(self, request: Request, _body: bytes) -> Reply:
        accept = (first(request.fields, b"accept") or b"").decode("latin-1")
        try:
            body, kind = await self._render(accept)
        except (TimeoutError, ConnectionError):  # metrics of this process alone would look like a restart
            return error(503, "the metrics of the other workers are not available")
        return Reply(body=body, kind=kind)


def _wants_token(request: Request) -> bool:
    return request.target.partition("?")[0] in _WITH_TOKEN


def _any_size(_size: int) -> bool:
    return True
