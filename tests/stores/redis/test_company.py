"""Whether a process is alone with its store: real servers, and several processes' views of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import Event
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis import company as module
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.company import Company
from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.key_layout import PROCESSES
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from tests.support.clocks import Clock
from tests.support.servers import RedisServer
from tests.support.stores import permit
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(module, "GONE_AFTER", 0.6)


@pytest.fixture
def join(
    reach: Callable[[RedisServer], RedisClient], clock: Clock, told: list[Event], tasks: Tasks
) -> Callable[[RedisServer], tuple[Company, asyncio.Task[None]]]:
    """Return a factory of what a process sees, and of the task by which it is seen."""

    def join(server: RedisServer) -> tuple[Company, asyncio.Task[None]]:
        guard = Guard(name="Redis", clock=clock, observe=told.append)
        own = Company(reach(server), guard, Commands(clock=clock, observe=told.append))
        return own, tasks.spawn(own.follow(), "look for others", endless=True)

    return join


async def test_a_process_is_not_alone_before_it_knows_and_then_until_another_comes(
    join: Any, redis_server: RedisServer
) -> None:
    one, _ = join(redis_server)
    assert not one.alone
    begun = time.monotonic()
    await until(lambda: one.alone)
    assert redis_server.client().hlen(PROCESSES) == 1
    assert time.monotonic() - begun < module.GONE_AFTER, "at its first look"
    other, task = join(redis_server)
    await until(lambda: not one.alone)
    assert not other.alone
    await asyncio.sleep(1.0)
    assert [one.alone, other.alone] == [False, False]
    task.cancel()
    await until(lambda: one.alone)
    assert 0 < redis_server.client().ttl(PROCESSES) <= 60


async def test_a_process_that_leaves_is_no_company_from_then_on(
    join: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GONE_AFTER", 1000.0)
    one, _ = join(redis_server)
    await until(lambda: one.alone)
    (other, task), (third, last) = join(redis_server), join(redis_server)
    await until(lambda: redis_server.client().hlen(PROCESSES) == 3)
    await until(lambda: not one.alone)
    for company, following in ((other, task), (third, last)):
        assert not one.alone
        following.cancel()
        await asyncio.wait((following,))
        await company.leave()
    await until(lambda: one.alone)
    assert 0 < redis_server.client().ttl(PROCESSES) <= 60
    again, _ = join(redis_server)
    await until(lambda: not one.alone)
    assert not again.alone


async def test_a_process_that_has_seen_nobody_leaves_nothing(join: Any, redis_server: RedisServer) -> None:
    one, task = join(redis_server)
    task.cancel()
    await one.leave()
    assert not redis_server.client().exists(PROCESSES)


async def test_others_whose_numbers_the_server_lost_may_still_be_there(
    join: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GONE_AFTER", 1000.0)
    client: Any = redis_server.client()
    client.hset(PROCESSES, "other", 7)
    one, _ = join(redis_server)
    await until(lambda: client.hlen(PROCESSES) == 2)
    client.delete(PROCESSES)
    await until(lambda: client.hlen(PROCESSES) == 1)
    await asyncio.sleep(0.2)
    assert not one.alone


async def test_what_a_process_left_that_was_killed_is_no_company_for_long(join: Any, redis_server: RedisServer) -> None:
    client: Any = redis_server.client()
    client.hset(PROCESSES, "killed", 7)
    one, _ = join(redis_server)
    await until(lambda: one.alone)


async def test_a_server_that_does_not_answer_or_let_it_look_tells_nothing(join: Any, server: RedisServer) -> None:
    one, _ = join(server)
    await until(lambda: one.alone)
    permit(server, "default", "-hincrby")
    await until(lambda: not one.alone)
    permit(server, "default", "+@all")
    await until(lambda: one.alone)
    server.kill()
    await until(lambda: not one.alone)


async def test_a_hash_of_many_that_have_ended_is_begun_anew(
    join: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    client: Any = redis_server.client()
    client.hset(PROCESSES, mapping={str(number): 1 for number in range(20)})
    one, _ = join(redis_server)
    await until(lambda: client.hlen(PROCESSES) == 1)
    await until(lambda: one.alone)
