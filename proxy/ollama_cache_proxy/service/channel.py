"""Messages between two processes over a socket: JSON, one a line. Each end may tell the other something, or ask it.

What was said is heard in the order in which it was said. A message is `[number, topic, value]`; with a number above 0
it is answered by `[-number, null, value]`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final, Self, TypeAlias

import orjson

from ollama_cache_proxy.core.tasks import Tasks

_MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of a message, and of those that the other end has not taken: one that is so far behind is given up."""
_CLOSE_TIMEOUT: Final = 1.0

Handler: TypeAlias = Callable[[str, Any], Awaitable[Any]]
"""Takes a topic and its value, and gives the answer where one was asked for."""


class Channel:
    """One end. `listen` hears until the other end has closed, or was given up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tasks: Tasks) -> None:
        self._reader = reader
        self._writer = writer
        self._tasks = tasks
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def open(cls, sock: socket.socket, tasks: Tasks) -> Self:
        """Use a connected socket, which is then the channel's."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MAX_BYTES)
        return cls(reader, writer, tasks)

    def send(self, topic: str, value: Any = None) -> None:
        """Tell the other end, where it is still there."""
        self._write([0, topic, value])

    def request(self, topic: str, value: Any = None) -> asyncio.Future[Any]:
        """Ask the other end at once; the answer may never come, or be a ConnectionError when the other end has gone."""
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        answer.add_done_callback(lambda _: self._asked.pop(number))
        if not self._write([number, topic, value]):
            answer.set_exception(ConnectionError())
        return answer

    async def ask(self, topic: str, value: Any = None, *, within: float | None = None) -> Any:
        """Ask the other end, and wait; raises TimeoutError after `within` seconds, and ConnectionError."""
        return await asyncio.wait_for(self.request(topic, value), within)

    async def listen(self, handle: Handler) -> None:
        """Hear what the other end says, until it is gone."""
        with suppress(OSError, ValueError):  # a ValueError is a line that is too long, or no message
            while line := await self._reader.readline():
                number, topic, value = orjson.loads(line)
                if number >= 0:
                    self._tasks.spawn(self._handle(handle, number, topic, value), f"hear of {topic}")
                elif (answer := self._asked.get(-number)) is not None and not answer.done():
                    answer.set_result(value)
        self.close()
        await asyncio.sleep(0)  # what was heard last is known before this returns
        for answer in tuple(self._asked.values()):
            if not answer.done():
                answer.set_exception(ConnectionError())

    async def _handle(self, handle: Handler, number: int, topic: str, value: Any) -> None:
        answer = await handle(topic, value)
        if number:
            self._write([-number, None, answer])

    def _write(self, message: list[Any]) -> bool:
        """Send a message; whether it may arrive."""
        transport = self._writer.transport
        if transport.get_write_buffer_size() > _MAX_BYTES:
            transport.abort()
        if transport.is_closing():
            return False
        self._writer.write(orjson.dumps(message) + b"\n")
        return True

    def close(self) -> None:
        """Let the other end know that there is no more."""
        self._writer.close()

    async def close_and_wait(self) -> None:
        """Close, and return when the other end has all of it, or is gone."""
        self.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), _CLOSE_TIMEOUT)
