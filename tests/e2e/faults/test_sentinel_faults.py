"""Behind Sentinels: the primary is killed, replaced, or knows of no clear. All of it with real servers and Sentinels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_cache_proxy.cli.checks import of_redis
from ollama_cache_proxy.cli.checks.finding import Level
from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.conftest import Measured
from tests.e2e.faults.load import ONLY_IF_CACHED, Load, body, generate, is_hit, stored, until_hits
from tests.support import canary
from tests.support.rawhttp import RawAnswer, ask
from tests.support.sentinels import DOWN_AFTER, NAME, Watched
from tests.support.servers import proxy_before

ASKED_FOR = 8.0
"""Seconds after a clear for which what was cleared is asked for."""
row = pytest.mark.row
pytestmark = pytest.mark.distributed


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    own = Watched()
    try:
        await own.start().ready()
        yield own
    finally:
        own.close()


@row(39)
@pytest.mark.parametrize("hot", [True, False], ids=["hot tier", "no hot tier"])
async def test_a_killed_primary_costs_no_client_an_error(
    hot: bool, measured: Measured, watched: Watched, simulator: Simulator
) -> None:
    settings: dict[str, Any] = {} if hot else {"hot_bytes": 0}
    async with proxy_before(simulator.url, redis_url=watched.url, **settings) as proxy:
        for number in range(10):
            await stored(proxy, f"known {number}")
        load = Load(proxy)
        await asyncio.sleep(0.3)
        primary = watched.primary()
        primary.kill()
        back = await until_hits(proxy, time.monotonic())
        await load.stop()
        assert await watched.another_than(primary)
        assert is_hit(await generate(proxy, "known 1")), "replicated, and found again"
        measured(39, "errors", sum(status != 200 for status in load.statuses))
        measured(39, "back", back - DOWN_AFTER)
        assert len(load.statuses) > 100


@row(39)
async def test_a_primary_that_is_replaced_while_it_runs_is_left(
    measured: Measured, watched: Watched, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, redis_url=watched.url) as proxy:
        await stored(proxy, "known")
        load, former = Load(proxy), watched.primary()
        client: Any = watched.sentinels[0].client()
        await asyncio.to_thread(client.execute_command, "SENTINEL", "FAILOVER", "mymaster")
        await watched.another_than(former)
        back = await until_hits(proxy, time.monotonic())
        await load.stop()
        measured(39, "errors", sum(status != 200 for status in load.statuses))
        measured(39, "back", back)
        asked: Any = watched.primary().client()
        assert {"cmdstat_role", "cmdstat_set"} <= set(asked.info("commandstats"))


async def test_what_was_cleared_does_not_come_back_with_a_replica_that_was_not_told(
    watched: Watched, simulator: Simulator
) -> None:
    settings = {"redis_url": watched.url}
    async with proxy_before(simulator.url, **settings) as proxy, proxy_before(simulator.url, **settings) as other:
        for number in range(20):
            await stored(proxy, f"old {number}")
        assert is_hit(await generate(other, "old 1"))
        primary = watched.primary()
        await asyncio.to_thread(watched.part)
        assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 200
        await asyncio.sleep(0.2)
        primary.kill()
        answers: list[RawAnswer] = []
        begun = time.monotonic()
        while time.monotonic() - begun < ASKED_FOR:
            for asked in (proxy, other):
                sent = body(f"old {len(answers) % 20}")
                answers.append(await ask(asked.url, "POST", "/api/generate", body=sent, fields=ONLY_IF_CACHED))
            await asyncio.sleep(0.01)
        assert (await watched.another_than(primary)) is not primary
        assert [answer.status for answer in answers] == [504] * len(answers)
        await until_hits(proxy, time.monotonic())
        await until_hits(other, time.monotonic())


async def test_doctor_asks_the_primary_and_sentinels_may_have_a_password(simulator: Simulator) -> None:
    watched = Watched(password=f"{canary.PASSWORD}-of-sentinels")
    try:
        await watched.start().ready()
        findings = await of_redis._examined(watched.url, None, named=True)
        assert {finding.level for finding in findings} <= {Level.OK, Level.NOTE, Level.WARNING}
        assert any(f"{NAME}/0" in finding.text for finding in findings)
        assert not any(canary.PASSWORD in finding.text for finding in findings)
        async with proxy_before(simulator.url, redis_url=watched.url) as proxy:
            await stored(proxy, "known")
        wrong = watched.url.replace("-of-sentinels", "")
        (problem,) = await of_redis._examined(wrong, None, named=True)
        assert problem.level is Level.PROBLEM
        assert "no Sentinel answers" in problem.text
        (problem,) = await of_redis._examined(watched.url.replace(NAME, "another"), None, named=True)
        assert "know no primary of that name" in problem.text
    finally:
        watched.close()
