"""What is Redis's own in the store: names of others, damage, lost hashes, counts of many, a server that goes.

What it does like every store is in test_stores.py, what a fault of it costs a client in tests/e2e/faults.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from ollama_cache_proxy.core.ports import Event, KeyCount, Lookup, Lookups, Page, StoreCall
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import StoredResponse, packed
from ollama_cache_proxy.stores import write_buffer
from ollama_cache_proxy.stores.redis import redis_store as module
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.support.servers import RedisServer
from tests.support.waiting import until

ENTRY = StoredResponse(
    status=200,
    reason="OK",
    fields=((b"Content-Type", b"application/json"),),
    body=b'{"response":"hello","done":true}',
    stored_at=1000.0,
    lifetime=3600,
    took=1.5,
    operation="generate",
    model="registry.ollama.ai/library/tiny:latest",
    category="",
    namespace="",
    prompt_tokens=7,
    output_tokens=None,
)
STREAM = replace(ENTRY, pieces=packed([(3, 10), (5, 22)]))


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


Connect = Callable[[RedisServer], RedisStore]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[Event]:
    """What the stores said."""
    return []


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
async def connect(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, tasks: Tasks, told: list[Event]
) -> AsyncIterator[Connect]:
    """Gives stores as several processes would have them, with patience for a machine that is busy."""
    monkeypatch.setattr(module, "_CONNECT", 5.0)
    monkeypatch.setattr(module, "_READ", 5.0)
    opened: list[RedisStore] = []

    def connect(server: RedisServer) -> RedisStore:
        opened.append(RedisStore(server.url, name="Redis", clock=clock, observe=told.append, tasks=tasks))
        return opened[-1]

    yield connect
    await tasks.close(5)
    for store in opened:
        await store.close()


@pytest.fixture
def store(connect: Connect, redis_server: RedisServer) -> RedisStore:
    return connect(redis_server)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed."""
    own = RedisServer()
    own.start()
    yield own
    own.close()


def key(number: int) -> str:
    return f"{number:064x}"


async def fill(store: RedisStore, *numbers: int, entry: StoredResponse = ENTRY) -> None:
    generation = (await store.get(key(0))).generation
    assert generation is not None
    assert await store.put([(key(number), entry) for number in numbers], generation)


async def name(store: RedisStore, number: int) -> str:
    return f"ocp:1:e:{(await store.get(key(number))).generation}:{key(number)}"


async def fill_with_names(server: RedisServer, store: RedisStore, count: int, generation: str | None = None) -> None:
    """Write names of entries, in one go, without what an entry is made of."""
    generation = generation or (await store.get_many(())).generation
    server.client().mset({f"ocp:1:e:{generation}:{key(number)}": b"x" for number in range(count)})


async def keys(store: RedisStore, limit: int = 100) -> list[str]:
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await store.page(cursor, limit)
        assert page is not None
        found += [entry.key for entry in page.entries]
        cursor = page.cursor
    return sorted(found)


def calls(server: RedisServer, command: str) -> int:
    return server.client().info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


async def test_names_of_others_and_old_generations_are_not_seen(store: RedisStore, redis_server: RedisServer) -> None:
    await fill(store, 1, 2, 3)
    own = await name(store, 1)
    client = redis_server.client()
    for other in (
        f"ocp:1:e:{'0' * 32}:{key(1)}",
        f"ocp:1:e:{key(1)}",
        f"ocp:2{own[5:]}",
        f"x{own}",
        f"{own[:-64]}more:{key(1)}",
        f"{own[:-64]}",
    ):
        client.copy(own, other)
    assert await keys(store) == [key(1), key(2), key(3)]
    assert await store.purge(lambda entry: entry.key in (key(1), key(2))) == 2
    assert client.exists(own) == 0
    assert await keys(store) == [key(3)]
    assert client.dbsize() == 6 + 1 + 1, "the copies, the generation and the entry that was not meant"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda value: value[:43], id="cut in the head"),
        pytest.param(lambda value: value[:100], id="cut in the JSON"),
        pytest.param(lambda value: b"OCP0" + value[4:], id="version"),
        pytest.param(lambda value: value[:8] + bytes(32) + value[40:], id="key"),
        pytest.param(lambda value: value[:40] + b"\xff" * 4 + value[44:], id="length"),
        pytest.param(lambda value: value.replace(b'"status":200', b'"status":"k"'), id="status"),
        pytest.param(lambda value: value.replace(b'"took":1.5', b'"took":{ }'), id="took"),
        pytest.param(lambda _: b"x" * 5000, id="foreign"),
        pytest.param(None, id="list"),
    ],
)
async def test_a_damaged_value_is_left_out(damage: Any, store: RedisStore, redis_server: RedisServer) -> None:
    await fill(store, 1, 2, entry=STREAM)
    damaged, client = await name(store, 1), redis_server.client()
    value = client.getdel(damaged)
    if damage is None:
        client.rpush(damaged, value)
    else:
        client.set(damaged, damage(value))
    assert await keys(store) == [key(2)]
    assert await store.purge(lambda _: True) == 1
    assert client.exists(damaged) == 1


@pytest.mark.parametrize("cursor", ["x", "-1", "+1", "1.5", " 1", "1 ", "1_0", "0x10", "١", str(2**64), "9" * 5000])
async def test_what_is_no_cursor_is_refused(cursor: str, store: RedisStore) -> None:
    with pytest.raises(ValueError):
        await store.page(cursor, 10)


@pytest.mark.parametrize("cursor", ["", "0", "00", "1", str(2**64 - 1)])
async def test_any_number_is_a_cursor(cursor: str, store: RedisStore) -> None:
    assert await store.page(cursor, 10) == Page(entries=(), cursor=None)


async def test_a_page_among_many_names_of_others_ends_early(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(module, "_TURNS", 2)
    redis_server.client().mset({f"other {number}": "x" for number in range(10_000)})
    await fill(store, *range(5))
    first = await store.page("", 100)
    assert first is not None
    assert first.cursor is not None
    assert len(first.entries) < 5
    before = calls(redis_server, "scan")
    assert await keys(store) == [key(number) for number in range(5)]
    assert calls(redis_server, "scan") - before < 50, "names of others are looked at by the thousand"


async def test_no_body_is_read_to_describe_an_entry(store: RedisStore, redis_server: RedisServer) -> None:
    await fill(store, *range(20), entry=replace(ENTRY, body=b"x" * (1 << 20)))
    client = redis_server.client()
    before = client.info("stats")["total_net_output_bytes"]
    assert len(await keys(store)) == 20
    assert await store.purge(lambda entry: entry.size == 1 << 20) == 20
    assert client.info("stats")["total_net_output_bytes"] - before < 200_000


async def test_a_purge_holds_no_request_up(store: RedisStore) -> None:
    await fill(store, *range(2000))
    await fill(store, 5000, entry=replace(ENTRY, model="other"))
    purge = asyncio.create_task(store.purge(lambda entry: entry.model == ENTRY.model))
    answered = 0
    while not purge.done():
        assert (await store.get(key(5000))).entry is not None
        answered += 1
    assert await purge == 2000
    assert answered > 10


async def test_a_lost_hash_goes_on_from_what_was_known(connect: Connect, redis_server: RedisServer) -> None:
    one, other = connect(redis_server), connect(redis_server)
    known = await one.add("stats", {"hits": 100, "misses": 50, "saved": 7}, {})
    assert known is not None
    redis_server.client().delete("ocp:1:stats")
    assert await one.add("stats", {"hits": 1}, known) == {"hits": 101, "misses": 50, "saved": 7}
    assert await other.add("stats", {"hits": 2, "misses": 1}, known) == {"hits": 103, "misses": 51, "saved": 7}
    assert redis_server.client().hgetall("ocp:1:stats") == {b"hits": b"103", b"misses": b"51", b"saved": b"7"}


async def test_a_lost_hash_is_restored_once_by_all_who_know_it(connect: Connect, redis_server: RedisServer) -> None:
    stores = [connect(redis_server) for _ in range(8)]
    known = {"hits": 100, "misses": 50}
    for _ in range(20):
        redis_server.client().delete("ocp:1:stats")
        await asyncio.gather(*(store.add("stats", {"hits": 1}, known) for store in stores))
        assert await stores[0].add("stats", {}, {}) == {"hits": 108, "misses": 50}


@pytest.mark.parametrize("field", ["hits", "misses"])
async def test_a_lost_field_goes_on_from_what_was_known(
    field: str, store: RedisStore, redis_server: RedisServer
) -> None:
    known = await store.add("stats", {"hits": 100, "misses": 50}, {})
    assert known is not None
    redis_server.client().hdel("ocp:1:stats", field)
    assert await store.add("stats", {"hits": 1}, known) == {"hits": 101, "misses": 50}
    assert redis_server.client().hget("ocp:1:stats", "misses") == b"50"


async def test_a_damaged_field_costs_the_others_nothing(store: RedisStore, redis_server: RedisServer) -> None:
    """An error would have let the caller add the same again and again, for ever."""
    known = await store.add("stats", {"hits": 100, "misses": 50}, {})
    assert known is not None
    redis_server.client().hset("ocp:1:stats", mapping={"misses": "many", b"\xff": "1"})
    for _ in range(3):
        assert await store.add("stats", {"hits": 0, "misses": 1}, known) == {"hits": 100}
    assert await store.add("stats", {"hits": 1, "misses": 1}, known) == {"hits": 101}


async def test_a_restoration_that_fails_costs_nothing_that_was_added(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore
) -> None:
    real = store._add

    async def add(name: str, begun: Any, deltas: Any) -> Any:
        if not deltas:
            raise redis.ConnectionError
        return await real(name, begun, deltas)

    monkeypatch.setattr(store, "_add", add)
    assert await store.add("stats", {"hits": 1}, {"hits": 5, "misses": 3}) == {"hits": 6, "misses": 3}


async def test_values_of_a_foreign_type_are_none(store: RedisStore, redis_server: RedisServer) -> None:
    redis_server.client().rpush("ocp:1:list", "x")
    assert await store.settle("list", b"x") is None
    assert await store.load("list") is None


async def test_totals_begin_again_where_a_value_of_a_foreign_type_stood(
    store: RedisStore, redis_server: RedisServer
) -> None:
    redis_server.client().rpush("ocp:1:list", "x")
    assert await store.add("list", {"hits": 1}, {"hits": 5, "misses": 2}) == {"hits": 6, "misses": 2}
    assert await store.save("text", b"x")
    assert await store.add("text", {"hits": 1}, {}) == {"hits": 1}


async def test_few_are_counted_at_once_among_many_names(store: RedisStore, redis_server: RedisServer) -> None:
    redis_server.client().mset({f"other {number}": "x" for number in range(12_000)})
    await fill_with_names(redis_server, store, 100, "0" * 32)
    assert await store.count() == KeyCount(keys=0, age=0.0)
    await fill_with_names(redis_server, store, 9_999)
    assert await store.count() == KeyCount(keys=9_999, age=0.0)
    assert await store.clear() == 9_999
    assert await store.count() == KeyCount(keys=0, age=0.0)


async def test_many_are_counted_and_then_followed_by_the_size_of_the_database(
    store: RedisStore, redis_server: RedisServer, clock: Clock
) -> None:
    redis_server.client().mset({f"other {number}": "x" for number in range(500)})
    await fill_with_names(redis_server, store, 12_000)
    assert await store.count() == KeyCount(keys=12_000, age=0.0)
    clock.time += 10
    await fill_with_names(redis_server, store, 12_345)
    assert await store.count() == KeyCount(keys=12_345, age=10.0)
    redis_server.client().delete(*[f"other {number}" for number in range(500)])
    assert await store.count() == KeyCount(keys=11_845, age=10.0), "what others do is seen by the next look only"
    clock.time += 10
    await store.count()
    await until(store._counting.done)
    assert await store.count() == KeyCount(keys=12_345, age=0.0)


async def test_a_store_that_has_grown_large_is_counted_anew(
    store: RedisStore, redis_server: RedisServer, clock: Clock
) -> None:
    """Names of our own that came meanwhile, such as the digests', would be counted as entries."""
    store.begin()
    await until(store._counting.done)
    clock.time += 5
    assert await store.save("models", b"x")
    await fill_with_names(redis_server, store, 12_000)
    await store.count()
    await until(store._counting.done)
    assert await store.count() == KeyCount(keys=12_000, age=0.0)


async def test_a_large_store_that_was_counted_at_the_start_is_not_gone_through_when_asked(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(module, "_TURNS", 1)
    await fill_with_names(redis_server, store, 12_000)
    store.begin()
    await until(store._counting.done)
    before = calls(redis_server, "scan")
    assert before > 10
    assert await store.count() == KeyCount(keys=12_000, age=0.0)
    assert calls(redis_server, "scan") == before


async def test_a_clear_of_many_is_counted_through(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer, tasks: Tasks
) -> None:
    monkeypatch.setattr(module, "_TURNS", 1)
    await fill_with_names(redis_server, store, 12_000)
    assert await store.clear() == 12_000
    await fill_with_names(redis_server, store, 1_500)
    seen = set()
    while tasks._running:
        counted = await store.count()
        assert counted is not None
        seen.add(counted.keys)
    assert seen <= {0, 1_500}
    await until(store._counting.done)
    assert redis_server.client().dbsize() == 1_500 + 1
    assert await store.count() == KeyCount(keys=1_500, age=0.0)
    assert await store.clear() == 1_500


async def test_the_clear_of_another_process_is_counted_through(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(module, "_TURNS", 1)
    one, other = connect(redis_server), connect(redis_server)
    await fill_with_names(redis_server, one, 12_000)
    assert await one.count() == KeyCount(keys=12_000, age=0.0)
    assert await other.clear() == 12_000
    counted = await one.count()
    assert counted is not None
    assert counted.keys == 0


async def test_the_sweep_of_another_process_takes_nothing_off_the_count(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    """Entries of an old generation are no names to be counted on: they go."""
    monkeypatch.setattr(module, "_TURNS", 1)
    await fill_with_names(redis_server, store, 12_000)
    await fill_with_names(redis_server, store, 5_000, "0" * 32)
    assert await store.count() == KeyCount(keys=12_000, age=0.0)
    redis_server.client().delete(*redis_server.client().keys(f"ocp:1:e:{'0' * 32}:*"))
    assert await store.count() == KeyCount(keys=12_000, age=0.0)


NOTHING = Lookup(entry=None, generation=None)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        pytest.param(lambda store: store.get(key(1)), NOTHING, id="get"),
        pytest.param(
            lambda store: store.get_many([key(1), key(2)]), Lookups(entries=(None,) * 2, generation=None), id="get_many"
        ),
        pytest.param(lambda store: store.put([(key(1), ENTRY)], "0" * 32), False, id="put"),
        pytest.param(lambda store: store.delete([key(1)], "0" * 32), None, id="delete"),
        pytest.param(lambda store: store.page("", 10), None, id="page"),
        pytest.param(lambda store: store.purge(lambda _: True), None, id="purge"),
        pytest.param(lambda store: store.save("x", b"x"), False, id="save"),
        pytest.param(lambda store: store.load("x"), None, id="load"),
        pytest.param(lambda store: store.settle("x", b"x"), None, id="settle"),
        pytest.param(lambda store: store.add("x", {"x": 1}, {"y": 1}), None, id="add"),
        pytest.param(lambda store: store.clear(), None, id="clear"),
        pytest.param(lambda store: store.count(), None, id="count"),
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["never there", "gone"])
async def test_a_server_that_is_down_is_no_answer_and_no_error(
    ask: Any, answer: Any, known: bool, connect: Connect, server: RedisServer
) -> None:
    store = connect(server)
    if known:
        await fill(store, 1)
        await ask(store)
    server.kill()
    for _ in range(7):
        assert await ask(store) == answer, "before and after the breaker opens"


async def test_to_begin_without_a_server_does_no_harm(connect: Connect, server: RedisServer, clock: Clock) -> None:
    server.kill()
    store = connect(server)
    store.begin()
    await until(store._counting.done)
    assert store._counting.exception() is None
    server.start()
    clock.time += 5
    assert await store.count() == KeyCount(keys=0, age=0.0)


async def test_a_purge_that_the_server_does_not_see_to_its_end_failed(connect: Connect, server: RedisServer) -> None:
    store = connect(server)
    await fill(store, *range(500))
    looked_at = []

    def meant(entry: Any) -> bool:
        looked_at.append(entry.key)
        if len(looked_at) == 200:
            server.kill()
        return True

    assert await store.purge(meant) is None
    assert 200 <= len(looked_at) < 500


# What is on its way.


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written unless somebody sees to it."""
    monkeypatch.setattr(write_buffer, "MOMENT", 3600.0)


async def begun(store: RedisStore, *numbers: int, entry: StoredResponse = ENTRY) -> asyncio.Task[bool]:
    """Begin to put entries, which goes no further by itself."""
    generation = (await store.get(key(0))).generation
    assert generation is not None
    putting = asyncio.create_task(store.put([(key(number), entry) for number in numbers], generation))
    await asyncio.sleep(0)
    return putting


@pytest.mark.usefixtures("late")
async def test_what_is_on_its_way_is_found_here_and_nowhere_else(connect: Connect, redis_server: RedisServer) -> None:
    one, other = connect(redis_server), connect(redis_server)
    await asyncio.wait_for(store_settled(one, await begun(one, 1)), 5)
    newer = replace(ENTRY, body=b"newer")
    putting = await begun(one, 1, 2, entry=newer)
    assert (await one.get_many([key(1), key(2), key(3)])).entries == (newer, newer, None)
    assert (await other.get_many([key(1), key(2), key(3)])).entries == (ENTRY, None, None)
    await asyncio.wait_for(store_settled(one, putting), 5)
    for store in (one, other):
        assert (await store.get_many([key(1), key(2), key(3)])).entries == (newer, newer, None)


async def store_settled(store: RedisStore, putting: asyncio.Task[bool]) -> None:
    assert await store.count() is not None
    assert await putting


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("operation", ["page", "purge", "delete", "count", "clear"])
async def test_who_counts_or_deletes_means_what_is_on_its_way_too(operation: str, store: RedisStore) -> None:
    putting = await begun(store, 1, 2)
    generation = (await store.get(key(0))).generation
    assert generation is not None
    found: Any = {
        "page": lambda: store.page("", 10),
        "purge": lambda: store.purge(lambda entry: entry.key == key(1)),
        "delete": lambda: store.delete([key(1)], generation),
        "count": store.count,
        "clear": store.clear,
    }[operation]
    found = await asyncio.wait_for(found(), 5)
    assert await putting
    match operation:
        case "page":
            assert sorted(entry.key for entry in found.entries) == [key(1), key(2)]
        case "count":
            assert found.keys == 2
        case "clear":
            assert found == 2
            assert await keys(store) == []
        case _:
            assert found == 1
            assert await keys(store) == [key(2)]


@pytest.mark.usefixtures("late")
async def test_what_was_on_its_way_before_a_clear_by_another_is_not_found_after_it(
    connect: Connect, redis_server: RedisServer
) -> None:
    one, other = connect(redis_server), connect(redis_server)
    putting = await begun(one, 1)
    await other.clear()
    assert (await one.get(key(1))).entry is None
    await asyncio.wait_for(store_settled(one, putting), 5)
    assert [(await store.get(key(1))).entry for store in (one, other)] == [None, None]


@pytest.mark.usefixtures("late")
async def test_what_is_on_its_way_is_not_found_once_it_is_forgotten(store: RedisStore) -> None:
    """Another process has deleted what it meant, which may be that."""
    putting = await begun(store, 1)
    store.forget()
    assert (await store.get(key(1))).entry is None
    putting.cancel()
    await asyncio.wait([putting])


@pytest.mark.usefixtures("late")
async def test_what_is_never_written_is_not_found(store: RedisStore) -> None:
    putting = await begun(store, 1)
    putting.cancel()
    await asyncio.wait([putting])
    assert (await store.get(key(1))).entry is None


async def test_what_could_not_be_written_is_not_found(store: RedisStore, redis_server: RedisServer) -> None:
    putting = await begun(store, 1)
    redis_server.client().config_set("maxmemory", "1")
    try:
        assert not await putting
    finally:
        redis_server.client().config_set("maxmemory", "0")
    assert (await store.get(key(1))).entry is None


# What is measured of it.


def told_calls(told: list[Event]) -> list[tuple[str, bool]]:
    return [(event.operation, event.failed) for event in told if isinstance(event, StoreCall)]


async def test_each_operation_is_told_by_its_name(store: RedisStore, told: list[Event]) -> None:
    generation = (await store.get(key(1))).generation
    assert generation is not None
    await store.put([(key(1), ENTRY)], generation)
    await store.get_many([key(1), key(2)])
    await store.touch([key(1)], generation)
    await store.delete([key(1)], generation)
    await store.page("", 5)
    await store.save("x", b"y")
    await store.load("x")
    await store.add("totals", {"a": 1}, {})
    await store.ping()
    await store.clear()
    names = [name for name, failed in told_calls(told) if not failed]
    assert names == [
        *("get", "set", "get", "touch", "delete", "page", "save", "load", "add", "ping"),
        *("count", "clear"),
    ]


async def test_an_operation_is_told_with_its_time(store: RedisStore, told: list[Event], clock: Clock) -> None:
    async def slow() -> bool:
        clock.time += 0.125
        return True

    await store._read("slow", slow, None)
    assert told[0] == StoreCall(operation="slow", seconds=0.125, failed=False)


async def test_what_fails_is_told_until_the_breaker_opens_which_shows(connect: Connect, server: RedisServer) -> None:
    told: list[Event] = []
    store = connect(server)
    store._observe = told.append
    assert store.breakers() == {"read": False, "write": False}
    server.kill()
    for _ in range(8):
        await store.get(key(1))
    assert told_calls(told) == [("get", True)] * 5
    assert store.breakers() == {"read": True, "write": False}


async def test_how_full_it_is_shows_from_the_second_look_on(store: RedisStore, redis_server: RedisServer) -> None:
    await fill(store, 1, 2, 3)
    redis_server.client().set("another's", "value")
    assert store.tiers(asking=True) == ()
    await until(lambda: store.tiers(asking=True))
    await until(lambda: store._counting is not None and store._counting.done())
    await store._measure()
    (tier,) = store.tiers(asking=True)
    assert (tier.name, tier.entries, tier.evicted) == ("redis", 3, 0)
    used = redis_server.client().info("memory")["used_memory"]
    assert tier.size == pytest.approx(used, rel=0.5)


async def test_a_user_without_the_right_to_know_loses_nothing_else(
    store: RedisStore, redis_server: RedisServer, told: list[Event]
) -> None:
    client = redis_server.client()
    client.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        await store._measure()
        assert store.tiers(asking=True) == ()
        assert [event for event in told if not isinstance(event, StoreCall)] == []
        assert store.breakers() == {"read": False, "write": False}
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+info")


async def test_how_full_a_server_is_that_has_gone_is_not_known(connect: Connect, server: RedisServer) -> None:
    store = connect(server)
    await store._measure()
    assert store.tiers(asking=True)
    server.kill()
    await store._measure()
    assert store.tiers(asking=True) == ()


async def test_a_server_that_is_too_slow_to_say_goodbye_is_not_waited_for(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the proxy raised redis-py's TimeoutError."""
    closed = store._redis.aclose

    async def late() -> None:
        await closed()
        raise redis.TimeoutError("Timed out closing connection after 0.1")

    monkeypatch.setattr(store._redis, "aclose", late)
    await store.close()
    monkeypatch.undo()
