"""The guard of every operation: its deadline, its breaker, and the facts about it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from ollama_cache_proxy.core.facts import Event, Fault, Health, Part, StoreCall, StoreFault
from ollama_cache_proxy.stores.redis.guard import Guard
from tests.support.clocks import Clock


@pytest.fixture
def late() -> list[str]:
    """One for each time that a deadline has passed."""
    return []


@pytest.fixture
def guard(clock: Clock, told: list[Event], late: list[str]) -> Guard:
    return Guard(name="Redis", clock=clock, observe=told.append, timed_out=lambda: late.append("late"))


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

    assert await guard.read("slow", slow, None) == "found"
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
    assert await guard.read("get", failing(error), "fallback") == "fallback"
    assert await guard.write("set", failing(error)) is None
    assert [event for event in told if not isinstance(event, Health)] == [
        StoreCall(operation="get", seconds=0.0, failed=True),
        StoreFault(kind=Fault.FAILED),
        StoreCall(operation="set", seconds=0.0, failed=True),
        StoreFault(kind=Fault.FAILED),
    ]


async def test_a_cancellation_is_no_failure_of_the_server(guard: Guard, told: list[Event]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await guard.read("get", failing(asyncio.CancelledError()), None)
    assert told == []


async def test_what_takes_too_long_is_given_up_and_whoever_has_to_know_is_told(guard: Guard, late: list[str]) -> None:
    assert await guard.read("get", asyncio.Event().wait, "fallback", within=0.01) == "fallback"
    assert late == ["late"]
    await guard.read("get", LOST, None)
    assert late == ["late"], "what failed at once is no reason for a new connection"


async def test_after_five_failures_in_a_row_there_is_one_attempt_a_second(
    guard: Guard, told: list[Event], clock: Clock
) -> None:
    async def tries(operation: Any) -> int:
        before = len([event for event in told if isinstance(event, StoreCall)])
        for _ in range(8):
            await guard.read("get", operation, None)
        return len([event for event in told if isinstance(event, StoreCall)]) - before

    for _ in range(3):
        for _ in range(4):
            await guard.read("get", LOST, None)
        await guard.read("get", well, None)
    assert not guard.reads.open
    assert await tries(LOST) == 5
    assert guard.reads.open
    assert await tries(LOST) == 0
    clock.time += 1
    assert await tries(LOST) == 1
    clock.time += 1
    assert await tries(well) == 8
    assert not guard.reads.open


async def test_reads_and_writes_have_a_breaker_each(guard: Guard) -> None:
    for _ in range(5):
        await guard.write("set", LOST)
    assert (guard.reads.open, guard.writes.open) == (False, True)
    assert await guard.read("get", well, None) == "found"
    assert await guard.write("set", well) is None, "not even tried"


async def test_health_is_told_once_a_change(guard: Guard, told: list[Event]) -> None:
    for operation in (well, well, LOST, LOST, well):
        await guard.read("get", operation, None)
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
    await guard.read("get", LOST, None)
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
    await guard.read("get", failing(error), None)
    assert health(told) == [(Part.STORE, False, reason)]
