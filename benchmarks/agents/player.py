"""Plays requests one after another against a server, and measures: first token, whole answer, tokens reused."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiohttp
import orjson

from benchmarks.agents import told
from benchmarks.agents.prompt_speed import PromptSpeed, fitted
from ollama_cache_proxy.policy.usage import has_output
from ollama_cache_proxy.workbench.requests import Request

_OK: Final = 200
_LOADED: Final = re.compile(
    rb'msg="loading cache slot".* prompt=([0-9]+) used=([0-9]+)'
    rb"|task\.n_tokens = ([0-9]+)\n(?:(?!.*new prompt).*\n)*?.*cached n_tokens = ([0-9]+)"
)
"""What a runner writes up to 0.30, and what llama.cpp's server does: there the first of several batches counts."""
_LENGTHS: Final = (25, 120, 480)
"""Pairs of numbers in the cold runs."""


class PlayError(Exception):
    """A request was not answered as it should be; the text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One answered request; times in seconds. `told` says whether the server told `reused`; else it is inferred.

    `used` is what the runner's log says was reused, where there is one.
    """

    first: float
    total: float
    prompt: int
    reused: int
    told: bool
    work: float | None
    output: int
    text: str
    used: int | None = None

    @property
    def there(self) -> int:
        """The tokens that were there already, by the best source."""
        return self.reused if self.used is None else self.used

    @property
    def facts(self) -> dict[str, float | int | bool | None]:
        """Everything but the text."""
        times = {"first_ms": round(self.first * 1e3, 3), "total_ms": round(self.total * 1e3, 3)}
        work = None if self.work is None else round(self.work * 1e3, 3)
        return {
            **times,
            "work_ms": work,
            "prompt": self.prompt,
            "reused": self.reused,
            "told": self.told,
            "output": self.output,
            "used": self.used,
        }


class RunnerLog:
    """The log of an Ollama that runs with OLLAMA_DEBUG=1: its runner says what it finds in a slot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size

    def used(self, prompt: int) -> int | None:
        """Return how much of the last prompt was reused, None unless that prompt had so many tokens."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            found = [tuple(filter(None, groups)) for groups in _LOADED.findall(file.read())]
            self._at = file.tell()
        return int(found[-1][1]) if found and int(found[-1][0]) == prompt else None


class Player:
    """A client with one connection; the timeout is for each request, in seconds."""

    def __init__(
        self, url: str, speed: PromptSpeed | None = None, log: RunnerLog | None = None, *, timeout: float = 600.0
    ) -> None:
        self.url = url.rstrip("/")
        self.speed, self.log = speed, log
        self.cold: list[tuple[int, float]] = []
        """What the speed was measured by: tokens and seconds."""
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def play(self, request: Request) -> Played:
        """Return how a request was answered. Raise PlayError."""
        assert self._session is not None
        headers = {"Content-Type": "application/json", **request.headers}
        begun, first, parts = time.perf_counter(), 0.0, []
        try:
            async with self._session.post(self.url + request.path, data=request.body, headers=headers) as response:
                async for part in response.content.iter_any():
                    if not first and has_output(part):
                        first = time.perf_counter() - begun
                    parts.append(part)
                body = b"".join(parts)
                if response.status != _OK:
                    raise PlayError(f"{request.origin}: status {response.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PlayError(f"{request.origin}: {type(error).__name__}") from error
        total = time.perf_counter() - begun
        try:
            found = told.read(body)
        except ValueError as error:
            raise PlayError(f"{request.origin}: {error}") from error
        first = first or total
        reused = found.reused
        if reused is None:
            spent = first if found.work is None else found.work
            reused = 0 if self.speed is None else self.speed.reused(found.prompt, spent)
        return Played(
            first=first,
            total=total,
            prompt=found.prompt,
            reused=reused,
            told=found.reused is not None,
            work=found.work,
            output=found.output,
            text=found.text,
            used=None if self.log is None else self.log.used(found.prompt),
        )

    async def empty(self, model: str, context: int | None = None) -> None:
        """Unload a model and load it again: nothing of its prompt cache is left."""
        await self._ask({"model": model, "keep_alive": 0})
        options = {} if context is None else {"options": {"num_ctx": context}}
        await self._ask({"model": model, **options})

    async def measure_speed(self, model: str) -> None:
        """Find out how fast prompts are read, by some of which nothing was there before."""
        for length in _LENGTHS:
            await self.empty(model)
            prompt = " ".join(f"{length} {number}" for number in range(length))
            options = {"num_predict": 1, "temperature": 0}
            body = {"model": model, "prompt": prompt, "raw": True, "stream": False, "options": options}
            request = Request(origin="cold run", path="/api/generate", body=orjson.dumps(body))
            played = await self.play(request)
            self.cold.append((played.prompt, played.total if played.work is None else played.work))
        self.speed = fitted(self.cold)

    async def _ask(self, body: dict[str, object]) -> None:
        assert self._session is not None
        try:
            async with self._session.post(f"{self.url}/api/generate", json={**body, "stream": False}) as response:
                await response.read()
                if response.status != _OK:
                    raise PlayError(f"loading: status {response.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PlayError(f"loading: {type(error).__name__}") from error
