"""What the checks look at: the settings, the proxy and Ollama, each of which is asked the same thing only once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ollama_cache_proxy.cli.asking import STATS, Proxy, Response, Server
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.service.settings import Settings


@dataclass(slots=True, kw_only=True)
class Scene:
    """`state` is the file of what was seen before; `stream` names a model to stream, `origin` a page to ask for."""

    settings: Settings
    proxy: Proxy
    ollama: Server
    state: Path
    stream: str | None = None
    origin: str | None = None
    _asked: dict[tuple[str, str], asyncio.Task[Response]] = field(default_factory=dict)

    async def ask(self, server: Server, path: str) -> Response:
        """Ask, once for everybody; raises Failed."""
        place = (server.url, path)
        if place not in self._asked:
            self._asked[place] = asyncio.create_task(server.ask(path))
        return await asyncio.shield(self._asked[place])

    async def close(self) -> None:
        """End what nobody waits for any more."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def fetch(self, server: Server, path: str) -> Any:
        """Give the JSON that a server answers; None where it does not: another check tells of that."""
        try:
            response = await self.ask(server, path)
        except Failed:
            return None
        return response.json() if response.status == HTTPStatus.OK else None

    async def models(self, server: Server) -> list[dict[str, Any]]:
        """Give the rows of a server's `/api/tags`."""
        return list((await self.fetch(server, "/api/tags") or {}).get("models") or ())

    async def stats(self) -> dict[str, Any] | None:
        """Give what the proxy says of its cache; None where what answers is no proxy."""
        stats = await self.fetch(self.proxy, STATS)
        return stats if isinstance(stats, dict) and "hitRate" in stats else None
