"""The invalidation messages of a real Redis or Valkey, and that silence is noticed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis import invalidation
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.invalidation import RedisWatch
from tests.support import canary
from tests.support.odd_servers import odd_server, says
from tests.support.rawhttp import ask
from tests.support.servers import RedisServer, proxy_before
from tests.support.stores import permit
from tests.support.waiting import until


class Listener:
    """Notes the calls of a watch."""

    def __init__(self) -> None:
        self.active = False
        self.names: list[bytes | None] = []

    def resume(self) -> None:
        self.active = True

    def changed(self, names: list[bytes] | None) -> None:
        self.names += [None] if names is None else names

    def suspend(self) -> None:
        self.active = False


@pytest.fixture
async def own() -> AsyncIterator[RedisServer]:
    server = RedisServer("--maxmemory-policy", "allkeys-lru")
    server.start()
    yield server
    server.close()


@pytest.fixture
async def listener(own: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listener]:
    monkeypatch.setattr(invalidation, "SILENT", 0.3)
    monkeypatch.setattr(invalidation, "_RETRY_AFTER", 0.05)
    pool = redis.ConnectionPool.from_url(own.url, protocol=2)
    listener, tasks = Listener(), Tasks()
    watch = RedisWatch(
        lambda: pool.connection_class(**pool.connection_kwargs),
        commands=Commands(clock=SystemClock(), observe=print),
        prefixes=("ocp:1:e:", "ocp:1:generation"),
        resume=listener.resume,
        changed=listener.changed,
        suspend=listener.suspend,
    )
    watch.begin(tasks)
    await until(lambda: listener.active)
    yield listener
    await tasks.close(0)
    assert not listener.active
    await pool.aclose()


async def test_every_kind_of_change_is_an_invalidation(own: RedisServer, listener: Listener) -> None:
    client = own.client()
    client.set("ocp:1:e:g:one", "x")
    client.set("ocp:1:statistics", "x")
    client.set("others", "x")
    client.set("ocp:1:generation", "x")
    client.set("ocp:1:e:g:two", "x", px=1)
    await until(lambda: client.get("ocp:1:e:g:two") is None)
    client.unlink("ocp:1:e:g:one")
    client.flushall()
    await until(lambda: None in listener.names)
    one, generation, two = b"ocp:1:e:g:one", b"ocp:1:generation", b"ocp:1:e:g:two"
    assert set(listener.names) == {one, generation, two, None}
    assert listener.names[0] == one
    assert listener.names.count(one) == 2
    assert listener.names.count(two) == 2, "set, and expired"


async def test_an_eviction_is_an_invalidation(own: RedisServer, listener: Listener) -> None:
    client = own.client()
    client.set("ocp:1:e:g:one", "x" * 1000)
    listener.names.clear()
    client.config_set("maxmemory", "1")
    await until(lambda: b"ocp:1:e:g:one" in listener.names)


async def test_a_server_without_changes_is_not_taken_for_silent(own: RedisServer, listener: Listener) -> None:
    await asyncio.sleep(1.5)
    assert listener.active
    own.client().set("ocp:1:e:g:one", "x")
    await until(lambda: listener.names == [b"ocp:1:e:g:one"])


@pytest.mark.parametrize("how", ["killed", "stopped", "disconnected"])
async def test_a_server_that_is_gone_is_noticed_and_watched_again_when_it_is_back(
    how: str, own: RedisServer, listener: Listener
) -> None:
    if how == "killed":
        own.kill()
        await until(lambda: not listener.active)
        own.start()
    elif how == "stopped":
        own.signal(signal.SIGSTOP)
        await until(lambda: not listener.active)
        own.signal(signal.SIGCONT)
    else:
        suspend = listener.suspend
        seen: list[bool] = []
        listener.suspend = lambda: (suspend(), seen.append(True))[0]  # type: ignore[method-assign]
        own.client().client_kill_filter(_type="pubsub")
        await until(lambda: seen or not listener.active)
    await until(lambda: listener.active)
    listener.names.clear()
    own.client().set("ocp:1:e:g:one", "x")
    await until(lambda: b"ocp:1:e:g:one" in listener.names)


async def test_the_rights_that_the_docs_name_are_enough(own: RedisServer, simulator: Simulator) -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text("utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("ACL SETUSER ocp ") and "cluster" not in line)
    _, _, user, *rules = line.replace("PASSWORD", canary.PASSWORD).split()
    permit(own, user, *rules)
    url = f"redis://ocp:{canary.PASSWORD}@127.0.0.1:{own.port}/0"
    body = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
    async with proxy_before(simulator.url, redis_url=url) as proxy:
        store: Any = proxy.running.store
        await until(lambda: store._holding)
        answers = [await ask(proxy.url, "POST", "/api/generate", body=body) for _ in range(3)]
        assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT", "HIT"]
        assert json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"] == 1
        assert len(json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]) == 1
        for cleared, filters in ((1, b'{"model": "tiny"}'), (0, None)):
            answer = await ask(proxy.url, "POST", "/api/cache/clear", body=filters)
            assert json.loads(answer.body) == {"cleared": cleared}
        assert "Lost Redis" not in proxy.log.getvalue()
        assert [line["username"] for line in own.client().acl_log()] == []


async def test_where_redis_may_not_tell_nothing_is_held_and_all_else_works(
    own: RedisServer, simulator: Simulator
) -> None:
    permit(own, "deaf", "on", f">{canary.PASSWORD}", "~*", "+@all", "-client|tracking")
    url = f"redis://deaf:{canary.PASSWORD}@127.0.0.1:{own.port}/0"
    body = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
    async with proxy_before(simulator.url, redis_url=url) as proxy:
        answers = [await ask(proxy.url, "POST", "/api/generate", body=body) for _ in range(3)]
        assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT", "HIT"]
        store: Any = proxy.running.store
        assert (store._holding, len(store._front._entries)) == (False, 0)


@pytest.mark.parametrize("turns", range(40))
async def test_it_ends_when_it_is_told_to_while_it_still_connects(turns: int, own: RedisServer) -> None:
    """redis-py swallowed the cancellation, and the proxy never ended."""
    pool = redis.ConnectionPool.from_url(own.url, protocol=2)
    listener, tasks = Listener(), Tasks()
    watch = RedisWatch(
        lambda: pool.connection_class(**pool.connection_kwargs),
        commands=Commands(clock=SystemClock(), observe=print),
        prefixes=("ocp:1:e:",),
        resume=listener.resume,
        changed=listener.changed,
        suspend=listener.suspend,
    )
    watch.begin(tasks)
    for _ in range(turns):
        await asyncio.sleep(0.0002 if turns % 2 else 0)
    await asyncio.wait_for(tasks.close(0), 5)
    await pool.aclose()


@pytest.mark.parametrize("reply", [b"+OK\r\n", b":1\r\n", b"*3\r\n+a\r\n+b\r\n:1\r\n", b"+OK\r\n:1\r\n?\r\n"])
async def test_what_is_no_redis_is_never_trusted_to_tell_of_changes(reply: bytes) -> None:
    """Its replies say that nothing was subscribed, whatever they say."""
    resumed: list[str] = []
    tasks = Tasks()
    with odd_server(says(reply)) as port:
        pool = redis.ConnectionPool.from_url(f"redis://127.0.0.1:{port}", protocol=2)
        made: list[redis.Connection] = []

        def make() -> redis.Connection:
            made.append(pool.connection_class(**pool.connection_kwargs))
            return made[-1]

        watch = RedisWatch(
            make,
            commands=Commands(clock=SystemClock(), observe=print),
            prefixes=("ocp:1:e:",),
            resume=lambda: resumed.append("resumed"),
            changed=lambda _: None,
            suspend=lambda: None,
        )
        watch.begin(tasks)
        await until(lambda: len(made) > 1)
        await tasks.close(0)
    assert resumed == []
