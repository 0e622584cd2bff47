"""Guesses of the admin token: row 48 of the matrix."""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from ollama_cache_proxy.admin import token_guard
from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.conftest import Measured
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.waiting import until

TOKEN = "secret-of-the-team"
GUESS = "guess-of-a-stranger"
GUARDED = (
    *(("POST", "/api/cache/clear"), ("POST", "/api/cache/clear?model=nothing"), ("GET", "/api/cache/entries")),
    *(("POST", "/api/cache/explain"), ("GET", "/api/cache/entries/0")),
)


async def asked(proxy: Proxy, method: str, target: str, token: str) -> RawAnswer:
    url = proxy.url.replace("0.0.0.0", "127.0.0.1")
    return await ask(url, method, target, fields={"Authorization": f"Bearer {token}"})


@pytest.mark.row(48)
async def test_guesses_of_the_admin_token_are_slowed_and_the_right_one_is_heard(
    simulator: Simulator, measured: Measured
) -> None:
    """Six at a time guess on every route, while the right token is used."""
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token=TOKEN) as proxy:
        statuses: Counter[int] = Counter()
        early, stop = [0], asyncio.Event()
        begun = time.monotonic()

        async def guess(number: int) -> None:
            for turn in itertools.count():
                if stop.is_set():
                    return
                answer = await asked(proxy, *GUARDED[(number + turn) % len(GUARDED)], f"{GUESS}-{number}-{turn}")
                statuses[answer.status] += 1
                early[0] += answer.status == 401 and time.monotonic() - begun < 1
                if answer.status == 429:
                    assert (answer.field("Retry-After"), answer.field("Connection")) == ("1", "close")

        async def use() -> float:
            at = time.monotonic()
            assert (await asked(proxy, "GET", "/api/cache/entries", TOKEN)).status == 200
            return time.monotonic() - at

        guessing = [asyncio.create_task(guess(number)) for number in range(6)]
        waits = [await use() for _ in range(20)]
        await until(lambda: statuses[429] >= 100)
        waits += [await use() for _ in range(20)]
        stop.set()
        await asyncio.gather(*guessing)
        assert set(statuses) == {401, 429}
        measured(48, "at once", early[0])
        measured(48, "right", 1000 * statistics.median(waits))
        text = proxy.log.getvalue()
        measured(48, "lines", len(re.findall("wrong admin token", text)))
        assert GUESS not in text
        assert TOKEN not in text
        metrics = (await asked(proxy, "GET", "/metrics", GUESS)).body.decode()
        counted = dict(re.findall(r'_own_refusals_total\{detail="(.*)"\} ([0-9]+)', metrics))
        assert counted == {"wrong-token": str(statuses[401]), "token-guesses": str(statuses[429])}
        assert GUESS not in metrics


async def test_a_wrong_token_at_the_events_is_a_guess_and_figures_go_on_without_one(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two guesses wait for as long as the test takes, and are left."""
    monkeypatch.setattr(token_guard, "WAITS", 60.0)
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token=TOKEN) as proxy, AsyncExitStack() as stack:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        for number in range(5):
            assert (await asked(proxy, "HEAD", "/api/cache/events", f"{GUESS}-{number}")).status == 200
        for number in range(2):
            connection = await stack.enter_async_context(await RawConnection.open(url))
            connection.send("HEAD", "/api/cache/events", fields={"Authorization": f"Bearer {GUESS}-late-{number}"})
        async with asyncio.timeout(10):
            while b'own_refusals_total{detail="wrong-token"} 7' not in (await ask(url, "GET", "/metrics")).body:
                pass
        assert (await asked(proxy, "HEAD", "/api/cache/events", GUESS)).status == 429
        assert (await asked(proxy, "HEAD", "/api/cache/events", TOKEN)).status == 200
        assert (await ask(url, "HEAD", "/api/cache/events")).status == 200
