"""The live page in a real browser: what a person sees, can do, and never gets to see."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.async_api import expect

from ollama_cache_proxy.admin import live_events
from ollama_cache_proxy.admin.live_page import ROUTES
from ollama_cache_proxy.core.facts import Resident
from ollama_cache_proxy.gpu.replay import Replay, recording
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.upstream.loaded_models import Residents
from tests.support import canary
from tests.support.browser import AXE, PHONE, Browser, chromium
from tests.support.leaving_out import leave_out
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, RedisServer, free_port, proxy_before
from tests.support.stores import permit
from tests.support.waiting import until

GENERATE = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}


# The files, without a browser.


@pytest.mark.parametrize("path", ROUTES)
async def test_files_are_served_with_a_strict_policy(path: str, proxy: Proxy, simulator: Simulator) -> None:
    answer = await ask(proxy.url, "GET", path)
    assert (answer.status, answer.field("X-Content-Type-Options")) == (200, "nosniff")
    policy = answer.field("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not [request for request in simulator.received if request.target == path]


def test_every_file_is_served_and_names_nothing_elsewhere() -> None:
    names = {file.name for file in files("ollama_cache_proxy").joinpath("web").iterdir()}
    assert names == {route["GET"].args[0] for route in ROUTES.values()}  # type: ignore[attr-defined]
    for name in names:
        text = (
            files("ollama_cache_proxy")
            .joinpath("web", name)
            .read_text("utf-8")
            .replace("http://www.w3.org/2000/svg", "")
        )
        assert not re.search(r"https?:|//[a-z]+\.", text), f"{name} names another place"
        assert not re.search(r"innerHTML|outerHTML|document\.write|eval\(|Storage|cookie", text), name


async def test_other_paths_beside_the_page_go_to_ollama(proxy: Proxy, simulator: Simulator) -> None:
    for target in ("/cache/", "/cache/other.js", "/cachex"):
        await ask(proxy.url, "GET", target)
    assert [request.target for request in simulator.received if request.target.startswith("/cache")] == [
        "/cache/",
        "/cache/other.js",
        "/cachex",
    ]
    assert (await ask(proxy.url, "POST", "/cache", body=b"")).status == 405
    assert (await ask(proxy.url, "GET", "/cache", fields={"Host": "evil.example"})).status == 403


# In a browser.


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "EVERY", 0.05)


async def post(url: str, path: str, body: Any) -> None:
    await ask(url, "POST", path, body=json.dumps(body).encode())


async def traffic(url: str) -> None:
    """Send requests: three hits, a miss and a chat that bypasses the cache."""
    for _ in range(4):
        await post(url, "/api/generate", GENERATE)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": canary.PROMPT}], "stream": False}
    await post(url, "/api/chat", chat)


async def test_a_person_sees_what_the_cache_does_and_it_keeps_itself_up_to_date(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Replay(recording("h100"))
    async with (
        Simulator(Behaviour(completion_delay=0.2)) as simulator,
        proxy_before(simulator.url, nvml=lambda: replay) as proxy,
    ):
        page = await browser.open(proxy.url)
        await expect(page.get_by_role("heading", level=1)).to_have_text("No requests yet.")
        await expect(page.get_by_text("Point a client at this URL")).to_be_visible()
        await expect(page.locator("#url")).to_have_text(proxy.url)
        await expect(page.get_by_role("table")).to_be_hidden()

        await traffic(proxy.url)
        await expect(page.get_by_role("heading", level=1)).to_have_text("75 % of 4 requests came from the cache.")
        await expect(page.locator("#sentence")).to_have_text(
            re.compile(
                r"^That saved [\d.]+ seconds? of Ollama’s time\. A hit takes [\d.]+ ms, a miss [\d.]+ m?s\."
                r" 1 more request bypassed the cache\.$"
            )
        )
        await expect(page.locator("#start")).to_be_hidden()
        for name, text in (
            ("#hit-rate", "75 %"),
            ("#total", "5"),
            ("#count-hit", "3"),
            ("#count-miss", "1"),
            ("#count-bypass", "1"),
            ("#connection", "Live"),
            ("#upstream", "Ollama answers"),
            ("#store", "Store answers"),
        ):
            await expect(page.locator(name)).to_have_text(text)
        await expect(page.locator("#faster")).to_contain_text("times as fast")
        await expect(page.locator("#speed")).to_have_text(re.compile(r"^\d+ tokens/s$"))
        assert {await bar.get_attribute("class") for bar in await page.locator("#chart rect").all()} >= {"hit", "miss"}
        rows = [await row.inner_text() for row in await page.get_by_role("row").all()]
        assert len(rows) == 5
        assert re.match(r"\d\d:\d\d:\d\d\s+chat\s+Bypass\s+opt-in\s+\d", rows[1])
        assert re.match(r"\d\d:\d\d:\d\d\s+generate tiny:latest\s+Hit × 2\s+[\d.]+ ms", rows[2])
        assert re.match(r"\d\d:\d\d:\d\d\s+generate tiny:latest\s+Hit\s+[\d.]+ ms", rows[3])
        await expect(page.locator("#gpus")).to_contain_text("H100")

        shown = await page.content() + await page.inner_text("body")
        canary.check(shown, "the page")
        assert {url.removeprefix(proxy.url) for url in browser.asked} == {
            *ROUTES,
            "/api/cache/events",
            "/api/cache/forecast",
        }
        assert browser.complaints == []


async def test_a_person_sees_what_ollama_reads_again(browser: Browser) -> None:
    behaviour = Behaviour(completion_delay=0.01, prompt_cache=True)
    async with Simulator(behaviour) as simulator, proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#connection")).to_have_text("Live")
        await expect(page.locator("#prompts")).to_have_text("")
        for turn in range(8):
            text = f"{'be brief ' * 30}{turn} {'and say what you know ' * 200}"
            messages = [{"role": "system", "content": text}, {"role": "user", "content": canary.PROMPT}]
            await post(proxy.url, "/api/chat", {"model": "tiny", "messages": messages, "stream": False})
        await expect(page.locator("#prompts")).to_have_text(
            re.compile(
                r"of Ollama’s time went into reading again what it had read: a client without a User-Agent, a number"
                r" changes at byte 256 of messages\[0\]\.content, in front of what stays the same\.$"
            )
        )
        canary.check(await page.content(), "the page")
        assert browser.complaints == []


async def test_clearing_asks_first_and_works_with_the_keyboard_alone(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        await traffic(proxy.url)
        page = await browser.open(proxy.url)
        await expect(page.locator("#keys")).to_have_text("1")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the last requests")).to_be_focused()
        await page.keyboard.press("Tab")
        clear = page.get_by_role("button", name="Clear the cache…")
        await expect(clear).to_be_focused()
        outline = "(style => style.outlineStyle + ' ' + style.outlineWidth)(getComputedStyle(document.activeElement))"
        assert await page.evaluate(outline) == "solid 3px"
        dialog = page.get_by_role("dialog", name="Clear the cache?")

        for key in ("Enter", "Escape"):
            await page.keyboard.press("Space")
            await expect(dialog).to_be_visible()
            await expect(page.get_by_role("button", name="Keep it")).to_be_focused()
            await page.keyboard.press(key)
            await expect(dialog).to_be_hidden()
            await expect(clear).to_be_focused()
        assert json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"] == 1

        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Clear the cache", exact=True)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#cleared")).to_have_text("1 entry cleared.")
        await expect(dialog).to_be_hidden()
        assert json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"] == 0
        assert browser.complaints == []


async def test_a_number_that_is_not_known_is_no_number(browser: Browser, simulator: Simulator) -> None:
    server = RedisServer()
    server.start()
    try:
        permit(server, "default", "-scan")
        async with proxy_before(simulator.url, redis_url=server.url) as proxy:
            page = await browser.open(proxy.url)
            await expect(page.locator("#keys")).to_have_text("–")
            await page.get_by_role("button", name="Clear the cache…").click()
            await page.get_by_role("button", name="Clear the cache", exact=True).click()
            await expect(page.locator("#cleared")).to_have_text("Cleared. How many entries there were is not known.")
            assert browser.complaints == []
    finally:
        server.close()


async def test_how_many_hits_were_checked_shows_while_the_audit_is_on(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, audit="100%") as audited, proxy_before(simulator.url) as other:
        page = await browser.open(audited.url)
        await expect(page.locator("#audited")).to_have_text(re.compile(r"^0 hits checked, 0 wrong, since .*\d{4}\.$"))
        for _ in range(2):
            await post(audited.url, "/api/embed", {"model": "all-minilm", "input": canary.PROMPT})
            await audited.kept()
        await expect(page.locator("#audited")).to_have_text(
            re.compile(r"^1 hit checked, 0 wrong, since .*\d{4}\.$"), timeout=30_000
        )
        page = await browser.open(other.url)
        await expect(page.locator("#store")).to_have_text("Store answers")
        await expect(page.locator("#audited")).to_be_hidden()
        assert browser.complaints == []


async def test_strangers_are_asked_for_the_token_which_stays_in_memory(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, listen="0.0.0.0:0") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        await traffic(url)
        page = await browser.open(url)
        await expect(page.get_by_role("heading", level=1)).to_have_text("75 % of 4 requests came from the cache.")
        await expect(page.get_by_role("table")).to_be_hidden()
        field = page.get_by_label("Single requests are shown")

        await page.get_by_role("button", name="Clear the cache…").click()
        await page.get_by_label("Admin token", exact=False).last.fill("wrong")
        await page.get_by_role("button", name="Clear the cache", exact=True).click()
        await expect(page.locator("#failed")).to_have_text("Nothing was cleared: the admin token is missing or wrong")
        await page.keyboard.press("Escape")

        await field.fill("wrong")
        await field.press("Enter")
        await expect(page.locator("#refused")).to_contain_text("not the admin token")
        await field.fill(canary.TOKEN)
        await field.press("Enter")
        await expect(page.get_by_role("table")).to_be_visible()
        await expect(field).to_be_hidden()
        canary.check(await page.content(), "the page")
        assert canary.TOKEN not in "".join(browser.asked)
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        assert await page.evaluate(kept) == '[{},{},""]'

        await page.get_by_role("button", name="Clear the cache…").click()
        await expect(page.locator("#ask-token")).to_be_hidden()
        await page.get_by_role("button", name="Clear the cache", exact=True).click()
        await expect(page.locator("#cleared")).to_have_text("1 entry cleared.")
        await page.reload()
        await expect(field).to_be_visible()


async def test_a_lost_connection_shows_and_is_taken_up_again(browser: Browser, simulator: Simulator) -> None:
    listen = f"127.0.0.1:{free_port()}"
    async with proxy_before(simulator.url, listen=listen) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator("#connection")).to_have_text("Connection lost, trying again…")
    await expect(page.locator("#store")).to_have_text("Store")
    await expect(page.locator("#announce")).to_have_text("Connection lost, trying again.")
    async with proxy_before(simulator.url, listen=listen) as proxy:
        await expect(page.locator("#connection")).to_have_text("Live", timeout=15_000)
        await traffic(proxy.url)
        await expect(page.get_by_role("heading", level=1)).to_have_text("75 % of 4 requests came from the cache.")


async def test_what_is_wrong_shows(browser: Browser, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#connection")).to_have_text("Live")
        monkeypatch.setattr(live_events, "MAX_LISTENERS", 1)
        other = await browser.open(proxy.url)
        await expect(other.locator("#connection")).to_have_text("the limit of 1 listeners is reached, trying again…")
        await simulator.stop()
        await post(proxy.url, "/api/generate", GENERATE)
        await expect(page.locator("#upstream")).to_contain_text("cannot be reached")
        await page.close()
        await expect(other.locator("#connection")).to_have_text("Live", timeout=15_000)


async def test_the_headline_is_announced_and_not_each_second(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.get_by_role("status").first).to_have_text("No requests yet.")
        await traffic(proxy.url)
        await expect(page.get_by_role("heading", level=1)).to_contain_text("75 %")
        await expect(page.get_by_role("status").first).to_have_text("No requests yet.")
        live = await page.locator("[aria-live], [role=status], [role=alert]").evaluate_all("all => all.map(n => n.id)")
        assert set(live) == {"announce", "cleared", "refused", "failed"}


async def test_only_bypasses(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        await ask(proxy.url, "GET", "/api/tags")
        page = await browser.open(proxy.url)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Nothing to cache yet.")
        await expect(page.locator("#sentence")).to_contain_text("1 request bypassed the cache")


async def test_names_that_clients_chose_are_text(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        await post(proxy.url, "/api/generate", GENERATE | {"model": "<img src=x onerror=alert(1)>", "stream": True})
        await post(proxy.url, "/api/generate", GENERATE | {"model": "<img src=x onerror=alert(1)>"})
        page = await browser.open(proxy.url)
        await expect(page.get_by_role("row").first).to_be_visible()
        await expect(page.locator("#rows")).to_contain_text("<img src=x onerror=alert(1)>")
        assert await page.locator("#rows img").count() == 0
        assert browser.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_accessible_on_a_phone_and_a_desktop(scheme: str, browser: Browser, simulator: Simulator) -> None:
    """Every rule of axe-core, contrast among them; and no phone has to scroll sideways."""
    if not AXE.is_file():
        leave_out("axe-core is not installed: run `make clients`")
    replay = Replay(recording("h100"))
    async with proxy_before(simulator.url, nvml=lambda: replay) as proxy:
        await traffic(proxy.url)
        backgrounds = set()
        for viewport in (PHONE, {"width": 1280, "height": 800}):
            page = await browser.open(proxy.url, color_scheme=scheme, viewport=viewport, bypass_csp=True)
            await expect(page.locator("#rows")).to_contain_text("opt-in")
            await expect(page.locator("#gpus")).to_contain_text("H100")
            await expect(page.locator("#models")).to_contain_text("tiny:latest")
            await expect(page.locator("#models")).to_contain_text("GPU memory")
            assert await page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
            assert await page.get_by_role("table").get_by_role("row").count() == 5
            assert await page.get_by_role("cell").count() == 16
            await page.add_script_tag(path=AXE)
            for dialog in (False, True):
                if dialog:
                    await page.get_by_role("button", name="Clear the cache…").click()
                found = await page.evaluate("axe.run()")
                assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
                assert "color-contrast" in {rule["id"] for rule in found["passes"]}
            backgrounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
            await page.close()
    (background,) = backgrounds
    darkness = sum(int(part) for part in re.findall(r"\d+", background))
    assert (darkness < 128) == (scheme == "dark")


async def test_with_reduced_motion_nothing_moves(browser: Browser, simulator: Simulator) -> None:
    moving = (
        "[...document.querySelectorAll('*')].flatMap(n => ['', '::after'].map(p => getComputedStyle(n, p)))"
        ".filter(s => s.transitionDuration !== '0s' || s.animationName !== 'none').length"
    )
    async with proxy_before(simulator.url) as proxy:
        still = await browser.open(proxy.url)
        assert await still.evaluate(moving) == 0
        usual = await browser.open(proxy.url, reduced_motion="no-preference")
        assert await usual.evaluate(moving) > 0


async def test_a_hidden_page_costs_nothing(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#connection")).to_have_text("Live")
        hide = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}}), dispatch()"
        await page.evaluate("window.dispatch = () => document.dispatchEvent(new Event('visibilitychange'))")
        await page.evaluate(hide.format("true"))
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("look for those")])
        await traffic(proxy.url)
        await page.evaluate(hide.format("false"))
        await expect(page.get_by_role("heading", level=1)).to_contain_text("75 %")


async def test_what_is_not_told_of_a_loaded_model_is_not_shown(
    browser: Browser, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = [(None, None), (2**30, None), (2**30, 2**29)]
    rows = tuple(Resident(model=f"m{place}", size=size, vram=vram) for place, (size, vram) in enumerate(loaded))
    monkeypatch.setattr(Residents, "latest", lambda _: rows)
    replay = Replay(recording("h100"))
    async with proxy_before(simulator.url, nvml=lambda: replay) as proxy:
        page = await browser.open(proxy.url)
        shown = page.locator("#models")
        for said in ("m0:latestMemorynot told", "m1:latestMemory1 GiB", "m2:latestGPU memory0.5 of 1 GiB"):
            await expect(shown).to_contain_text(said)
        assert browser.complaints == []


async def test_several_ollamas_have_a_card(browser: Browser, simulator: Simulator) -> None:
    async with Simulator() as other:
        rows = [{"url": simulator.url, "name": "gpu-a"}, {"url": other.url, "name": "gpu-b"}]
        async with proxy_before(simulator.url, upstreams=rows) as proxy:
            await ask(proxy.url, "POST", "/api/cache/upstreams/gpu-b/drain", body=b"")
            page = await browser.open(proxy.url)
            await expect(page.locator("#upstreams")).to_contain_text("gpu-a")
            await expect(page.locator("#upstreams")).to_contain_text("Drained")
            assert browser.complaints == []
    async with proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#no-models")).to_be_visible()
        await expect(page.locator("#upstreams-card")).to_be_hidden()


async def test_lanes_have_a_card_that_says_who_waits(browser: Browser, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, lanes="interactive-first", lanes_batch_slots=1) as proxy:
        simulator.gate.close()
        bodies = [b'{"model":"all-minilm","input":["%d","b"]}' % number for number in range(3)]
        tasks = [asyncio.create_task(ask(proxy.url, "POST", "/api/embed", body=body)) for body in bodies]
        await simulator.arrived(1)
        page = await browser.open(proxy.url)
        await expect(page.locator("#lanes")).to_contain_text("Batches1 at work2 of 1 client wait")
        await expect(page.locator("#lanes")).to_contain_text("People0 at worknobody waits")
        simulator.gate.open()
        await asyncio.gather(*tasks)
        assert browser.complaints == []
    async with proxy_before(simulator.url) as proxy:
        page = await browser.open(proxy.url)
        await expect(page.locator("#no-models")).to_be_hidden()
        await expect(page.locator("#lanes-card")).to_be_hidden()
