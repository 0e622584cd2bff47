"""Messages between two processes over a socket: one JSON array per line.

Each end may send messages and requests; they are handled in the order in which they were sent. A message is
`[number, topic, value]`. A number above 0 makes it a request, which is answered by `[-number, null, value]`.
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
"""Bytes of one message, and of all that the other end has not read yet: above it the channel is closed."""
_CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the other end has to read the last messages."""

Handler: TypeAlias = Callable[[str, Any], Awaitable[Any]]
"""Handles a topic and its value; what it returns is the answer to a request."""


class Channel:
    """One end of a connection. `listen` handles messages until the connection is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tasks: Tasks) -> None:
        self._reader = reader
        self._writer = writer
        self._tasks = tasks
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def open(cls, sock: socket.socket, tasks: Tasks) -> Self:
        """Return a channel over a connected socket, which it owns from then on."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MAX_BYTES)
        return cls(reader, writer, tasks)

    def send(self, topic: str, value: Any = None) -> None:
        """Send a message; it is dropped if the other end has gone."""
        self._write([0, topic, value])

    def request(self, topic: str, value: Any = None) -> asyncio.Future[Any]:
        """Send a request; return the future of its answer, which is a ConnectionError if the other end has gone."""
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        answer.add_done_callback(lambda _: self._asked.pop(number))
        if not self._write([number, topic, value]):
            answer.set_exception(ConnectionError())
        return answer

    async def ask(self, topic: str, value: Any = None, *, within: float | None = None) -> Any:
        """Return the answer to a request; raise TimeoutError after `within` seconds, or ConnectionError."""
        return await asyncio.wait_for(self.request(topic, value), within)

    async def listen(self, handle: Handler) -> None:
        """Handle messages until the connection is closed."""
        with suppress(OSError, ValueError):  # ValueError: a line that is too long, or not a message
            while line := await self._reader.readline():
                number, topic, value = orjson.loads(line)
                if number >= 0:
                    self._tasks.spawn(self._handle(handle, number, topic, value), f"handle {topic}")
                elif (answer := self._asked.get(-number)) is not None and not answer.done():
                    answer.set_result(value)
        self.close()
        await asyncio.sleep(0)  # the handlers of the last messages have started when this returns
        for answer in tuple(self._asked.values()):
            if not answer.done():
                answer.set_exception(ConnectionError())

    async def _handle(self, handle: Handler, number: int, topic: str, value: Any) -> None:
        answer = await handle(topic, value)
        if number:
            self._write([-number, None, answer])

    def _write(self, message: list[Any]) -> bool:
        """Write a message; return False if it cannot arrive."""
        transport = self._writer.transport
        if transport.get_write_buffer_size() > _MAX_BYTES:
            transport.abort()
        if transport.is_closing():
            return False
        self._writer.write(orjson.dumps(message) + b"\n")
        return True

    def close(self) -> None:
        """Close after what was written; the other end sees the end of the connection."""
        self._writer.close()

    async def close_and_wait(self) -> None:
        """Close, and return when everything was sent, or after a timeout."""
        self.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), _CLOSE_TIMEOUT)
