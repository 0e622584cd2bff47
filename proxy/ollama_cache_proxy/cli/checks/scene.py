"""What the checks work on: the settings, the proxy and Ollama. Each request is sent only once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson

from ollama_cache_proxy.cli.asking import STATS, Proxy, Response, Server
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.workbench import told_rows


@dataclass(slots=True, kw_only=True)
class Scene:
    """The servers and settings to check; responses are shared between checks."""

    settings: Settings
    proxy: Proxy
    ollama: Server
    state: Path
    """The file of what earlier runs saw (seen.py)."""
    stream: str | None = None
    """A model to stream from."""
    origin: str | None = None
    """The origin of a web page that should be allowed."""
    _asked: dict[tuple[str, str], asyncio.Task[Response]] = field(default_factory=dict)

    async def ask(self, server: Server, path: str) -> Response:
        """Return the response to a GET, sent once for all checks. Raise Failed."""
        target = (server.url, path)
        if target not in self._asked:
            self._asked[target] = asyncio.create_task(server.ask(path))
        return await asyncio.shield(self._asked[target])

    async def show(self, model: str) -> dict[str, Any] | None:
        """Return what `/api/show` of Ollama tells of a model, asked once for all checks; None where it does not."""
        target = (self.ollama.url, f"/api/show {model}")
        if target not in self._asked:
            body = orjson.dumps({"model": model})
            self._asked[target] = asyncio.create_task(self.ollama.ask("/api/show", method="POST", body=body))
        try:
            response = await asyncio.shield(self._asked[target])
        except Failed:
            return None
        found = response.json() if response.status == HTTPStatus.OK else None
        return found if isinstance(found, dict) else None

    async def close(self) -> None:
        """Cancel the requests that no check waits for any more."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def fetch(self, server: Server, path: str) -> Any:
        """Return the JSON of a response, None if there is none: another check reports that."""
        try:
            response = await self.ask(server, path)
        except Failed:
            return None
        return response.json() if response.status == HTTPStatus.OK else None

    async def models(self, server: Server) -> list[dict[str, Any]]:
        """Return the rows of a server's `/api/tags` that name a model."""
        return told_rows.rows(await self.fetch(server, "/api/tags"))

    async def loaded(self) -> list[dict[str, Any]] | None:
        """Return the rows of `/api/ps` of Ollama that name a model; None where it does not answer."""
        found = await self.fetch(self.ollama, "/api/ps")
        return None if found is None else told_rows.rows(found)

    async def stats(self) -> dict[str, Any] | None:
        """Return the statistics of the proxy, None if the server is not one."""
        stats = await self.fetch(self.proxy, STATS)
        return stats if isinstance(stats, dict) and "hitRate" in stats else None
