"""The events of the live page over real sockets: order, heartbeat, end, limits, and who may see what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ollama_cache_proxy.admin import live_events
from ollama_cache_proxy.admin.live_figures import Figures
from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.tls import CERTIFICATE, KEY, trusting
from tests.support.waiting import until

GENERATE = json.dumps({"model": "tiny", "prompt": canary.PROMPT, "stream": False}).encode()
COMMENT = b": still here\n\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "EVERY", 0.02)


class States:
    """A stand-in for the state that the page shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: dict[str, Any] = {"n": 0}
        self.counting = False
        self.looks = 0
        self.error: Exception | None = None
        monkeypatch.setattr(Figures, "state", lambda _: self.state())

    async def state(self) -> dict[str, Any]:
        self.looks += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return {"lastRequests": ["r"], **(self.now | {"n": self.looks} if self.counting else self.now)}


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> States:
    return States(monkeypatch)


@asynccontextmanager
async def listening(url: str, **fields: str) -> AsyncIterator[RawConnection]:
    async with await RawConnection.open(url) as connection:
        connection.send("GET", "/api/cache/events", fields=fields)
        status, lines = await connection.head()
        assert status == "HTTP/1.1 200 OK"
        assert ("Content-Type", "text/event-stream") in lines
        assert ("Cache-Control", "no-store") in lines
        yield connection


async def event(connection: RawConnection) -> dict[str, Any]:
    """Return the next event; comments are skipped."""
    while (piece := await connection.chunk()) == COMMENT:
        pass
    assert piece.startswith(b"data: ")
    assert piece.endswith(b"\n\n")
    found: dict[str, Any] = json.loads(piece[6:-2])
    return found


async def drained(connection: RawConnection) -> None:
    """Read events until there are no more."""
    while True:
        await event(connection)


async def test_every_change_is_one_event_in_order(states: States, proxy: Proxy) -> None:
    async with listening(proxy.url) as connection:
        for number in range(5):
            states.now = {"n": number}
            assert (await event(connection))["n"] == number
            looks = states.looks
            await until(lambda looks=looks: states.looks > looks + 2)
        states.now = {"n": "end"}
        assert (await event(connection))["n"] == "end", "nothing came while nothing changed"


async def test_requests_show_without_their_prompts(proxy: Proxy) -> None:
    async with listening(proxy.url) as connection:
        assert (await event(connection))["lastRequests"] == []
        for result in ("miss", "hit"):
            await ask(proxy.url, "POST", "/api/generate", body=GENERATE, fields={"X-Cache-Namespace": "secret-space"})
            while not (told := await event(connection))["lastRequests"] or told["lastRequests"][0]["result"] != result:
                pass
            assert "secret-space" not in json.dumps(told)
            canary.check(json.dumps(told), "an event")
    assert told["requests"]["hits"] == 1
    assert [row["operation"] for row in told["lastRequests"]] == ["generate", "generate"]


async def test_hits_of_the_fast_path_are_one_row(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, development=False, log_requests="off") as proxy:
        for _ in range(5):
            await ask(proxy.url, "POST", "/api/generate", body=GENERATE)
        async with listening(proxy.url) as connection:
            told = await event(connection)
        rows = [(row["result"], row["times"]) for row in told["lastRequests"]]
        assert rows == [("hit", 3), ("hit", 1), ("miss", 1)]
        assert sum(sum(counts) for _, *counts in told["history"]) == 5


async def test_listeners_share_one_reading_and_without_listeners_there_is_none(states: States, proxy: Proxy) -> None:
    async with listening(proxy.url) as one, listening(proxy.url) as other:
        await event(one)
        await event(other)
        looks = states.looks
        for number in range(1, 4):
            states.now = {"n": number}
            assert [(await event(each))["n"] for each in (one, other)] == [number, number]
        assert states.looks - looks < 3 * 2 * 20
    await until(lambda: proxy.running.listener.connections == 0)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("look for those")])
    looks = states.looks
    await ask(proxy.url, "GET", "/healthz")
    await asyncio.sleep(3 * live_events.EVERY)  # a look would come in this time
    assert states.looks == looks


async def test_a_heartbeat_comes_while_nothing_changes(
    states: States, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_events, "HEARTBEAT", 0.05)
    async with listening(proxy.url) as connection:
        await event(connection)
        assert [await connection.chunk() for _ in range(3)] == [COMMENT] * 3
        states.now = {"n": 1}
        assert (await event(connection))["n"] == 1


async def test_a_reading_that_fails_is_tried_again(
    states: States, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_events, "HEARTBEAT", 0.05)
    states.error = RuntimeError("broken")
    async with listening(proxy.url) as connection:
        assert (await event(connection))["n"] == 0
    assert "RuntimeError" in proxy.log.getvalue()


async def test_the_end_of_the_proxy_ends_the_stream_immediately(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, drain_timeout=60) as proxy:
        connection = await RawConnection.open(proxy.url)
        connection.send("GET", "/api/cache/events")
        await connection.head()
        await event(connection)
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 30, "the drain waited for it"
    while piece := await connection.chunk():
        assert piece.startswith(b"data: ")
    assert await connection.reader.read() == b"", "closed, and with the last chunk first"
    connection.close()


async def test_while_the_proxy_drains_no_new_listener_is_accepted(proxy: Proxy, simulator: Simulator) -> None:
    async with await RawConnection.open(proxy.url) as connection:
        connection.send("GET", "/healthz")
        await connection.answer()
        simulator.gate.close()
        asked = asyncio.create_task(ask(proxy.url, "POST", "/api/generate", body=GENERATE))
        await until(lambda: proxy.running.exchanges.serving)
        proxy.running.events.close()
        draining = asyncio.create_task(proxy.running.listener.drain(10))
        await until(lambda: proxy.running.listener.draining)
        connection.send("GET", "/api/cache/events")
        answer = await connection.answer()
        assert (answer.status, answer.field("Retry-After")) == (503, "10")
        simulator.gate.open()
        assert (await asked).status == 200
        await draining


async def test_a_slow_reader_is_cut_off_and_the_others_go_on(
    states: States, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_events, "WRITE_TIMEOUT", 0.3)
    monkeypatch.setattr(live_events, "EVERY", 0.001)
    states.counting, states.now = True, {"filling": "x" * 500_000}
    async with listening(proxy.url) as slow, listening(proxy.url) as quick:
        slow.writer.transport.pause_reading()
        await event(quick)
        async with asyncio.timeout(10):
            while proxy.running.listener.connections > 1:
                await event(quick)
        last = (await event(quick))["n"]
        assert (await event(quick))["n"] > last
        slow.writer.transport.resume_reading()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await drained(slow)


async def test_the_number_of_listeners_is_limited(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "MAX_LISTENERS", 2)
    async with listening(proxy.url) as one, listening(proxy.url):
        await event(one)
        refused = await ask(proxy.url, "GET", "/api/cache/events")
        assert (refused.status, refused.field("Retry-After")) == (503, "10")
        one.close()
        await until(lambda: proxy.running.listener.connections == 1)
        async with listening(proxy.url) as next_one:
            await event(next_one)


async def test_a_head_request_does_not_count_as_a_listener(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "MAX_LISTENERS", 1)
    for _ in range(3):
        answer = await ask(proxy.url, "HEAD", "/api/cache/events")
        assert (answer.status, answer.field("Content-Type")) == (200, "text/event-stream")
    async with listening(proxy.url) as connection:
        await event(connection)


async def test_a_client_of_http_1_0_reads_until_it_leaves(proxy: Proxy) -> None:
    async with await RawConnection.open(proxy.url) as connection:
        connection.send("GET", "/api/cache/events", version="1.0")
        status, lines = await connection.head()
        assert (status, dict(lines).get("Connection")) == ("HTTP/1.0 200 OK", "close")
        assert (await connection.reader.readuntil(b"\n\n")).startswith(b"data: {")


async def test_over_tls(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), server_hostname="localhost")
        writer.write(b"GET /api/cache/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert b'data: {"time"' in await reader.readuntil(b"}\n\n")
        writer.close()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Host": "my.local:1", "Origin": "http://my.local:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
    ],
)
async def test_who_may_listen_on_loopback(fields: dict[str, str], status: int, proxy: Proxy) -> None:
    async with await RawConnection.open(proxy.url) as connection:
        connection.send("GET", "/api/cache/events", fields=fields)
        line, _ = await connection.head()
        assert int(line.split()[1]) == status


@pytest.mark.parametrize(
    ("token", "given", "sees"),
    [
        ("secret", "Bearer secret", True),
        ("secret", "Bearer wrong", False),
        ("secret", "Basic secret", False),
        ("secret", None, False),
        (None, "Bearer secret", False),
    ],
)
async def test_untrusted_listeners_see_figures_and_no_requests(
    token: str | None, given: str | None, sees: bool, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token=token) as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        await ask(url, "POST", "/api/generate", body=GENERATE)
        async with listening(url, **({} if given is None else {"Authorization": given})) as connection:
            told = await event(connection)
        assert told["requests"]["misses"] == 1
        rows = told["lastRequests"]
        assert (rows is not None and rows[0]["operation"] == "generate") == sees
        assert (await ask(url, "GET", "/api/cache/events", fields={"Origin": "http://x"})).status == 403
        system = await ask(url, "GET", "/api/cache/system")
        assert b"lastRequests" not in system.body
