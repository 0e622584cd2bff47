"""What the store does without a command that it sends, one at a time, on a real server whose access list refuses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from ollama_cache_proxy.core.facts import CommandRefused, Event, Health
from ollama_cache_proxy.core.store_ports import UNCOUNTED, KeyCount
from ollama_cache_proxy.stores.redis import commands as module
from ollama_cache_proxy.stores.redis.commands import COMMANDS, Commands, is_refusal, permitted, remove
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.stores.redis.conftest import Connect
from tests.support.clocks import Clock
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import calls, key, permit
from tests.support.waiting import until

REFUSALS = [
    NoPermissionError("this user has no permissions to run the 'mget' command"),
    ResponseError("unknown command 'MGET', with args beginning with: 'a' "),
    ResponseError("unknown command `UNLINK`, with args beginning with: "),
    ResponseError("ERR unknown command `UNLINK`"),
    ResponseError("Unknown subcommand or wrong number of arguments for 'TRACKING'. Try CLIENT HELP"),
]
NO_REFUSALS = [
    ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    ResponseError("hash value is not an integer"),
    OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    ReadOnlyError("You can't write against a read only replica."),
    RedisConnectionError("unknown command"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_a_command_that_is_not_permitted_or_not_known_is_refused(error: Exception) -> None:
    assert is_refusal(error)


@pytest.mark.parametrize("error", NO_REFUSALS, ids=repr)
def test_a_fault_of_the_server_or_of_the_data_is_no_refusal(error: Exception) -> None:
    assert not is_refusal(error)


@pytest.fixture
def commands(clock: Clock, told: list[Event]) -> Commands:
    return Commands(clock=clock, observe=told.append)


class Server:
    """Sends commands to nobody; refuses some."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.sent: list[str] = []

    def way(self, name: str) -> tuple[str, Callable[[], Any]]:
        async def send() -> str:
            self.sent.append(name)
            if name in self.refused:
                raise NoPermissionError(name)
            return name

        return name, send


async def test_the_second_way_is_taken_where_the_first_is_refused_which_is_asked_again_later(
    commands: Commands, clock: Clock, told: list[Event]
) -> None:
    server = Server("UNLINK")
    ways = (server.way("UNLINK"), server.way("DEL"))
    assert [await commands.run(*ways) for _ in range(3)] == ["DEL"] * 3
    assert server.sent == ["UNLINK", "DEL", "DEL", "DEL"]
    clock.time += module.ASK_AGAIN_AFTER
    assert await commands.run(*ways) == "DEL"
    server.refused.clear()
    clock.time += module.ASK_AGAIN_AFTER
    assert await commands.run(*ways) == "UNLINK"
    assert server.sent[4:] == ["UNLINK", "DEL", "UNLINK"]
    assert told == [CommandRefused(command="UNLINK", effect=COMMANDS["UNLINK"].effect)], "said once"


async def test_what_is_refused_in_every_way_is_not_sent_again_at_once(commands: Commands) -> None:
    server = Server("SCAN")
    for _ in range(3):
        assert await permitted(lambda: commands.run(server.way("SCAN")), "none") == "none"
    assert server.sent == ["SCAN"]


@pytest.mark.parametrize("error", NO_REFUSALS, ids=repr)
async def test_a_fault_leaves_the_ways_as_they_are(error: Exception, commands: Commands, told: list[Event]) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await permitted(lambda: commands.run(("UNLINK", fail), Server().way("DEL")), None)
    assert commands.refused("UNLINK") is None
    assert told == []


class Pool:
    """Deletes names; UNLINK leaves some, as KeyDB's does while another connection scans."""

    def __init__(self, *names: str, left: int) -> None:
        self.names = set(names)
        self.left = left
        self.sent: list[str] = []

    async def unlink(self, *names: str) -> int:
        self.sent.append("UNLINK")
        gone = sorted(self.names & set(names))[self.left :]
        self.names -= set(gone)
        return len(gone)

    async def delete(self, *names: str) -> int:
        self.sent.append("DEL")
        gone = self.names & set(names)
        self.names -= gone
        return len(gone)


@pytest.mark.parametrize(
    ("left", "asked", "sent"),
    [
        pytest.param(0, ("a", "b"), ["UNLINK"], id="all are gone"),
        pytest.param(1, ("a", "b"), ["UNLINK", "DEL"], id="one is left"),
        pytest.param(2, ("a", "b"), ["UNLINK", "DEL"], id="both are left"),
        pytest.param(0, ("a", "b", "c"), ["UNLINK", "DEL"], id="one was not there"),
    ],
)
async def test_what_unlink_leaves_is_deleted(
    left: int, asked: tuple[str, ...], sent: list[str], commands: Commands
) -> None:
    pool = Pool("a", "b", left=left)
    assert await remove(pool, commands, *asked) == 2
    assert (pool.names, pool.sent) == (set(), sent)


@pytest.fixture
async def without(
    request: pytest.FixtureRequest, server: RedisServer, connect: Connect
) -> tuple[RedisStore, RedisServer]:
    """A store whose user may send everything but one command."""
    permit(server, "default", "-" + request.param.lower().replace(" ", "|"))
    return connect(server), server


ALL = tuple(COMMANDS)
ESSENTIAL = ("SET",)
"""Without these nothing can be stored."""
BEFORE_ANY = ("AUTH", "SELECT", "CLIENT SETINFO", "CLIENT ID", "CLIENT TRACKING", "SUBSCRIBE")
"""Of the connection, or of the hot tier: tests/e2e/faults/test_refused_commands.py."""
NAMES = [name for name in ALL if name not in BEFORE_ANY]
LISTING = ("SCAN", "GETRANGE", "STRLEN")


def health(told: list[Event]) -> list[bool]:
    return [event.well for event in told if isinstance(event, Health)]


@pytest.mark.parametrize(
    ("without", "name"), [(name, name) for name in NAMES if name not in ESSENTIAL], indirect=["without"]
)
async def test_entries_are_stored_found_and_cleared_without_any_one_command(
    name: str, without: tuple[RedisStore, RedisServer], told: list[Event]
) -> None:
    store, _ = without
    generation = (await store.entries.get(key(0))).generation
    assert generation is not None
    many = [key(number) for number in range(150)]
    assert await store.entries.put([(name, FULL_ENTRY) for name in many], generation)
    assert (await store.entries.get(key(1))).entry == FULL_ENTRY
    found = await store.entries.get_many([*many, key(1000)])
    assert found.entries == (FULL_ENTRY,) * 150 + (None,)
    await store.entries.touch(many, generation)

    counted = await store.entries.count()
    assert counted == KeyCount(keys=None if name == "SCAN" else 150, age=0.0)
    page = await store.entries.page("", 1000)
    assert (page is None) if name in LISTING else (page is not None and len(page.entries) == 150)
    purged = await store.entries.purge(lambda entry: entry.key == key(7))
    assert purged == (None if name in LISTING else 1), "what cannot be purged is not said to be"
    assert await store.entries.delete([key(8)], generation) == 1

    left = 149 if name in LISTING else 148
    assert await store.entries.clear() == (UNCOUNTED if name == "SCAN" else left)
    assert (await store.entries.get_many(many)).entries == (None,) * 150
    assert health(told) == [True], "a refusal is no fault of the server"
    assert not store.gauges.breakers()["read"]
    assert not store.gauges.breakers()["write"]


@pytest.mark.parametrize("without", ["SET"], indirect=True)
async def test_without_set_what_is_stored_is_found_and_nothing_is_added(
    connect: Connect, server: RedisServer, without: tuple[RedisStore, RedisServer]
) -> None:
    permit(server, "default", "+set")
    writer = connect(server)
    generation = (await writer.entries.get(key(0))).generation
    assert generation is not None
    assert await writer.entries.put([(key(1), FULL_ENTRY)], generation)
    permit(server, "default", "-set")
    store, _ = without
    assert (await store.entries.get(key(1))).entry == FULL_ENTRY
    assert not await store.entries.put([(key(2), FULL_ENTRY)], generation)
    assert (await store.entries.get(key(2))).entry is None


@pytest.mark.parametrize("without", ["UNLINK"], indirect=True)
async def test_without_unlink_and_del_a_purge_fails_and_a_clear_does_not(
    without: tuple[RedisStore, RedisServer], told: list[Event]
) -> None:
    store, server = without
    permit(server, "default", "-del")
    generation = (await store.entries.get(key(0))).generation
    assert generation is not None
    assert await store.entries.put([(key(1), FULL_ENTRY)], generation)
    assert await store.entries.purge(lambda _: True) is None
    assert await store.entries.delete([key(1)], generation) is None
    assert (await store.entries.get(key(1))).entry == FULL_ENTRY
    assert await store.entries.clear() == 1
    assert (await store.entries.get(key(1))).entry is None
    assert False not in health(told)


@pytest.mark.parametrize("without", ["MGET"], indirect=True)
async def test_without_mget_and_get_the_store_is_not_used(without: tuple[RedisStore, RedisServer]) -> None:
    store, server = without
    permit(server, "default", "-get")
    assert (await store.entries.get(key(1))).generation is None
    assert await store.entries.count() == KeyCount(keys=None, age=0.0)
    assert await store.values.load("salt") is None


@pytest.mark.parametrize("foreign", ["entry", "generation"])
@pytest.mark.parametrize("without", ["MGET"], indirect=True)
async def test_without_mget_a_value_of_another_type_is_none(
    foreign: str, without: tuple[RedisStore, RedisServer]
) -> None:
    store, server = without
    client = server.client()
    generation = (await store.entries.get(key(0))).generation
    name = "ocp:1:generation" if foreign == "generation" else f"ocp:1:e:{generation}:{key(1)}"
    client.delete(name)
    client.rpush(name, "x")
    found = await store.entries.get(key(1))
    assert found.entry is None
    assert found.generation is not None
    assert (found.generation == generation) == (foreign == "entry")


@pytest.mark.parametrize("without", ["MGET"], indirect=True)
async def test_without_mget_a_lookup_costs_no_refusal_each_time(without: tuple[RedisStore, RedisServer]) -> None:
    store, server = without
    await store.entries.get(key(0))
    client = server.client()
    client.config_resetstat()
    for _ in range(20):
        await store.entries.get(key(0))
    assert (calls(server, "mget"), calls(server, "get")) == (0, 40)
    assert client.info("commandstats").get("cmdstat_mget", {}).get("rejected_calls", 0) == 0


@pytest.mark.parametrize(
    ("without", "name"), [(name, name) for name in ("HINCRBY", "HSETNX", "HGETALL")], indirect=["without"]
)
async def test_no_total_is_added_twice_and_none_is_forgotten(
    name: str, without: tuple[RedisStore, RedisServer], clock: Clock, told: list[Event]
) -> None:
    """A caller adds again what was not added: an error after the addition would let totals grow for ever."""
    store, server = without
    new, known, sent = {"hits": 1, "misses": 0}, {"hits": 10}, 0
    for _ in range(5):
        totals = await store.values.add("stats", new, known)
        clock.time += module.ASK_AGAIN_AFTER
        if totals is not None:
            sent, known = sent + 1, totals
    kept = int(server.client().execute_command("HGET", "ocp:1:stats", "hits") or 0)
    if name == "HINCRBY":
        assert (sent, kept) == (0, 10)
    else:
        assert (sent, kept, known["hits"]) == (5, *((5, 5) if name == "HSETNX" else (15, 15)))
    assert False not in health(told)


@pytest.mark.parametrize("name", ["GET", "MGET", "UNLINK", "HINCRBY"])
@pytest.mark.parametrize("renamed", [True, False])
async def test_a_command_that_is_renamed_is_one_that_is_not_known(renamed: bool, name: str, connect: Connect) -> None:
    server = RedisServer(*(("--rename-command", name, "") if renamed else ()))
    server.start()
    try:
        store = connect(server)
        generation = (await store.entries.get(key(0))).generation
        assert generation is not None
        assert await store.entries.put([(key(1), FULL_ENTRY)], generation)
        assert (await store.entries.get(key(1))).entry == FULL_ENTRY
        assert await store.entries.purge(lambda _: True) == 1
        assert await store.values.set_default("salt", b"x") == b"x"
        added = await store.values.add("stats", {"hits": 1}, {})
        assert added == (None if renamed and name == "HINCRBY" else {"hits": 1})
        assert await store.entries.clear() == 0
    finally:
        server.close()


async def test_a_command_that_is_permitted_again_is_used_again(
    server: RedisServer, connect: Connect, clock: Clock
) -> None:
    store = connect(server)
    permit(server, "default", "-mget", "-scan")
    await store.entries.get(key(0))
    assert await store.entries.count() == KeyCount(keys=None, age=0.0)
    permit(server, "default", "+mget", "+scan")
    clock.time += module.ASK_AGAIN_AFTER
    assert await store.entries.count() == KeyCount(keys=0, age=0.0)
    before = calls(server, "mget")
    await store.entries.get(key(0))
    assert calls(server, "mget") == before + 1


async def test_two_clears_at_once_without_getset_leave_one_generation(server: RedisServer, connect: Connect) -> None:
    permit(server, "default", "-getset")
    stores = [connect(server) for _ in range(4)]
    generation = (await stores[0].entries.get(key(0))).generation
    assert generation is not None
    assert await stores[0].entries.put([(key(1), FULL_ENTRY)], generation)
    await asyncio.gather(*(store.entries.clear() for store in stores))
    found = [await store.entries.get(key(1)) for store in stores]
    assert [lookup.entry for lookup in found] == [None] * 4
    assert len({lookup.generation for lookup in found}) == 1
    client = server.client()
    await until(lambda: not client.exists(f"ocp:1:e:{generation}:{key(1)}"))
