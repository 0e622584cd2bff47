"""Make quantized models on an Ollama, and remove them again."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Final

import orjson

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.api import Api, Refused
from ollama_cache_proxy.cli.jobs.progress import Steps
from ollama_cache_proxy.workbench import pace
from ollama_cache_proxy.workbench.levels import Target, instead, same
from ollama_cache_proxy.workbench.pace import Made

_UNLOAD_DEADLINE: Final = 2.0
"""Seconds for Ollama to unload a model before it is removed."""

TICK: Final = 30.0
"""Seconds between two lines that say that a model is still being made, where no bar shows it."""

_ENDING: Final = (
    "Ending: waiting for Ollama to finish {name}, so that no partial model stays on its disk"
    " (a second Ctrl-C ends immediately)"
)


async def _tick(what: str, steps: Steps) -> None:
    """Show from time to time that it goes on."""
    begun = time.monotonic()
    while True:
        await asyncio.sleep(TICK)
        steps.still(what, time.monotonic() - begun)


class Makings:
    """The models that this run makes; no other model is ever removed."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._begun: list[str] = []
        self._latest: Made | None = None

    async def make(self, source: str, target: Target, sizes: tuple[int, int], steps: Steps) -> None:
        """Make a model; `sizes` are the bytes of the source, and about those of the result.

        If cancelled, wait until Ollama has finished; if cancelled again, do not wait.
        """
        if any(same(str(row.get("name")), target.name) for row in await self._api.installed()):
            raise Failed(f"{target.name} exists by now", f"give the result another name: --to {target.level}=NAME")
        self._begun.append(target.name)
        steps.begin(f"Making {target.name}", None, pace.about(*sizes, self._latest))
        begun = time.monotonic()
        reading = asyncio.create_task(self._read(source, target, steps))
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            steps.say(_ENDING.format(name=target.name))
            with suppress(Failed):
                await reading
            raise
        self._latest = Made(name=target.name, moved=sum(sizes), seconds=time.monotonic() - begun)

    async def _read(self, source: str, target: Target, steps: Steps) -> None:
        """Read what Ollama tells of its progress: 0.24 often, 0.33 nothing until it is done."""
        body = {"model": target.name, "from": source, "quantize": target.level, "stream": True}
        status = ""
        ticking = asyncio.create_task(_tick(f"Making {target.name}", steps))
        try:
            async for row in self._api.rows("/api/create", body):
                status = str(row.get("status", ""))
                if row.get("total"):
                    steps.at(row.get("completed", 0) / row["total"])
        except Refused as refused:
            if refused.response != HTTPStatus.BAD_REQUEST:
                raise
            raise Failed(refused.what, instead(source)) from None
        finally:
            ticking.cancel()
        if status != "success":
            raise Failed(f"Ollama stopped making {target.name} at {status!r}", "see its log")

    @property
    def made(self) -> list[str]:
        """The names of the models made so far."""
        return list(self._begun)

    async def remove(self, name: str) -> None:
        """Unload and remove a model of this run; it may be missing if making it failed."""
        unload = orjson.dumps({"model": name, "keep_alive": 0, "stream": False})
        with suppress(Failed):
            await self._api.ask("/api/generate", method="POST", body=unload, within=_UNLOAD_DEADLINE)
        response = await self._api.ask("/api/delete", method="DELETE", body=orjson.dumps({"model": name}))
        if response.status >= HTTPStatus.BAD_REQUEST and response.status != HTTPStatus.NOT_FOUND:
            raise Failed(f"{name} could not be removed (status {response.status})", f"`ollama rm {name}`")
        self._begun.remove(name)

    async def remove_all(self, steps: Steps) -> None:
        """Remove all models of this run; for one that cannot be removed, say how to do it."""
        for name in self.made:
            try:
                await self.remove(name)
            except Failed:
                steps.say(f"{name} could not be removed: `ollama rm {name}`")
