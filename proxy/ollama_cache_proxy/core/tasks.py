"""Work that outlives the request that began it. Every background task in the project is started here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """A set of running tasks: `close` waits for them, then cancels those that are left."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._endless: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str, *, endless: bool = False) -> asyncio.Task[T]:
        """Start `work` and return its task; an exception in it goes to the event loop's exception handler.

        `close` cancels `endless` work without waiting for it to finish.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        (self._endless if endless else self._running).add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._endless.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": f"background task {task.get_name()} failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for running tasks, then cancel those that are left and wait for them to end."""
        if self._running and grace > 0:
            await asyncio.wait(self._running, timeout=grace)
        left = self._running | self._endless
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


class Polling:
    """Calls `poll` every so many seconds, and stops when nobody has wanted a result for `idle_after` seconds.

    `poll` raises nothing and is short: at the end it is waited for, since cancelling it could leak a connection.
    """

    def __init__(
        self,
        poll: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        *,
        tasks: Tasks,
        every: float = 5.0,
        idle_after: float = 60.0,
    ) -> None:
        self._poll_once = poll
        self._name = name
        self._tasks = tasks
        self._every = every
        self._idle_after = idle_after
        self._until = 0.0
        self._running_poll = False
        self._polled = asyncio.Event()

    def want(self) -> None:
        """Start polling, or keep it going. Returns without waiting."""
        self._until = asyncio.get_running_loop().time() + self._idle_after
        if not self._running_poll:
            self._running_poll = True
            self._tasks.spawn(self._poll(), self._name, endless=True)

    async def ready(self) -> None:
        """Wait for the first poll if polling had stopped; the caller bounds the wait."""
        self.want()
        await self._polled.wait()

    async def _poll(self) -> None:
        try:
            while asyncio.get_running_loop().time() < self._until:
                await asyncio.shield(self._tasks.spawn(self._poll_once(), self._name))
                self._polled.set()
                await asyncio.sleep(self._every)
        finally:
            self._running_poll = False
            self._polled.clear()
