"""What other settings would have given, as the live page shows it in a real browser."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from ollama_cache_proxy.policy.forecast.ghosts import DAY, HOUR
from ollama_cache_proxy.policy.forecast.outlook import InForce, forecast
from ollama_cache_proxy.policy.forecast.traffic_sample import Asked, TrafficSample
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.telemetry.forecaster import TrafficForecaster
from tests.support.browser import AXE, PHONE, Browser, chromium
from tests.support.leaving_out import leave_out
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.terminal import piped

BEGIN = 1_700_000_000
DAYS = 60
PATH = "/api/cache/forecast"
_SPREAD = 0x9E3779B1
HIDE = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}})"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


def alike(_place: int) -> tuple[int | None, int | None]:
    return None, None


@cache
def sampled() -> TrafficSample:
    """Give 60 days of texts and prompts of which many are asked for again after days, in a cache that keeps a day."""
    dice, sample, stored = random.Random(1), TrafficSample(BEGIN), dict[int, int]()
    for day in range(DAYS):
        for embedding in (*(True,) * 100, *(False,) * 20):
            now = BEGIN + day * DAY + int(dice.random() * 8 * HOUR)
            key = int(dice.expovariate(1 / 400)) + 2 * day + (0 if embedding else 1_000_000)
            ttl = DAY if embedding else HOUR
            known = now - stored.get(key, 0) < ttl
            stored[key] = stored[key] if known else now

            def hashed(_place: int, key: int = key) -> int:
                return key * _SPREAD & 0xFFFFFFFF

            sample.add(
                Asked(
                    embedding=embedding,
                    keys=[key],
                    known=[known],
                    hashed=hashed,
                    alike=alike,
                    now=now,
                    until=stored[key] + ttl,
                    ends=stored[key] + ttl,
                    stored=True,
                    saved=4.0,
                    spent=4.0,
                    size=9000,
                )
            )
    return sample


@pytest.fixture
def months(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the route answer from traffic of two months."""

    def outlook(_: TrafficForecaster, force: InForce) -> dict[str, Any]:
        return forecast(sampled(), force, BEGIN + DAYS * DAY)

    monkeypatch.setattr(TrafficForecaster, "outlook", outlook)


async def told(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(url, "GET", PATH)).body)
    return found


async def embed(url: str, texts: int, **fields: str) -> None:
    body = json.dumps({"model": "all-minilm", "input": [f"text {number}" for number in range(texts)]}).encode()
    assert (await ask(url, "POST", "/api/embed", body=body, fields=fields)).status == 200


def figure(page: Page, title: str) -> Locator:
    return page.locator("figure").filter(has=page.locator("figcaption", has_text=re.compile(f"^{title}$")))


async def rows(shown: Locator) -> list[list[str]]:
    """Give the texts of the cells of a figure's table, but for the head."""
    await shown.locator("summary").click()
    return [await row.locator("th, td").all_inner_texts() for row in await shown.locator("tbody tr").all()]


def expected(row: Mapping[str, Any], title: str) -> list[str]:
    return [
        f"{title} (in force)" if row["inForce"] else title,
        f"{'≥ ' if row.get('atLeast') else ''}{row['texts']:.1f} %",
    ]


def lifetime(row: Mapping[str, Any]) -> str:
    if row["ttl"] is None:
        return str(row["lifetime"])
    return (
        f"{row['lifetime']}, {row['ttl'] // DAY} d"
        if row["ttl"] > DAY
        else f"{row['lifetime']}, {row['ttl'] // HOUR} h"
    )


def seconds(text: str) -> float:
    """Give the seconds that a cell says."""
    if text == "–":
        return 0.0
    sign, number, unit = re.fullmatch(r"([−+])([\d.,]+) (d|h|min|s)", text).groups()  # type: ignore[union-attr]
    return float(number.replace(",", "")) * {"d": DAY, "h": HOUR, "min": 60, "s": 1}[unit] * (1 if sign == "−" else -1)


def heights(marks: list[str]) -> Iterator[float]:
    """Give the rates that marks stand for, by their places from above."""
    for place in marks:
        yield pytest.approx(100 - float(place.removesuffix("%")))


@pytest.mark.usefixtures("months")
async def test_plots_and_tables_show_what_the_route_says(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, memory_bytes=16 << 20) as proxy:
        page, found = await browser.open(proxy.url), await told(proxy.url)
        await expect(page.locator("#advice")).to_have_text(found["advice"]["sentence"])
        await expect(page.locator("#sampled")).to_have_text("Judged by 7,200 requests; renewed each minute.")
        await expect(page.locator("#few")).to_be_empty()
        for kind in ("embeddings", "completions"):
            lifetimes, sizes = found[kind]["lifetimes"], found[kind]["sizes"]
            assert sum(row["inForce"] for row in lifetimes) == sum(row["inForce"] for row in sizes) == 1
            assert {row["atLeast"] for row in lifetimes} == {True, False}
            for over, points, titles in (
                ("lifetime", lifetimes, [lifetime(row) for row in lifetimes]),
                ("store size", sizes, [f"{row['bytes'] >> 20} MiB" for row in sizes]),
            ):
                shown = figure(page, f"{kind.capitalize()} by {over}")
                texts = await rows(shown)
                assert [row[:2] for row in texts] == [
                    expected(row, title) for row, title in zip(points, titles, strict=True)
                ]
                for row, (_, _, worth) in zip(points, texts, strict=True):
                    assert seconds(worth) == pytest.approx(row["seconds"], rel=0.05, abs=1)
                marks = await shown.locator("svg.mark:not(.ring)").evaluate_all(
                    "all => all.map(n => n.getAttribute('y'))"
                )
                assert list(heights(marks)) == [row["texts"] for row in points]
                least = await shown.locator("svg.mark.least").count()
                assert least == sum(row.get("atLeast", False) for row in points)
                places = await shown.locator("svg.mark:not(.ring)").evaluate_all(
                    "all => all.map(n => parseFloat(n.getAttribute('x')))"
                )
                assert all(0 <= place <= 100 for place in places)
                assert places == sorted(places) or over == "lifetime"
        assert browser.complaints == []


@pytest.mark.usefixtures("months")
@pytest.mark.parametrize(
    ("settings", "over", "title"),
    [
        ({}, "lifetime", "fixed, 24 h"),
        ({"ttl_embedding": 12 * HOUR}, "lifetime", "fixed, 12 h"),
        ({"ttl_embedding": 90}, "lifetime", "fixed, 1.5 min"),
        ({"lifetime": "idle", "ttl_embedding": 7 * DAY}, "lifetime", "idle, 7 d"),
        ({"lifetime": "until-evicted"}, "lifetime", "until-evicted"),
        ({"memory_bytes": 16 << 20}, "store size", "16 MiB"),
        ({"memory_bytes": 1 << 20}, "store size", "1 MiB"),
        ({"memory_bytes": 3 << 30}, "store size", "3 GiB"),
    ],
)
async def test_the_setting_in_force_is_marked(
    browser: Browser, simulator: Simulator, settings: dict[str, Any], over: str, title: str
) -> None:
    async with proxy_before(simulator.url, **settings) as proxy:
        page, kind = await browser.open(proxy.url), (await told(proxy.url))["embeddings"]
        shown = figure(page, f"Embeddings by {over}")
        ring = shown.locator("svg.ring")
        await expect(ring).to_have_count(1)
        every = kind["lifetimes" if over == "lifetime" else "sizes"]
        rate = next((row for row in every if row["inForce"]), kind["now"])
        assert list(heights([str(await ring.get_attribute("y"))])) == [rate["texts"]]
        least = "≥ " if rate.get("atLeast") else ""
        said = f"in force: {title}, {least}{rate['texts']:.1f} %"
        await expect(shown.locator("li.force")).to_have_text(said)
        await expect(
            shown.get_by_role("img", name=f"Embeddings by {over}, {said}. The figures are in the table")
        ).to_be_visible()
        marked = [row[0] for row in await rows(shown) if "force" in row[0]]
        assert marked == [f"{title} (in force)"]
        (place,) = [float(str(await ring.get_attribute("x")).removesuffix("%"))]
        (line,) = await shown.locator("line.force").evaluate_all(
            "all => all.map(n => parseFloat(n.getAttribute('x1')))"
        )
        assert 0 <= place == line <= 100
        if rate in every:
            mark = shown.locator("svg.mark:not(.ring)").nth(every.index(rate))
            assert await mark.get_attribute("x") == await ring.get_attribute("x")
        assert browser.complaints == []


async def test_with_too_little_traffic_it_says_so(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#advice")).to_have_text(
            re.compile(r"^Too little traffic yet to say, since .* UTC\.$")
        )
        await expect(page.locator("#sampled")).to_be_hidden()
        await embed(proxy.url, 12)
        await page.reload()
        await expect(page.locator("#few")).to_have_text("Embeddings: too little traffic yet (12 of 200).")
        await expect(page.locator("#advice")).to_have_text((await told(proxy.url))["advice"]["sentence"])
        await expect(page.locator("#sampled")).to_have_text("Judged by 1 request; renewed each minute.")
        await expect(page.locator("figure:visible")).to_have_count(0)
        await embed(proxy.url, 250)
        await page.reload()
        await expect(page.locator("#few")).to_have_text(
            "Embeddings: too few keys yet to tell sizes of the store apart."
        )
        await expect(page.locator("figure:visible figcaption")).to_have_text(["Embeddings by lifetime"])
        assert browser.complaints == []


async def test_the_advice_is_what_the_command_says(browser: Browser) -> None:
    slow = Behaviour(embedding_delay=0.5)
    async with Simulator(slow) as simulator, proxy_before(simulator.url) as proxy:
        for name in ("Bearer anne", "Bearer bert"):
            await embed(proxy.url, 250, Authorization=name)
        page = await browser.open(proxy.url)
        said = (await piped("advise", "--url", proxy.url)).out.splitlines()[0]
        assert said.startswith("If clients shared one Authorization, 50.0 % of texts")
        await expect(page.locator("#advice")).to_have_text(said)
        await expect(figure(page, "Embeddings by lifetime").locator("li.force")).to_have_text(
            "in force: fixed, 24 h, ≥ 0.0 %"
        )
        assert browser.complaints == []


@pytest.mark.usefixtures("months")
async def test_the_tables_open_with_the_keyboard_and_have_names(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, memory_bytes=16 << 20) as proxy:
        page = await browser.open(proxy.url)
        titles = [f"{kind} by {over}" for kind in ("Embeddings", "Completions") for over in ("lifetime", "store size")]
        await expect(page.get_by_role("img", name=re.compile("The figures are in the table"))).to_have_count(4)
        await page.get_by_role("button", name="Clear the cache…").focus()
        for title in titles:
            await page.keyboard.press("Tab")
            summary = figure(page, title).locator("summary")
            await expect(summary).to_be_focused()
            await expect(summary).to_have_text(f"{title}, as a table")
            table = page.get_by_role("table", name=title)
            await expect(table).to_be_hidden()
            await page.keyboard.press("Enter")
            await expect(table).to_be_visible()
            heads = await table.get_by_role("columnheader").all_inner_texts()
            over = title.partition(" by ")[2].capitalize()
            assert heads == [over, "Texts known" if title.startswith("Embeddings") else "Hits", "Ollama’s time"]
            assert await table.get_by_role("rowheader").count() == await table.get_by_role("row").count() - 1 > 2
        assert browser.complaints == []


@pytest.mark.usefixtures("months")
async def test_it_is_asked_once_a_minute_and_not_by_a_hidden_page(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, memory_bytes=16 << 20) as proxy:
        page = await browser.open(proxy.url)

        def asked() -> int:
            return sum(url.endswith(PATH) for url in browser.asked)

        await expect(page.locator("#sampled")).to_contain_text("Judged")
        await page.clock.install()
        await page.reload()
        summary = figure(page, "Embeddings by lifetime").locator("summary")
        await expect(summary).to_be_visible()
        assert asked() == 2
        await summary.focus()
        await page.keyboard.press("Enter")
        cell = await page.locator("tbody td").first.element_handle()
        await page.clock.run_for(50_000)
        assert asked() == 2
        async with page.expect_response(f"**{PATH}"):
            await page.clock.run_for(15_000)
        assert asked() == 3
        await expect(summary).to_be_focused()
        assert await cell.evaluate("cell => cell.isConnected"), "what has not changed is left alone"
        await page.evaluate(HIDE.format("true"))
        await page.clock.run_for(600_000)
        assert asked() == 3
        await page.evaluate(HIDE.format("false"))
        async with page.expect_response(f"**{PATH}"):
            await page.clock.run_for(5_000)


async def test_without_an_answer_nothing_is_claimed(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#advice")).to_contain_text("Too little traffic")
        await page.route(f"**{PATH}", lambda route: route.fulfill(status=503, body="busy"))
        async with page.expect_response(f"**{PATH}"):
            await page.reload()
        await expect(page.locator("#connection")).to_have_text("Live")
        await expect(page.locator("#advice")).to_have_text("Not known yet.")


async def test_what_the_route_says_is_text(
    browser: Browser, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "<img src=x onerror=alert(1)>"

    def outlook(_: TrafficForecaster, force: InForce) -> dict[str, Any]:
        found = forecast(sampled(), force, BEGIN + DAYS * DAY)
        found["advice"]["sentence"] = hostile
        found["embeddings"]["now"]["lifetime"] = hostile
        return found

    monkeypatch.setattr(TrafficForecaster, "outlook", outlook)
    async with proxy_before(simulator.url, ttl_embedding=12 * HOUR) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#advice")).to_have_text(hostile)
        shown = figure(page, "Embeddings by lifetime")
        assert (await rows(shown))[0][0] == f"{hostile}, 12 h (in force)"
        assert await page.locator("#forecast img").count() == 0
        assert browser.complaints == []


@pytest.mark.usefixtures("months")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_in_plots_and_tables(browser: Browser, simulator: Simulator, scheme: str) -> None:
    """Neither in light nor in dark mode; and no phone has to scroll sideways."""
    if not AXE.is_file():
        leave_out("axe-core is not installed: run `make clients`")
    async with proxy_before(simulator.url, memory_bytes=16 << 20) as proxy:
        for viewport in (PHONE, {"width": 1280, "height": 800}):
            page = await browser.open(proxy.url, color_scheme=scheme, viewport=viewport, bypass_csp=True)
            await expect(page.locator("figure:visible")).to_have_count(4)
            for summary in await page.locator("summary").all():
                await summary.click()
            assert await page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
            outside = "all => all.filter(n => n.getBoundingClientRect().right > innerWidth).length"
            assert await page.locator("#forecast *").evaluate_all(outside) == 0
            await page.add_script_tag(path=AXE)
            found = await page.evaluate("axe.run('#forecast')")
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
            assert "color-contrast" in {rule["id"] for rule in found["passes"]}
            await page.close()
