"""What is wrong with the store is said once, when it is lost."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.core.facts import Fault, Health, Part, StoreFault
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.store_trouble import StoreTrouble
from tests.support.clocks import Clock
from tests.support.servers import RedisServer
from tests.support.waiting import until

LOST = Health(part=Part.STORE, well=False, name="Redis", reason="ConnectionError")
NOWHERE = "Redis: nothing listens at 127.0.0.1:1: start Redis, or write where it is"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def trouble(said: list[str], clock: Clock, tasks: Tasks) -> StoreTrouble:
    address = redis_address("redis://127.0.0.1:1")
    return StoreTrouble(address, None, say=said.append, clock=clock, tasks=tasks)


async def test_a_lost_store_is_looked_at_once_in_a_while(trouble: StoreTrouble, said: list[str], clock: Clock) -> None:
    for _ in range(3):
        trouble(LOST)
    await until(lambda: said)
    clock.time += 29
    trouble(LOST)
    clock.time += 2
    trouble(LOST)
    await until(lambda: len(said) == 2)
    assert said == [NOWHERE] * 2


async def test_other_facts_are_no_reason_to_look(trouble: StoreTrouble, tasks: Tasks) -> None:
    trouble(StoreFault(kind=Fault.FAILED))
    trouble(Health(part=Part.STORE, well=True, name="Redis"))
    trouble(Health(part=Part.STORE_WRITES, well=False, name="Redis", reason="ReadOnlyError"))
    trouble(Health(part=Part.UPSTREAM, well=False, name="Ollama", reason="ConnectionError"))
    assert not tasks._endless


async def test_of_a_redis_that_is_back_nothing_is_said(
    said: list[str], redis_server: RedisServer, clock: Clock, tasks: Tasks
) -> None:
    found = StoreTrouble(redis_address(redis_server.url), None, say=said.append, clock=clock, tasks=tasks)
    found(LOST)
    await until(lambda: not tasks._endless)
    assert said == []
