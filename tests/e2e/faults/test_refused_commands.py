"""Servers that refuse a command, by access list or because it was renamed: the table of stores/redis/commands.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis.commands import COMMANDS, Without
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.company import acquainted, looking_often
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.stores import permit
from tests.support.waiting import until

LISTING = ("SCAN", "GETRANGE", "STRLEN")
"""Without one of these, entries are not listed, and a purge by filters is refused."""
NOT_BY_ONE_SERVER = ("ROLE", "CLUSTER SLOTS", "CLUSTER INFO", "ASKING", "WATCH")
"""Sent behind Sentinels, or to a cluster."""
GROUP = 4
"""Proxies at a time."""
row = pytest.mark.row


@pytest.fixture
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    own.start()
    yield own
    own.close()


async def generate(proxy: Proxy, prompt: str = canary.PROMPT) -> RawAnswer:
    body = json.dumps({"model": "tiny", "prompt": prompt, "stream": False}).encode()
    answer = await ask(proxy.url, "POST", "/api/generate", body=body)
    await proxy.kept()
    return answer


async def told(proxy: Proxy, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, Any]:
    answer = await ask(proxy.url, method, path, body=body)
    return answer.status, json.loads(answer.body)


async def is_hit(proxy: Proxy, prompt: str = canary.PROMPT) -> bool:
    answer = await generate(proxy, prompt)
    assert answer.status == 200
    return answer.field("X-Cache") == "HIT"


async def wrong_without(proxy: Proxy, name: str) -> list[str]:
    """Use every function of a proxy whose store refuses a command; return what was not as its row says."""
    used = COMMANDS[name].without in (Without.REPLACED, Without.LESS)
    found: dict[str, Any] = {"first": await is_hit(proxy)}
    expected: dict[str, Any] = {"first": False}

    def expect(what: str, value: Any, right: Any) -> None:
        found[what], expected[what] = value, right

    expect("again", [await is_hit(proxy), await is_hit(proxy)], [used, used])
    await generate(proxy, "other")
    status, stats = await told(proxy, "/api/cache/stats")
    keys = None if name == "SCAN" else 2 if used else 0
    expect("stats", (status, stats["keys"], stats["store"]["state"]), (200, keys, "ok"))
    expect("misses", (stats["misses"], stats["hits"]), (2, 2) if used else (4, 0))
    status, page = await told(proxy, "/api/cache/entries")
    expect("entries", (status, len(page.get("entries", ()))), (503, 0) if name in LISTING else (200, keys))
    status, purged = await told(proxy, "/api/cache/clear", "POST", b'{"operation":"chat"}')
    expect("purge", (status, purged.get("cleared")), (503, None) if name in LISTING else (200, 0))
    expect("after a purge of others", await is_hit(proxy), used)
    status, cleared = await told(proxy, "/api/cache/clear", "POST")
    expect("clear", (status, cleared.get("cleared")), (200, keys))
    expect("after", [await is_hit(proxy), await is_hit(proxy)], [False, used])
    expect("ready", (await told(proxy, "/readyz"))[0], 200)
    metrics = (await ask(proxy.url, "GET", "/metrics")).status
    expect("metrics", metrics, 200)
    log = proxy.log.getvalue()
    expect("lost for a refusal", "NoPermission" in log, False)
    return [
        f"{name}: {what}: {found[what]!r}, not {expected[what]!r}" for what in found if found[what] != expected[what]
    ]


@row(37)
async def test_without_any_one_command_the_proxy_does_what_the_table_says(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """Each command has a user of its own, and a database, so that the proxies share nothing but the server."""
    client = server.client()
    names = [name for name in COMMANDS if name not in ("AUTH", "SELECT", "SET", *NOT_BY_ONE_SERVER)]
    wrong: list[str] = []

    async def examine(number: int, name: str) -> None:
        user = f"user{number}"
        permit(server, user, "on", f">{canary.PASSWORD}", "~*", "&*", "+@all", f"-{refused(name)}")
        url = f"redis://{user}:{canary.PASSWORD}@127.0.0.1:{server.port}/{1 + number % GROUP}"
        async with proxy_before(simulator.url, redis_url=url, store_deadline=5) as proxy:
            wrong.extend(await wrong_without(proxy, name))
            measured(37, "lines", proxy.log.getvalue().count("The store refuses"))

    for start in range(0, len(names), GROUP):
        group = enumerate(names[start : start + GROUP], start)
        await asyncio.gather(*(examine(number, name) for number, name in group))
        client.flushall()
    assert wrong == []
    measured(37, "wrong", len(wrong))


def refused(name: str) -> str:
    return name.lower().replace(" ", "|")


@row(37)
@pytest.mark.parametrize("name", ["CLIENT ID", "CLIENT TRACKING", "SUBSCRIBE"])
async def test_without_client_tracking_the_hot_tier_is_off_and_the_log_says_it_once(
    name: str, server: RedisServer, simulator: Simulator
) -> None:
    permit(server, "default", f"-{refused(name)}")
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        store: Any = proxy.running.store
        await until(lambda: COMMANDS[name].effect in proxy.log.getvalue())
        assert [await is_hit(proxy) for _ in range(3)] == [False, True, True]
        assert (store._holding, len(store._front._entries)) == (False, 0)
        assert proxy.log.getvalue().count("The store refuses") == 1


@row(37)
@pytest.mark.parametrize("renamed", ["HELLO", "CLIENT", "MULTI"])
async def test_a_server_without_hello_client_or_transactions_is_used(renamed: str, simulator: Simulator) -> None:
    server = RedisServer("--rename-command", renamed, "")
    server.start()
    try:
        async with proxy_before(simulator.url, redis_url=server.url) as proxy:
            assert [await is_hit(proxy) for _ in range(3)] == [False, True, True]
            assert await told(proxy, "/api/cache/clear", "POST") == (200, {"cleared": 1})
            assert not await is_hit(proxy)
            assert "Lost" not in proxy.log.getvalue()
    finally:
        server.close()


@row(37)
@pytest.mark.parametrize(
    ("rules", "database"),
    [(("-set",), 0), (("-mget", "-get"), 0), (("-select",), 1)],
    ids=["SET", "MGET, GET", "SELECT"],
)
async def test_where_entries_cannot_be_written_or_read_no_client_gets_less_than_ollama_gives(
    rules: tuple[str, ...], database: int, server: RedisServer, simulator: Simulator
) -> None:
    permit(server, "default", *rules)
    async with proxy_before(simulator.url, redis_url=server.url.replace("/0", f"/{database}")) as proxy:
        answers = [await generate(proxy) for _ in range(8)]
        assert {(answer.status, answer.field("X-Cache")) for answer in answers} == {(200, "MISS")}
        assert (answers[-1].field("Cache-Status") or "").endswith("detail=store-unavailable")
        assert proxy.log.getvalue().count("Lost Redis") <= 2


@row(37)
async def test_every_command_that_is_sent_has_a_row(server: RedisServer, simulator: Simulator) -> None:
    client = server.client()
    client.config_resetstat()
    url = server.url.replace("/0", "/1")
    async with (
        looking_often(),
        proxy_before(simulator.url, redis_url=url) as proxy,
        proxy_before(simulator.url, redis_url=url) as other,
    ):
        await acquainted((proxy, other))
        for _ in range(3):
            await generate(proxy)
        many = json.dumps({"model": "all-minilm", "input": [f"text {number}" for number in range(200)]}).encode()
        for _ in range(2):
            await ask(proxy.url, "POST", "/api/embed", body=many)
        await proxy.kept()
        for method, path, body in (
            ("GET", "/api/cache/stats", b""),
            ("GET", "/api/cache/entries", b""),
            ("POST", "/api/cache/clear", b'{"operation":"generate"}'),
            ("POST", "/api/cache/clear", b""),
            ("GET", "/readyz", b""),
            ("GET", "/metrics", b""),
        ):
            assert (await ask(proxy.url, method, path, body=body)).status == 200
        store: Any = proxy.running.store
        await generate(proxy)
        await generate(proxy)
        await until(lambda: store._holding)
        await store._back.touch(["0" * 64], "0" * 32)
        store.renew({"0" * 64: (60, 0.0, 2**31)})
        await store._back.renewals.close()
        await until(lambda: "cmdstat_info" in client.info("commandstats"))
    sent = {name.removeprefix("cmdstat_").replace("|", " ").upper() for name in client.info("commandstats")}
    own = {"CONFIG RESETSTAT", "CONFIG", "INFO"}
    containers = {name.split()[0] for name in COMMANDS if " " in name}  # what is counted before 7.0
    assert sent - own <= set(COMMANDS) | containers
    seen = {name for name in COMMANDS if {name, name.split()[0]} & sent}
    assert set(COMMANDS) - seen <= {"DEL", "HSETNX", "GET", "PING", "CLIENT SETINFO", *NOT_BY_ONE_SERVER}, (
        "a row for what is not sent"
    )
