"""Chromium for tests of the live page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from tests.support.leaving_out import program

AXE = Path(__file__).parents[1] / "e2e" / "clients" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"width": 320, "height": 640}


@dataclass(slots=True)
class Browser:
    """Opens pages, and records their requests and console messages."""

    open: Callable[..., Any]
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    binary = program("chromium", "chromium-browser", "google-chrome")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=binary)

        async def open_page(url: str, **options: Any) -> Page:
            page = await running.new_page(**({"color_scheme": "light", "reduced_motion": "reduce"} | options))
            page.on("request", lambda request: browser.asked.append(request.url))
            page.on("console", lambda message: browser.complaints.append(message.text))
            page.on("pageerror", lambda error: browser.complaints.append(str(error)))
            await page.add_init_script(
                "addEventListener('securitypolicyviolation', e => console.error('policy', e.violatedDirective))"
            )
            await page.goto(f"{url}/cache")
            return page

        browser = Browser(open_page)
        yield browser
        await running.close()
