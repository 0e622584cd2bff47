"""Clients that ask while something fails, and when what is new is stored and found again."""

from __future__ import annotations

import asyncio
import json
import time

from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy

BACK_WITHIN = 60.0
ONLY_IF_CACHED: dict[str, str | None] = {"Cache-Control": "only-if-cached"}


def body(prompt: str) -> bytes:
    return json.dumps({"model": "tiny", "prompt": f"{canary.PROMPT} {prompt}", "stream": False}).encode()


async def generate(proxy: Proxy, prompt: str) -> RawAnswer:
    return await ask(proxy.url, "POST", "/api/generate", body=body(prompt))


def is_hit(answer: RawAnswer) -> bool:
    return answer.field("X-Cache") == "HIT"


async def stored(proxy: Proxy, prompt: str) -> None:
    assert not is_hit(await generate(proxy, prompt))
    await proxy.kept()
    assert is_hit(await generate(proxy, prompt))


class Load:
    """Clients that ask for what is known and for what is new, until they are stopped."""

    def __init__(self, proxy: Proxy) -> None:
        self.statuses: list[int] = []
        self._proxy = proxy
        self._going = True
        self._clients = [asyncio.create_task(self._ask(number)) for number in range(8)]

    async def _ask(self, name: int) -> None:
        number = 0
        async with await RawConnection.open(self._proxy.url) as connection:
            while self._going:
                number += 1
                prompt = f"known {number % 10}" if number % 2 else f"new {name} {number}"
                connection.send("POST", "/api/generate", body=body(prompt))
                self.statuses.append((await connection.answer()).status)
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._clients)


async def until_hits(proxy: Proxy, begun: float) -> float:
    """Wait until what is new is stored and found again; return how many seconds after `begun` that was."""
    number = 0
    while time.monotonic() - begun < BACK_WITHIN:
        number += 1
        await generate(proxy, f"after {number}")
        await asyncio.sleep(0.05)
        if is_hit(await generate(proxy, f"after {number}")):
            return time.monotonic() - begun
    raise AssertionError("no hits any more")
