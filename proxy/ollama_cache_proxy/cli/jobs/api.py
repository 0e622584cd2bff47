"""Requests of the jobs to Ollama and to a proxy; every failure is raised as Failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import orjson

from ollama_cache_proxy.cli.asking import CREDENTIALS_FIX, OLLAMA_FIX, PROXY_FIX, STATS, Response, Server
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.screen import printable
from ollama_cache_proxy.service.settings import Settings, secret
from ollama_cache_proxy.workbench import told_rows
from ollama_cache_proxy.workbench.levels import same

_DEADLINE: Final = 86_400.0
"""Seconds for a response: loading and quantizing a model may take hours."""


class Refused(Failed):
    """A response that cannot be used; `response` is its HTTP status."""

    def __init__(self, what: str, fix: str = "", *, response: int) -> None:
        super().__init__(what, fix)
        self.response = response


class Api(Server):
    """Ollama, or a proxy in front of one."""

    async def timed(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, *, method: str = "POST"
    ) -> tuple[float, Response]:
        """Return the seconds to the last byte of a response, and the response, whatever its status."""
        begun = time.perf_counter()
        response = await self.ask(path, method=method, headers=headers, body=body, within=_DEADLINE)
        return time.perf_counter() - begun, response

    async def object(self, path: str, document: Any = None) -> dict[str, Any]:
        """Return the JSON object of a response, by POST if there is a `document`. Raise Failed."""
        method, body = ("GET", None) if document is None else ("POST", orjson.dumps(document))
        response = await self.ask(path, method=method, body=body, within=_DEADLINE)
        found = response.json()
        if response.status >= HTTPStatus.BAD_REQUEST or not isinstance(found, dict):
            raise self.refused(response.status, found)
        return found

    async def rows(
        self, path: str, document: Any, headers: Mapping[str, str] | None = None, *, may_be_empty: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the lines of a stream as they arrive. Raise Failed for a line with an error, and for no line at all."""
        async with self._responding(path, "POST", headers, orjson.dumps(document), _DEADLINE) as response:
            lines = 0
            async for line in response.content:
                row = _read(line)
                if not isinstance(row, dict) or "error" in row or response.status >= HTTPStatus.BAD_REQUEST:
                    raise self.refused(response.status, row)
                lines += 1
                yield row
            if not lines and not (may_be_empty and response.status == HTTPStatus.OK):
                raise self.refused(response.status, None)

    def refused(self, status: int, found: Any) -> Refused:
        """Return the failure for a response that cannot be used."""
        if status == HTTPStatus.UNAUTHORIZED:
            whom = "these credentials" if self.has_credentials else "requests without credentials"
            return Refused(f"{self.title} at {self.url} refuses {whom} (401)", CREDENTIALS_FIX, response=status)
        error = found.get("error") if isinstance(found, dict) else None
        if isinstance(error, str):
            return Refused(f"{self.title} at {self.url} says: {printable(error)}", response=status)
        what = f"{self.title} at {self.url} sent an unexpected response (status {status})"
        return Refused(what, self.fix, response=status)

    async def installed(self) -> list[dict[str, Any]]:
        """Return the rows of /api/tags that name a model."""
        return told_rows.rows(await self.object("/api/tags"))

    async def row_of(self, model: str) -> dict[str, Any]:
        """Return the row of a model in /api/tags. Raise Failed if it is not there."""
        rows = await self.installed()
        found = next((row for row in rows if same(row["name"], model)), None)
        if found is None:
            have = ", ".join(sorted(row["name"] for row in rows)) or "none"
            raise Failed(
                f"{self.title} at {self.url} has no model {model!r}", f"`ollama pull` it, or use one of: {have}"
            )
        return found


def _read(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def ollama(session: aiohttp.ClientSession, url: str, settings: Settings, *, other: bool = False) -> Api:
    """Return a client of Ollama; of an `other` one than that of the settings, without its credentials. Raise Failed."""
    authorization = "" if other else secret(settings.upstream_authorization)
    authority = settings.upstream_ca
    return Api(session, url, title="Ollama", fix=OLLAMA_FIX, authority=authority, authorization=authorization)


async def proxy(session: aiohttp.ClientSession, url: str) -> Api:
    """Return a client of a proxy. Raise Failed if the server is not one."""
    api = Api(session, url, title="the proxy", fix=PROXY_FIX)
    response = await api.ask(STATS)
    if response.status != HTTPStatus.OK or "hitRate" not in (response.json() or {}):
        raise Failed(f"the server at {url} is not ollama-cache-proxy", "set --url to the proxy")
    return api
