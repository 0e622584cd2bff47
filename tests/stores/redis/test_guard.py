"""The guard of every operation: its deadline, its breaker, and the facts about it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from ollama_cache_proxy.core.facts import Event, Fault, Health, Part, StoreCall, StoreFault
from ollama_cache_proxy.core.store_ports import StoreState
from ollama_cache_proxy.stores.redis.guard import Guard, WriteRefused
from tests.support.clocks import Clock


@pytest.fixture
def guard(clock: Clock, told: list[Event]) -> Guard:
    return Guard(name="Redis", clock=clock, observe=told.append)


async def well() -> str:
    return "found"


def failing(error: BaseException) -> Any:
    async def fail() -> str:
        raise error

    return fail


LOST = failing(RedisConnectionError("no"))


def health(told: list[Event]) -> list[tuple[Part, bool, str]]:
    return [(event.part, event.well, event.reason) for event in told if isinstance(event, Health)]


async def test_an_operation_is_told_with_its_time(guard: Guard, told: list[Event], clock: Clock) -> None:
    async def slow() -> str:
        clock.time += 0.125
        return "found"

    assert await guard.lookup("slow", slow, None) == "found"
    assert told == [
        StoreCall(operation="slow", seconds=0.125, failed=False),
        Health(part=Part.STORE, well=True, name="Redis"),
    ]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RedisConnectionError("no"), id="redis"),
        pytest.param(OSError("no"), id="os"),
        pytest.param(TimeoutError(), id="time"),
        pytest.param(asyncio.IncompleteReadError(b"", 1), id="cut off"),
        pytest.param(RuntimeError("the handler is closed"), id="uvloop, closed by the server"),
        pytest.param(AttributeError("no"), id="redis-py, an odd reply"),
        pytest.param(TypeError("no"), id="redis-py, an option of the wrong type"),
        pytest.param(ValueError("no"), id="redis-py, an odd number"),
        pytest.param(KeyError("no"), id="redis-py, a field that is missing"),
        pytest.param(Exception("no"), id="any"),
    ],
)
async def test_a_failure_is_the_fallback_and_is_told(error: Exception, guard: Guard, told: list[Event]) -> None:
    assert await guard.lookup("get", failing(error), "fallback") == "fallback"
    assert await guard.write("set", failing(error)) is None
    assert [event for event in told if not isinstance(event, Health)] == [
        StoreCall(operation="get", seconds=0.0, failed=True),
        StoreFault(kind=Fault.FAILED),
        StoreCall(operation="set", seconds=0.0, failed=True),
        StoreFault(kind=Fault.FAILED),
    ]


async def test_a_cancellation_is_no_failure_of_the_server(guard: Guard, told: list[Event]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await guard.lookup("get", failing(asyncio.CancelledError()), None)
    assert told == []


async def test_what_takes_too_long_is_given_up(guard: Guard) -> None:
    assert await guard.read("page", asyncio.Event().wait, None, within=0.01) is None


async def calls(told: list[Event], asking: Any) -> int:
    """Ask eight times; return how often the server was."""
    before = sum(isinstance(event, StoreCall) for event in told)
    for _ in range(8):
        await asking()
    return sum(isinstance(event, StoreCall) for event in told) - before


async def test_after_five_failures_in_a_row_nothing_is_tried_until_a_probe_succeeds(
    guard: Guard, told: list[Event], clock: Clock
) -> None:
    def lookup(operation: Any) -> Any:
        return lambda: guard.lookup("get", operation, None)

    assert await calls(told, lookup(LOST)) == 5
    assert (guard.reads.open, guard.opened.is_set()) == (True, True)
    clock.time += 60
    for ask in (lookup(well), lambda: guard.read("page", well, None), lambda: guard.write("set", well)):
        assert await calls(told, ask) == 0, "not even after a minute, nor anything else"
    assert await calls(told, lambda: guard.write_value("add", well)) == 0
    assert await calls(told, lambda: guard.delete("delete", well)) == 0
    guard.reads_not_probed(RedisConnectionError("no"))
    assert guard.reads.open
    guard.reads_probed(0.001)
    assert await calls(told, lookup(well)) == 8
    assert health(told)[-1] == (Part.STORE, True, "")


async def test_lookups_writes_and_deletions_have_a_breaker_each(guard: Guard, told: list[Event]) -> None:
    assert await calls(told, lambda: guard.write("set", LOST)) == 5
    assert [one.open for one in (guard.reads, guard.writes, guard.deletes)] == [False, True, False]
    assert not guard.writable
    assert await calls(told, lambda: guard.write_value("add", well)) == 0
    assert await calls(told, lambda: guard.delete("delete", LOST)) == 5
    assert [one.open for one in (guard.reads, guard.writes, guard.deletes)] == [False, True, True]
    assert await guard.lookup("get", well, None) == "found"
    guard.deletes_probed(None)
    assert await guard.delete("delete", well) == "found"
    guard.writes_probed(None)
    assert guard.writable
    assert await guard.write("set", well) == "found"


@pytest.mark.parametrize("error", [ReadOnlyError("no"), OutOfMemoryError("no"), ResponseError("MISCONF no disk")])
async def test_one_write_that_is_refused_is_enough(error: ResponseError, guard: Guard) -> None:
    await guard.write("set", failing(error))
    assert (guard.writable, guard.opened.is_set()) == (False, True)
    guard.writes_probed(error)
    assert not guard.writable
    guard.writes_probed(None)
    assert guard.writable


async def test_what_no_exchange_waits_for_says_nothing_about_lookups(guard: Guard, told: list[Event]) -> None:
    """A user that may not SCAN, or not HINCRBY, still has hits."""
    refused = failing(NoPermissionError("no"))
    assert await calls(told, lambda: guard.read("count", refused, None)) == 8
    assert await calls(told, lambda: guard.write_value("add", refused)) == 8
    assert (guard.reads.open, guard.writes.open, health(told)) == (False, False, [])


async def test_a_lookup_that_would_have_to_write_first_is_answered_but_stops_writes(
    guard: Guard, told: list[Event]
) -> None:
    refused = failing(WriteRefused(ReadOnlyError("no")))
    for _ in range(8):
        assert await guard.lookup("get", refused, None) is None
    assert (guard.reads.open, guard.writes.open) == (False, True)
    assert health(told) == [(Part.STORE_WRITES, False, "ReadOnlyError"), (Part.STORE, True, "")]


async def test_the_wait_follows_the_answers_and_begins_anew_with_the_probe(guard: Guard, clock: Clock) -> None:
    async def slow() -> str:
        clock.time += 0.2
        return "found"

    assert guard.wait.seconds == 0.25
    for _ in range(50):
        await guard.lookup("get", slow, None)
    assert 0.4 <= guard.wait.seconds <= 0.5
    for _ in range(5):
        await guard.lookup("get", LOST, None)
    guard.reads_probed(0.001)
    assert guard.wait.seconds == 0.25


def test_a_probe_of_lookups_is_due_after_a_while_without_one(guard: Guard, clock: Clock) -> None:
    assert guard.probe_due() <= clock.time, "nothing was seen yet"
    guard.reads_probed(0.001)
    assert guard.probe_due() == clock.time + 2.5


async def test_what_is_due_is_the_first_of_all_but_nothing_else_while_lookups_fail(guard: Guard, clock: Clock) -> None:
    guard.reads_probed(0.001)
    await guard.write("set", failing(ReadOnlyError("no")))
    assert guard.probe_due() == clock.time + 0.1
    guard.reads_not_probed(TimeoutError())
    clock.time += 0.1
    guard.reads_not_probed(TimeoutError())
    assert guard.probe_due() == clock.time + 0.2


async def test_the_state_is_what_was_seen_last(guard: Guard, clock: Clock) -> None:
    assert guard.state() == StoreState(answers=False, stores=False)
    guard.reads_probed(0.001)
    assert guard.state() == StoreState(answers=True, stores=True)
    await guard.write("set", failing(OutOfMemoryError("no")))
    assert guard.state() == StoreState(answers=True, stores=False, reason="OutOfMemoryError")
    guard.writes_probed(None)
    assert guard.state() == StoreState(answers=True, stores=True)
    clock.time += 5.1
    assert guard.state() == StoreState(answers=False, stores=False, reason="TimeoutError")
    await guard.lookup("get", well, None)
    assert guard.state().answers
    guard.reads_not_probed(RedisConnectionError("no"))
    assert guard.state() == StoreState(answers=False, stores=False, reason="ConnectionError")


async def test_health_is_told_once_a_change(guard: Guard, told: list[Event]) -> None:
    for operation in (well, well, LOST, LOST, well):
        await guard.lookup("get", operation, None)
    assert health(told) == [
        (Part.STORE, True, ""),
        (Part.STORE, False, "ConnectionError"),
        (Part.STORE, True, ""),
    ]


async def test_that_writes_fail_is_told_unless_all_fails(guard: Guard, told: list[Event]) -> None:
    await guard.write("set", well)
    assert health(told) == [], "what was never unwell need not be told"
    await guard.write("set", LOST)
    await guard.write("set", well)
    await guard.lookup("get", LOST, None)
    await guard.write("set", LOST)
    assert health(told) == [
        (Part.STORE_WRITES, False, "ConnectionError"),
        (Part.STORE_WRITES, True, ""),
        (Part.STORE, False, "ConnectionError"),
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RedisConnectionError("redis://user:secret@host"), "ConnectionError"),
        (ReadOnlyError("You can't write against a read only replica."), "ReadOnlyError"),
        (ResponseError("OOM command not allowed"), "OOM"),
        (ResponseError("MISCONF: no disk"), "MISCONF"),
        (ResponseError("secret is no word of Redis's own"), "ERR"),
        (ResponseError(""), "ERR"),
    ],
)
async def test_a_reason_says_nothing_of_the_error_s_text(
    error: Exception, reason: str, guard: Guard, told: list[Event]
) -> None:
    await guard.lookup("get", failing(error), None)
    assert health(told) == [(Part.STORE, False, reason)]
