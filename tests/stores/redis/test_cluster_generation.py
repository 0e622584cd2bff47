"""The copies of the generation in a cluster: which one is later, and what is done about one that is not the latest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import Event
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis import cluster_generation
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.cluster_generation import ClusterGeneration, later_than
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.guard import Guard, WriteRefused
from ollama_cache_proxy.stores.redis.key_layout import CLUSTER
from tests.support.clocks import Clock
from tests.support.clusters import Cluster
from tests.support.stores import key

Made = Callable[[], ClusterGeneration]


@pytest.fixture
async def make(cluster: Cluster, clock: Clock, tasks: Tasks, told: list[Event]) -> AsyncIterator[Made]:
    """Return a factory of what several processes have."""
    clients: list[ClusterClient] = []

    def make() -> ClusterGeneration:
        client = ClusterClient(redis_address(cluster.url))
        clients.append(client)
        guard = Guard(name="Redis", clock=clock, observe=told.append, longest=10.0)
        commands = Commands(clock=clock, observe=told.append)
        return ClusterGeneration(client, guard, commands, clock=clock, tasks=tasks)

    yield make
    for client in clients:
        await client.close()


def copies(cluster: Cluster) -> set[str]:
    return {"" if copy is None else copy.decode() for copy in cluster.values(CLUSTER.generations)}


def put(cluster: Cluster, name: str, value: str) -> None:
    cluster.owner(slot_of(name)).client().set(name, value)


@pytest.mark.parametrize(
    ("former", "now", "begins"),
    [
        pytest.param("", 1_800_000_000.5, "6b49d200", id="the first: the time"),
        pytest.param("6b49d1ff" + "f" * 24, 1_800_000_000.0, "6b49d200", id="an older one: the time"),
        pytest.param("6b49d200" + "f" * 24, 1_800_000_000.0, "6b49d201", id="one of this second: the next number"),
        pytest.param("7fffffff" + "0" * 24, 1_800_000_000.0, "80000000", id="one of a clock that is ahead"),
        pytest.param("f" * 32, 1_800_000_000.0, "ffffffff", id="no later number"),
    ],
)
def test_a_later_one(former: str, now: float, begins: str) -> None:
    tokens = {later_than(former, now) for _ in range(50)}
    assert len(tokens) == 50
    assert {token[:8] for token in tokens} == {begins}
    assert {len(token) for token in tokens} == {32}
    assert all(token > former for token in tokens) or former == "f" * 32


async def test_the_first_process_begins_one_everywhere_and_others_find_it(make: Made, cluster: Cluster) -> None:
    first = await make().current()
    assert copies(cluster) == {first}
    assert await make().current() == first


async def test_of_several_that_begin_at_once_all_end_with_the_same(make: Made, cluster: Cluster) -> None:
    several = [make() for _ in range(4)]
    await asyncio.gather(*(one.current() for one in several))
    assert len({await one.current() for one in several}) == 1
    assert len(copies(cluster)) == 1


async def test_who_loses_races_for_a_copy_tries_again(
    make: Made, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many proxies start at once."""
    read, left, names = cluster_generation._found, [f"00000001{number:024x}" for number in range(20)], list[str]()

    async def raced(pipeline: Any, name: str) -> bytes | None:
        found: bytes | None = await read(pipeline, name)
        names.append(name)
        if left and name == names[0]:
            cluster.owner(slot_of(name)).client().set(name, left.pop(0))
        return found

    monkeypatch.setattr(cluster_generation, "_found", raced)
    token = await make().current()
    assert (copies(cluster), left) == ({token}, [])


async def test_a_clear_replaces_every_copy_and_others_find_nothing(make: Made, cluster: Cluster) -> None:
    one, other = make(), make()
    former = await one.current()
    assert await other.current() == former
    names = [CLUSTER.entry_name(former, key(number)) for number in range(40)]
    for name in names:
        put(cluster, name, "cleared")
    assert (await other.lookup([key(number) for number in range(40)]))[1] == [b"cleared"] * 40
    assert await one.replace() == former
    assert copies(cluster) == {one.seen}
    assert await other.lookup([key(1)]) == (one.seen, [None])
    assert await other.lookup([key(number) for number in range(40)]) == (one.seen, [None] * 40)


@pytest.mark.parametrize("older", ["", "00000001" + "a" * 24, "nonsense", "F" * 32], ids=repr)
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
async def test_a_copy_that_is_older_or_none_is_replaced_and_nothing_is_found_under_it(
    older: str, many: bool, make: Made, cluster: Cluster
) -> None:
    generation = make()
    newest = await generation.current()
    beside = CLUSTER.generation_beside(key(7))
    cluster.owner(slot_of(beside)).client().delete(beside)
    if older:
        put(cluster, beside, older)
        put(cluster, CLUSTER.entry_name(older, key(7)), "cleared")
    keys = [key(number) for number in range(100)] if many else [key(7)]
    assert await generation.lookup(keys) == (newest, [None] * len(keys))
    assert copies(cluster) == {newest}


async def test_a_copy_of_another_type_is_replaced(make: Made, cluster: Cluster) -> None:
    generation = make()
    newest = await generation.current()
    beside = CLUSTER.generation_beside(key(7))
    server: Any = cluster.owner(slot_of(beside)).client()
    server.delete(beside)
    server.hset(beside, "a", "b")
    assert await generation.lookup([key(7)]) == (newest, [None])
    assert copies(cluster) == {newest}


async def test_a_later_copy_is_gone_by_and_the_others_follow(make: Made, cluster: Cluster) -> None:
    generation = make()
    later = later_than(await generation.current(), 0.0)
    put(cluster, CLUSTER.generation_beside(key(7)), later)
    put(cluster, CLUSTER.entry_name(later, key(7)), "new")
    assert await generation.lookup([key(7)]) == (later, [b"new"])
    assert await generation.lookup([key(number) for number in range(100)]) == (
        later,
        [b"new" if number == 7 else None for number in range(100)],
    )
    assert copies(cluster) == {later}
    assert await make().current() == later


async def test_one_that_comes_late_never_replaces_a_later_one(make: Made, cluster: Cluster) -> None:
    slow, fast = make(), make()
    await slow.current()
    await fast.current()
    await fast.replace()
    name = CLUSTER.generations[0]
    await slow._advance(name)
    assert copies(cluster) == {fast.seen}
    assert slow.seen == fast.seen


async def test_of_two_clears_at_once_the_later_one_counts(make: Made, cluster: Cluster) -> None:
    one, other = make(), make()
    former = await one.current()
    await other.current()
    await asyncio.gather(one.replace(), other.replace())
    (found,) = {await one.current(), await other.current()}
    assert copies(cluster) == {found}
    assert found > former


async def test_without_writes_nothing_is_found_under_an_older_copy(make: Made, cluster: Cluster) -> None:
    generation = make()
    await generation.current()
    older = "00000001" + "a" * 24
    put(cluster, CLUSTER.generation_beside(key(7)), older)
    put(cluster, CLUSTER.entry_name(older, key(7)), "cleared")
    generation._guard.writes.failed(0.0, decisive=True)
    with pytest.raises(WriteRefused):
        await generation.lookup([key(7)])


async def test_the_keys_of_probes_are_of_all_nodes(make: Made, cluster: Cluster) -> None:
    generation = make()
    await generation.current()
    asked = {generation.probe_key for _ in range(128)}
    assert {slot_of(CLUSTER.generation_beside(name)) for name in asked} == set(map(slot_of, CLUSTER.generations))
