"""Looks at several Ollamas in the background: whether each answers, what it has, what it has loaded.

`/api/version` tells whether a host is well; `/api/ps` is asked with it, `/api/tags` every few seconds, and after
changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import model_names, model_rows
from ollama_cache_proxy.policy.host_health import DEADLINE
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.upstream.fleet_host import FleetHost
from ollama_cache_proxy.upstream.probes import read_json

_TAGS_EVERY: Final = 5.0
"""Seconds."""
_LISTS_DEADLINE: Final = 5.0
"""Seconds for what a host has; one that takes long for it is not ejected."""
_AGENT: Final = ((b"User-Agent", b"ollama-cache-proxy"),)
_FAULTS: Final = (ProxyError, TimeoutError, ValueError, KeyError, TypeError, AttributeError)


class FleetLooks:
    """Looks at `hosts` until `close`. `changed` is called when one was ejected or taken back."""

    def __init__(
        self, hosts: Sequence[FleetHost], *, clock: Clock, tasks: Tasks, changed: Callable[[FleetHost], None]
    ) -> None:
        self._hosts = hosts
        self._clock = clock
        self._tasks = tasks
        self._changed = changed
        self._tags_at: dict[str, float] = {}
        self._looking: list[asyncio.Task[None]] = []
        self._seeing: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Look at every host once, and go on in the background."""
        await asyncio.gather(*map(self.look, self._hosts))
        await self.see_tags()
        self._looking = [
            self._tasks.spawn(self._keep_looking(host), "look at an upstream", endless=True) for host in self._hosts
        ]

    def close(self) -> None:
        """Look no more."""
        for task in self._looking:
            task.cancel()

    async def _keep_looking(self, host: FleetHost) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, host.health.look_at - self._clock.monotonic())):
                    await host.look.wait()
            host.look.clear()
            await self.look(host)
            seeing = self._seeing.get(host.name)
            if not host.health.ejected and (seeing is None or seeing.done()):  # it must not hold up the next look
                work = self._see(host)
                self._seeing[host.name] = self._tasks.spawn(work, "see what an upstream has", endless=True)

    async def look(self, host: FleetHost) -> None:
        """Look once whether a host is well."""
        try:
            async with asyncio.timeout(DEADLINE):
                async with host.probes.ask(_get("/api/version"), None) as response:
                    status = response.head.status
                    async for _ in response.chunks():
                        pass
        except (ProxyError, TimeoutError):
            self._failed(host)
            return
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            host.reason = f"its own look got a {status}"
            self._failed(host)
            return
        host.reason = ""
        if host.health.look_was_well(self._clock.monotonic()):
            host.tags_wanted = True
            self._changed(host)

    def _failed(self, host: FleetHost) -> None:
        ejected = host.health.look_failed(self._clock.monotonic())
        if host.health.hangs:
            host.lose()
        if ejected:
            self._changed(host)

    async def see_tags(self) -> None:
        """Look at once at what each host that is well has."""
        self._tags_at.clear()
        await asyncio.gather(*(self._see(host) for host in self._hosts if not host.health.ejected))

    async def _see(self, host: FleetHost) -> None:
        """Take in what a host has, and what it has loaded; what it does not tell is not known."""
        now = self._clock.monotonic()
        tags = host.tags_wanted or now - self._tags_at.get(host.name, float("-inf")) >= _TAGS_EVERY
        if tags:
            host.tags_wanted = False
            self._tags_at[host.name] = now
            host.digests, host.version = await _digests(host), await _version(host)
        before = frozenset(host.served)
        host.loaded = await _loaded(host)
        host.served -= before


async def _digests(host: FleetHost) -> dict[str, str] | None:
    try:
        rows = model_rows.each((await _read(host, "/api/tags"))["models"])
        told = [(model_names.canonical(row["name"]), model_rows.text(row, "digest")) for row in rows]
    except _FAULTS:
        return None
    return {name: digest for name, digest in told if name is not None}


async def _version(host: FleetHost) -> str | None:
    try:
        return model_rows.version(await _read(host, "/api/version")) or None
    except _FAULTS:
        return None


async def _loaded(host: FleetHost) -> frozenset[str]:
    try:
        rows = model_rows.rows(await _read(host, "/api/ps"))
        return frozenset(name for row in rows if (name := model_names.canonical(row["name"])) is not None)
    except _FAULTS:
        return frozenset()


async def _read(host: FleetHost, target: str) -> Any:
    async with asyncio.timeout(_LISTS_DEADLINE):
        return await read_json(host.probes, _get(target))


def _get(target: str) -> Request:
    return Request(method="GET", target=target, fields=_AGENT)
