"""Take the pictures of the live page: `make screenshots`.

The traffic is always the same, before a simulated Ollama and a recorded graphics card. Ten minutes pass in half a one:
the clock of the proxy is moved on between requests, and for what Ollama would have taken. The forecast is that of
another proxy, after some weeks.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import random
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import aiohttp
from playwright.async_api import ViewportSize, async_playwright

from ollama_cache_proxy.core.facts import Resident
from ollama_cache_proxy.gpu.replay import Replay, recording
from ollama_cache_proxy.service import app, context
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.upstream import loaded_models

DOCS = Path(__file__).parent
BEGIN = datetime(2026, 3, 2, 9, 41, tzinfo=UTC).timestamp()
SPAN = 5.0
SPANS = 120
TAKES = {"/api/generate": 2.1, "/api/chat": 2.8, "/api/embed": 0.34}
"""Seconds that Ollama takes for a request, beside TAKES_REALLY."""
TAKES_REALLY = 0.25
"""Seconds for a completion, by which the simulator reckons its tokens a second."""
WEIGHTS = (43, 7, 50)
MODELS = ("llama3.2", "nomic-embed-text")
LOADED = (
    Resident(model="llama3.2:latest", size=3_367_856_128, vram=3_367_856_128),
    Resident(model="nomic-embed-text:latest", size=849_346_560, vram=849_346_560),
)
PICTURES: tuple[tuple[str, Literal["light", "dark"], ViewportSize], ...] = (
    ("cache-light", "light", ViewportSize(width=1200, height=1060)),
    ("cache-dark", "dark", ViewportSize(width=1200, height=1060)),
    ("cache-phone", "light", ViewportSize(width=375, height=812)),
)
WEEKS = 8
LISTS = 6
"""Lists of texts that are embedded a day, of the parts of a repository that change."""
_LARGEST = 150_000


class Stage(SystemClock):
    """A clock that is moved on by the play, and by every request that reaches Ollama."""

    moved = 0.0
    counted = 0
    ollama: Simulator

    def monotonic(self) -> float:
        """Give a time that only measures."""
        new = self.ollama.received[Stage.counted :]
        Stage.counted += len(new)
        Stage.moved += sum(TAKES.get(request.target, 0) for request in new)
        return super().monotonic() + self.moved

    def now(self) -> float:
        """Give the time of the play."""
        return BEGIN + self.moved


def requests(span: int, dice: random.Random) -> list[tuple[str, dict[str, object]]]:
    """Give what clients ask in one span: more and less of it, and ever more of what was asked before."""
    count = round(5 + 4 * math.sin(span / 9) + dice.random() * 4)
    chosen = []
    for path in dice.choices(tuple(TAKES), WEIGHTS, k=count):
        topic = int(dice.expovariate(1 / (6 + span / 3)))
        message = {"role": "user", "content": "hello"}
        bodies: dict[str, dict[str, object]] = {
            "/api/generate": {"model": MODELS[0], "prompt": f"topic {topic}", "stream": False},
            "/api/chat": {"model": MODELS[0], "messages": [message], "stream": False},
            "/api/embed": {"model": MODELS[1], "input": f"chunk {topic}"},
        }
        chosen.append((path, bodies[path]))
    return chosen


async def play(proxy: app.Running) -> None:
    """Ask all of it, one request after another."""
    dice = random.Random(4)  # noqa: S311 - always the same
    async with aiohttp.ClientSession(proxy.url) as session:
        for span in range(SPANS):
            Stage.moved = max(Stage.moved, span * SPAN)
            for path, body in requests(span, dice):
                async with session.post(path, data=json.dumps(body)) as answer:
                    await answer.read()
            proxy.exchanges.fast_path.report()


async def play_weeks(proxy: app.Running) -> None:
    """Embed a repository that grows, of which most was embedded some days ago."""
    dice = random.Random(4)  # noqa: S311 - always the same
    async with aiohttp.ClientSession(proxy.url) as session:
        for day in range(7 * WEEKS):
            for hour in range(LISTS):
                Stage.moved = max(Stage.moved, (24 * day + hour + dice.random()) * 3600)
                texts = [f"part {int(dice.expovariate(1 / 1000)) + 10 * day}" for _ in range(32)]
                document = {"model": MODELS[1], "input": texts}
                async with session.post("/api/embed", data=json.dumps(document)) as answer:
                    await answer.read()


async def photograph(url: str) -> None:
    """Take each picture with Debian's Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for name, scheme, viewport in PICTURES:
            page = await browser.new_page(
                viewport=viewport, color_scheme=scheme, reduced_motion="reduce", timezone_id="UTC"
            )
            await page.goto(f"{url}/cache")
            await page.get_by_role("row").nth(5).wait_for()
            await page.screenshot(path=DOCS / f"{name}.png")
            check(name)
        await browser.close()


async def photograph_forecast(url: str) -> None:
    """Take a picture of the forecast alone."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = await browser.new_page(viewport=ViewportSize(width=1000, height=1060), color_scheme="light")
        await page.goto(f"{url}/cache")
        await page.locator("figure:visible").nth(1).wait_for()
        await page.locator("#forecast").screenshot(path=DOCS / "cache-forecast.png")
        await browser.close()
    check("cache-forecast")


def check(name: str) -> None:
    """Say how large a picture is."""
    size = (DOCS / f"{name}.png").stat().st_size
    sys.stdout.write(f"docs/{name}.png: {size} bytes\n")
    if size > _LARGEST:
        raise SystemExit(f"docs/{name}.png is over {_LARGEST} bytes")


@asynccontextmanager
async def stage(**more: str) -> AsyncIterator[app.Running]:
    """Run a proxy with the clock of the play, before a simulated Ollama."""
    ticks = chain([0.0], repeat(25.0))
    card = Replay(recording("rtx4090"), clock=lambda: next(ticks))
    Stage.moved, Stage.counted = 0.0, 0
    async with Simulator(Behaviour(completion_delay=TAKES_REALLY, embedding_delay=0)) as ollama:
        Stage.ollama = ollama
        for name, embedding in zip(MODELS, (False, True), strict=True):
            ollama.models.add(name, embedding=embedding)
        settings = load(None, {"upstream": ollama.url, "listen": "127.0.0.1:0", "keep": False, **more})
        with bind(settings.listen) as sock:
            clock = patch.object(context, "SystemClock", Stage)
            models = patch.object(loaded_models, "_residents", lambda _: LOADED)  # the simulator has no graphics card
            with clock, models:
                async with app.running(settings, sock, stream=io.StringIO(), nvml=lambda: card) as proxy:
                    yield proxy


async def main() -> None:
    """Play, and take the pictures."""
    async with stage() as proxy:
        await play(proxy)
        await photograph(proxy.url)
    async with stage(store="memory") as proxy:
        await play_weeks(proxy)
        await photograph_forecast(proxy.url)


if __name__ == "__main__":
    asyncio.run(main())
