from __future__ import annotations

import asyncio

import pytest

from ollama_cache_proxy.core.tasks import Polling, Tasks
from tests.support.waiting import until


@pytest.fixture
async def reports():
    """What reached the event loop's exception handler."""
    seen: list[dict] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    yield seen
    loop.set_exception_handler(None)


async def forever(begun: asyncio.Event) -> None:
    begun.set()
    await asyncio.Event().wait()


async def test_work_runs_under_its_name():
    names = []

    async def work() -> None:
        names.append(asyncio.current_task().get_name())

    await Tasks().spawn(work(), "by name")
    assert names == ["by name"]


async def test_an_exception_goes_to_the_loops_handler_and_nowhere_else(reports):
    error = RuntimeError("boom")

    async def work() -> None:
        raise error

    tasks = Tasks()
    task = tasks.spawn(work(), "fails")
    await asyncio.wait([task])
    assert [(report["message"], report["exception"], report["task"]) for report in reports] == [
        ("background task fails failed", error, task)
    ]
    await tasks.close(0)
    assert len(reports) == 1


async def test_a_cancelled_task_is_no_failure(reports):
    begun = asyncio.Event()
    task = Tasks().spawn(forever(begun), "x")
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert reports == []


async def test_one_failure_leaves_the_others_alone(reports):
    async def fails() -> None:
        raise ValueError

    begun = asyncio.Event()
    tasks = Tasks()
    other = tasks.spawn(forever(begun), "goes on")
    await asyncio.wait([tasks.spawn(fails(), "fails")])
    assert begun.is_set()
    assert not other.done()
    await tasks.close(0)
    assert other.cancelled()
    assert len(reports) == 1


async def test_close_waits_for_what_ends_in_time():
    may_end = asyncio.Event()
    ended = []

    async def work() -> None:
        await may_end.wait()
        ended.append(True)

    tasks = Tasks()
    tasks.spawn(work(), "x")
    asyncio.get_running_loop().call_soon(may_end.set)
    await tasks.close(60)
    assert ended == [True]


async def test_close_cancels_what_is_left_after_the_grace():
    begun = asyncio.Event()
    tasks = Tasks()
    task = tasks.spawn(forever(begun), "x")
    await tasks.close(0.001)
    assert begun.is_set()
    assert task.cancelled()


async def test_close_without_grace_cancels_at_once_even_what_has_not_begun():
    begun = asyncio.Event()
    tasks = Tasks()
    task = tasks.spawn(forever(begun), "x")
    await tasks.close(0)
    assert not begun.is_set()
    assert task.cancelled()


async def test_close_waits_until_cancelled_work_has_cleaned_up():
    begun, cleaned = asyncio.Event(), []

    async def work() -> None:
        try:
            await forever(begun)
        finally:
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn
            cleaned.append(True)

    tasks = Tasks()
    tasks.spawn(work(), "x")
    await begun.wait()
    await tasks.close(0)
    assert cleaned == [True]


async def test_what_is_spawned_while_closing_is_cancelled_too():
    tasks, later = Tasks(), []

    async def work() -> None:
        later.append(tasks.spawn(forever(asyncio.Event()), "child"))

    tasks.spawn(work(), "parent")
    await tasks.close(0.001)
    assert [task.cancelled() for task in later] == [True]


async def test_close_of_nothing_ends_at_once_and_can_be_repeated():
    tasks = Tasks()
    await tasks.close(60)
    await tasks.close(60)
    await tasks.close(0)


async def test_close_does_not_wait_for_what_is_endless():
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        await may_end.wait()
        ended.append(True)

    tasks = Tasks()
    endless = tasks.spawn(forever(begun), "endless", endless=True)
    tasks.spawn(work(), "x")
    asyncio.get_running_loop().call_soon(may_end.set)
    await tasks.close(60)
    assert ended == [True]
    assert endless.cancelled()


async def test_with_nothing_but_endless_work_close_cancels_at_once():
    tasks = Tasks()
    endless = tasks.spawn(forever(asyncio.Event()), "endless", endless=True)
    await tasks.close(60)
    assert endless.cancelled()


async def test_polling_goes_on_while_it_is_wanted_and_then_ends():
    looks = []
    tasks = Tasks()

    async def look() -> None:
        looks.append(None)

    polling = Polling(look, "look", tasks=tasks, every=0.001, idle_after=0.02)
    assert not tasks._endless
    polling.want()
    polling.want()
    assert looks == []  # whoever wants it does not wait
    assert len(tasks._endless) == 1
    await until(lambda: not tasks._endless)
    assert len(looks) > 1
    seen = len(looks)
    polling.want()
    await until(lambda: len(looks) > seen)
    await tasks.close(0)


async def test_polling_waits_between_two_polls():
    looks = []
    tasks = Tasks()

    async def look() -> None:
        looks.append(None)

    polling = Polling(look, "look", tasks=tasks, every=3600)
    polling.want()
    await until(lambda: looks)
    for _ in range(10):
        polling.want()
        await asyncio.sleep(0)
    assert len(looks) == 1
    await tasks.close(0)


async def test_close_waits_for_a_running_poll_and_none_follows():
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), []
    tasks = Tasks()

    async def look() -> None:
        begun.set()
        await may_end.wait()
        ended.append(None)

    Polling(look, "look", tasks=tasks, every=3600).want()
    await begun.wait()
    closing = asyncio.create_task(tasks.close(10))
    await asyncio.sleep(0)
    may_end.set()
    await closing
    assert len(ended) == 1
    assert not tasks._endless


async def test_ready_waits_for_the_first_poll_and_for_no_other():
    let_go, looks = asyncio.Event(), []
    tasks = Tasks()

    async def look() -> None:
        await let_go.wait()
        looks.append(None)

    polling = Polling(look, "look", tasks=tasks, every=3600)
    waiting = asyncio.create_task(polling.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    let_go.set()
    await waiting
    assert looks == [None]
    await polling.ready()
    assert looks == [None]
    await tasks.close(0)


async def test_ready_waits_again_after_polling_had_stopped():
    looks = []
    tasks = Tasks()

    async def look() -> None:
        looks.append(None)

    polling = Polling(look, "look", tasks=tasks, every=0.001, idle_after=0.005)
    await polling.ready()
    await until(lambda: not tasks._endless)
    seen = len(looks)
    await polling.ready()
    assert len(looks) > seen
    await tasks.close(0)
