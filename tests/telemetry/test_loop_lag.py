from __future__ import annotations

import asyncio
import time

from ollama_cache_proxy.telemetry.loop_lag import EVERY, LoopLag
from tests.support.waiting import until


async def test_a_loop_that_was_held_shows_by_how_much() -> None:
    seen: list[float] = []
    lag = LoopLag(seen.append)
    lag.start()
    try:
        await until(lambda: len(seen) >= 2)
        assert min(seen) >= 0
        seen.clear()
        time.sleep(3 * EVERY)  # noqa: ASYNC251 - it is to hold the loop
        await until(lambda: seen)
        assert seen[0] >= EVERY
    finally:
        lag.close()


async def test_nothing_is_looked_at_after_the_end() -> None:
    seen: list[float] = []
    lag = LoopLag(seen.append)
    lag.start()
    lag.close()
    await asyncio.sleep(2 * EVERY)
    lag.close()
    assert seen == []
