"""One of three Ollamas is killed, stopped, or says 500 to everything. All of them are processes with sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.processes import Command, simulate
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, free_port, proxy_before

WITHIN = 60.0
NAMES = ("a", "b", "c")
SLOW = ("--completion-ms", "30")
row = pytest.mark.row


class Site:
    """A proxy before three Ollamas, each with the model loaded, so that conversations are spread over them."""

    def __init__(self, proxy: Proxy, ollamas: list[Command], ports: list[int]) -> None:
        self.proxy = proxy
        self.ollamas = ollamas
        self.ports = ports

    async def states(self) -> dict[str, str]:
        told = json.loads((await ask(self.proxy.url, "GET", "/api/cache/upstreams")).body)["upstreams"]
        return {one["name"]: one["state"] for one in told}

    async def until(self, name: str, state: str) -> float:
        """Wait until a host is in a state; give how many seconds that took."""
        begun = time.monotonic()
        async with asyncio.timeout(WITHIN):
            while (await self.states())[name] != state:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.02)
        return time.monotonic() - begun


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        ports = [free_port() for _ in NAMES]
        started = [await stack.enter_async_context(simulate(*SLOW, port=port)) for port in ports]
        for _, url in started:
            await ask(url, "POST", "/api/generate", body=b'{"model": "tiny"}')
        rows = [{"url": url, "name": name} for name, (_, url) in zip(NAMES, started, strict=True)]
        proxy = await stack.enter_async_context(proxy_before(started[0][1], upstreams=rows))
        yield Site(proxy, [command for command, _ in started], ports)


class Load:
    """Clients with a conversation each, until they are stopped."""

    def __init__(self, proxy: Proxy) -> None:
        self.statuses: list[int] = []
        self._url = proxy.url
        self._going = True
        self._clients = [asyncio.create_task(self._talk(number)) for number in range(9)]

    async def _talk(self, name: int) -> None:
        messages: list[dict[str, str]] = [{"role": "user", "content": f"{canary.PROMPT} {name}"}]
        async with await RawConnection.open(self._url) as connection:
            while self._going:
                body: dict[str, Any] = {"model": "tiny", "messages": messages, "stream": False}
                connection.send("POST", "/api/chat", body=json.dumps(body).encode())
                self.statuses.append((await connection.answer()).status)

    async def stop(self) -> int:
        """End the clients; give how many of their requests had no 200."""
        self._going = False
        await asyncio.wait_for(asyncio.gather(*self._clients), WITHIN)
        assert len(self.statuses) > 20
        return sum(status != 200 for status in self.statuses)


@row(52)
@pytest.mark.parametrize("place", [0, 2])
async def test_a_killed_ollama_costs_no_client_an_error(place: int, measured: Measured, site: Site) -> None:
    load = Load(site.proxy)
    await asyncio.sleep(0.3)
    site.ollamas[place].process.kill()
    ejected = await site.until(NAMES[place], "ejected")
    await asyncio.sleep(0.3)
    async with simulate(*SLOW, port=site.ports[place]):
        back = await site.until(NAMES[place], "ok")
        await asyncio.sleep(0.2)
        measured(52, "errors", await load.stop())
    measured(52, "ejected", ejected)
    measured(52, "back", back)


@row(52)
async def test_what_waits_for_a_stopped_ollama_is_answered_by_another(measured: Measured, site: Site) -> None:
    load = Load(site.proxy)
    await asyncio.sleep(0.3)
    process = site.ollamas[1].process
    process.send_signal(signal.SIGSTOP)
    try:
        ejected = await site.until("b", "ejected")
        measured(52, "ejected", ejected)
        await asyncio.sleep(3)  # also those that were sent before it was seen to hang have to be answered
        measured(52, "errors", await load.stop())
    finally:
        process.send_signal(signal.SIGCONT)
    measured(52, "back", await site.until("b", "ok"))


@row(52)
async def test_a_stream_is_reset_only_where_bytes_were_sent(measured: Measured, site: Site) -> None:
    statuses, cut = [], 0

    async def stream(number: int) -> None:
        nonlocal cut
        body = {"model": "tiny", "messages": [{"role": "user", "content": f"{canary.PROMPT} {number}"}]}
        try:
            statuses.append((await ask(site.proxy.url, "POST", "/api/chat", body=json.dumps(body).encode())).status)
        except (ConnectionError, asyncio.IncompleteReadError):
            cut += 1

    streams = [asyncio.create_task(stream(number)) for number in range(60)]
    await asyncio.sleep(0.02)
    site.ollamas[0].process.kill()
    await asyncio.wait_for(asyncio.gather(*streams), WITHIN)
    measured(52, "errors", sum(status != 200 for status in statuses))
    assert len(statuses) + cut == 60
