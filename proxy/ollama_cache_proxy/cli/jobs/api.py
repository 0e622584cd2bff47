"""What the jobs ask of Ollama and of a proxy; every failure is Failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import orjson

from ollama_cache_proxy.cli.asking import OLLAMA_FIX, PROXY_FIX, STATS, Response, Server
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.screen import printable
from ollama_cache_proxy.workbench.levels import same

_DEADLINE: Final = 86_400.0
"""Seconds: loading, making and answering take as long as they take."""


class Api(Server):
    """Ollama, or a proxy in front of one."""

    async def timed(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, *, method: str = "POST"
    ) -> tuple[float, Response]:
        """Give the seconds to the last byte of an answer, and the answer, whatever its status."""
        begun = time.perf_counter()
        response = await self.ask(path, method=method, headers=headers, body=body, within=_DEADLINE)
        return time.perf_counter() - begun, response

    async def object(self, path: str, document: Any = None) -> dict[str, Any]:
        """Give a JSON object, asked by POST where there is a document."""
        method, body = ("GET", None) if document is None else ("POST", orjson.dumps(document))
        response = await self.ask(path, method=method, body=body, within=_DEADLINE)
        found = response.json()
        if response.status >= HTTPStatus.BAD_REQUEST or not isinstance(found, dict):
            raise self.refused(response.status, found)
        return found

    async def rows(
        self, path: str, document: Any, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Give the lines of a stream as they come; one that tells an error is Failed."""
        async with self._responding(path, "POST", headers, orjson.dumps(document), _DEADLINE) as response:
            lines = 0
            async for line in response.content:
                row = _read(line)
                if not isinstance(row, dict) or "error" in row or response.status >= HTTPStatus.BAD_REQUEST:
                    raise self.refused(response.status, row)
                lines += 1
                yield row
            if not lines:
                raise self.refused(response.status, None)

    def refused(self, status: int, found: Any) -> Failed:
        """Say what an answer says that is none of use."""
        said = found.get("error") if isinstance(found, dict) else None
        if isinstance(said, str):
            return Failed(f"{self.title} at {self.url} says: {printable(said)}")
        return Failed(f"{self.title} at {self.url} answers with something else (status {status})", self.fix)

    async def installed(self) -> list[dict[str, Any]]:
        """Give the rows of /api/tags."""
        models = (await self.object("/api/tags")).get("models")
        return models if isinstance(models, list) else []

    async def row_of(self, model: str) -> dict[str, Any]:
        """Give the row of a model in /api/tags."""
        rows = await self.installed()
        found = next((row for row in rows if same(str(row.get("name")), model)), None)
        if found is None:
            have = ", ".join(sorted(str(row.get("name")) for row in rows)) or "none at all"
            raise Failed(
                f"{self.title} at {self.url} has no model {model!r}", f"`ollama pull` it, or take one of: {have}"
            )
        return found


def _read(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def ollama(session: aiohttp.ClientSession, url: str, authority: str | None) -> Api:
    """Give an Ollama; raises Failed where `authority` is no PEM file of one."""
    return Api(session, url, title="Ollama", fix=OLLAMA_FIX, authority=authority)


async def proxy(session: aiohttp.ClientSession, url: str) -> Api:
    """Give a proxy that answers as one."""
    api = Api(session, url, title="the proxy", fix=PROXY_FIX)
    response = await api.ask(STATS)
    if response.status != HTTPStatus.OK or "hitRate" not in (response.json() or {}):
        raise Failed(f"what answers at {url} is no ollama-cache-proxy", "name it with --url")
    return api
