"""Requests to a running proxy or to Ollama over HTTP: every response within a deadline, every failure one line."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import orjson

from ollama_cache_proxy.cli.ending import WRONG, Failed
from ollama_cache_proxy.cli.screen import printable
from ollama_cache_proxy.workbench.cache_status import own_member

_DEADLINE: Final = 10.0
"""Seconds for a whole response."""

_LONG: Final = 86_400.0
_STALL: Final = 60.0
"""Seconds for a whole response of any length, and for each of its pieces."""

_CONNECT_DEADLINE: Final = 3.0
"""Seconds to connect."""

_MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of a response's body."""

_MAX_ERROR: Final = 65_536
"""Bytes of an error that are read."""

_FIXES: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "set OCP_ADMIN_TOKEN to the proxy's token",
    HTTPStatus.TOO_MANY_REQUESTS: "set OCP_ADMIN_TOKEN to the proxy's token",
    HTTPStatus.SERVICE_UNAVAILABLE: "run `ollama-cache-proxy doctor`",
}

PROXY_FIX: Final = "start one with `ollama-cache-proxy serve`, or name it with --url"
CREDENTIALS_FIX: Final = (
    "set upstream_authorization (OCP_UPSTREAM_AUTHORIZATION); for clients that have none of their own the proxy uses it"
    ' with upstream_authorization_for = "all"'
)
OLLAMA_FIX: Final = "start it with `ollama serve`, or name it with --upstream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cache_status: str = ""
    """The member of Cache-Status of the proxy that was asked; empty where there is none."""
    begun: float
    """Unix time before the request was sent."""
    ended: float
    """Unix time when the last byte had arrived."""

    def json(self) -> Any:
        """Return the body as JSON, None if it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class Server:
    """A server at a URL: `title` names it in messages, `fix` says what to do if it does not answer.

    `authority` is a PEM file of CA certificates to trust, by default the system's. Raise Failed if it is not one.
    `authorization` goes with every request, if it is not empty.
    """

    def __init__(  # noqa: PLR0913 - what tells one server from another
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        title: str,
        fix: str,
        authority: str | None = None,
        authorization: str = "",
    ) -> None:
        try:
            self._tls = True if authority is None else ssl.create_default_context(cafile=authority)
        except OSError:
            raise Failed(f"{authority} is not a PEM file of CA certificates", status=WRONG) from None
        self._session = session
        self._credentials = {"Authorization": authorization} if authorization else {}
        self.url = url
        self.title = title
        self.fix = fix

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        within: float = _DEADLINE,
    ) -> Response:
        """Return the response to a request. Raise Failed if it is not complete after `within` seconds."""
        begun, read = time.time(), bytearray()
        async with self._responding(path, method, headers, body, within) as response:
            async for chunk in response.content.iter_any():
                read += chunk
                if len(read) > _MAX_BYTES:
                    raise Failed(f"{self.title} at {self.url} sends an endless response")
            return Response(
                status=response.status,
                headers=response.headers,
                body=bytes(read),
                cache_status=own_member(response.headers.getall("Cache-Status", ())),
                begun=begun,
                ended=time.time(),
            )

    async def pieces_of(
        self, path: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[tuple[int, Mapping[str, str], bytes], None]:
        """Yield the status, the fields and each piece of a response of any length. Raise Failed, also where it stalls.

        Nothing is read ahead: who takes long is waited for.
        """
        async with self._responding(path, "GET", headers, None, _LONG, stall=_STALL) as response:
            yield response.status, response.headers, b""
            async for chunk in response.content.iter_any():
                yield response.status, response.headers, chunk

    async def stream(self, path: str, body: bytes, *, within: float) -> tuple[int, list[tuple[float, bytes]]]:
        """Return the status of the response to a POST, and its pieces with the monotonic time of their arrival."""
        headers = {"Cache-Control": "no-store"}
        async with self._responding(path, "POST", headers, body, within) as response:
            return response.status, [(time.monotonic(), chunk) async for chunk in response.content.iter_any()]

    @property
    def has_credentials(self) -> bool:
        """Whether its requests carry credentials."""
        return bool(self._credentials)

    @asynccontextmanager
    async def _responding(  # noqa: PLR0913 - what a request is, and its deadlines
        self,
        path: str,
        method: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        within: float,
        *,
        stall: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=within, sock_connect=_CONNECT_DEADLINE, sock_read=stall)
        name = self.title.split()[-1]
        try:
            async with self._session.request(
                method,
                self.url + path,
                headers={**self._credentials, **(headers or {})},
                data=body,
                allow_redirects=False,
                timeout=timeout,
                ssl=self._tls,
            ) as response:
                yield response
        except TimeoutError:
            raise Failed(f"{self.title} at {self.url} did not answer in time", self.fix) from None
        except aiohttp.ClientConnectorCertificateError:
            raise Failed(
                f"{self.title} at {self.url} has a certificate that is not trusted",
                "set SSL_CERT_FILE to a file with its CA certificate",
            ) from None
        except (
            aiohttp.ClientConnectorSSLError,
            aiohttp.ClientResponseError,
            aiohttp.ClientPayloadError,
            aiohttp.ServerDisconnectedError,
        ):
            raise Failed(
                f"the server at {self.url} is not {self.title}, or closed the connection early", self.fix
            ) from None
        except (aiohttp.ClientError, OSError):
            raise Failed(f"no {name} answers at {self.url}", self.fix) from None


class Proxy(Server):
    """A running proxy, and the admin token for it."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        super().__init__(session, url, title="the proxy", fix=PROXY_FIX)
        self._token = token

    async def fetch(self, path: str, document: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON of one of the proxy's own routes, by POST if there is a `document`. Raise Failed."""
        response = await self.ask(
            f"{path}?{urlencode(query)}" if query else path,
            method="GET" if document is None else "POST",
            headers=self._headers if path not in (STATS, FORECAST, PROMPTS) else None,
            body=None if document is None else orjson.dumps(document),
            within=60.0,
        )
        return self._found(path, response)

    async def send(self, path: str, query: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """Return the JSON of one of the proxy's own routes to a POST of these bytes. Raise Failed."""
        target, headers = f"{path}?{urlencode(query)}", self._headers | {"Content-Type": "application/octet-stream"}
        return self._found(path, await self.ask(target, method="POST", headers=headers, body=body, within=60.0))

    async def pieces(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """Yield what one of the proxy's own routes sends, piece by piece. Raise Failed."""
        wrong = bytearray()
        status = HTTPStatus.OK.value
        async with aclosing(self.pieces_of(f"{path}?{urlencode(query)}", self._headers)) as pieces:
            async for status, fields, piece in pieces:
                if status == HTTPStatus.OK and fields.get("Content-Type") == "application/octet-stream":
                    yield piece
                elif len(wrong) < _MAX_ERROR:
                    wrong += piece
                else:
                    break
        if status != HTTPStatus.OK or wrong:
            raise self._refused(Response(status=status, headers={}, body=bytes(wrong), begun=0.0, ended=0.0))

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _found(self, path: str, response: Response) -> dict[str, Any]:
        """Return the JSON in a response. Raise Failed where it is another than that of this route."""
        found = response.json()
        if response.status == HTTPStatus.OK and isinstance(found, dict) and _SIGNATURES[path] in found:
            return found
        raise self._refused(response)

    def _refused(self, response: Response) -> Failed:
        found = response.json()
        error = found.get("error") if isinstance(found, dict) else None
        if isinstance(error, str):
            return Failed(f"{self.url} says: {printable(error)}", _FIXES.get(response.status, ""))
        if response.status == HTTPStatus.FORBIDDEN:
            return Failed(
                f"{self.url} refuses this Host", "use localhost or an IP address in --url, or allow it (allowed_hosts)"
            )
        return Failed(f"the server at {self.url} is not ollama-cache-proxy (status {response.status})", self.fix)


STATS: Final = "/api/cache/stats"
CLEAR: Final = "/api/cache/clear"
ENTRIES: Final = "/api/cache/entries"
EXPLAIN: Final = "/api/cache/explain"
EXPORT: Final = "/api/cache/export"
IMPORT: Final = "/api/cache/import"
FORECAST: Final = "/api/cache/forecast"
PROMPTS: Final = "/api/cache/prompts"
UPSTREAMS: Final = "/api/cache/upstreams"
_SIGNATURES: Final = {
    STATS: "hitRate",
    CLEAR: "cleared",
    ENTRIES: "entries",
    EXPLAIN: "candidate",
    IMPORT: "imported",
    FORECAST: "whatIf",
    PROMPTS: "reusedTokens",
}
"""For each route a member of its response that no other server would send."""


@asynccontextmanager
async def proxy_at(url: str, token: str) -> AsyncIterator[Proxy]:
    """Open a client of the proxy at a URL."""
    async with client() as session:
        yield Proxy(session, url, token)


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Open an HTTP session that stores no cookies and ignores the environment's proxy settings."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": "ollama-cache-proxy-cli"}
    ) as session:
        yield session
