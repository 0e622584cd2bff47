"""A worker's way to the other workers of its proxy, and from its clients: all of it leads through the supervisor.

What workers tell each other goes over a channel; the connections that the supervisor has accepted come over a socket of
their own. Without the supervisor a worker ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any, Final, TypeAlias

from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.sums import Snapshot, added
from ollama_cache_proxy.service.channel import Channel

SIBLING_TIMEOUT: Final = 0.25
"""Seconds that siblings have to do what they are told: one that is stalled must not hold up the others for ever."""
_SUPERVISOR_TIMEOUT: Final = 2 * SIBLING_TIMEOUT
_FIGURES_TIMEOUT: Final = 1.0
_REPORT_EVERY: Final = 1.0

Serve: TypeAlias = Callable[[socket.socket], Coroutine[Any, Any, None]]
"""Serves a connection."""


class Message(Enum):
    """What supervisor and workers say to each other.

    A worker asks for its `settings`, says what is `wrong` with them, asks to be let `in` (and is told of the changes of
    models under way), says that it is `open`, how many connections it has taken and has now (`count`), that it is
    `leaving`, and what it has counted (`snapshot`); it passes topics on (`tell`, `say`), and asks for the figures of
    the `others`. The supervisor passes topics on, asks for a `snapshot`, and tells it to `drain`.
    """

    SETTINGS = "settings"
    INVALID = "invalid"
    JOIN = "join"
    OPEN = "open"
    COUNT = "count"
    LEAVING = "leaving"
    SNAPSHOT = "snapshot"
    SEND_AND_WAIT = "send-and-wait"
    SEND = "send"
    SNAPSHOTS = "snapshots"
    DRAIN = "drain"


class SiblingProcesses:
    """See ports.Siblings. `drain_requested` is set when the supervisor says so, or is gone."""

    def __init__(self, channel: Channel, handoff: socket.socket, tasks: Tasks) -> None:
        self.drain_requested = asyncio.Event()
        self.logs_start = False
        """Whether this worker says for all how the start went."""
        self._channel = channel
        self._handoff = handoff
        self._tasks = tasks
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {
            Message.DRAIN.value: self._drain,
            Message.SNAPSHOT.value: self._send_snapshot_now,
        }
        self._snapshot: Callable[[], Snapshot] = tuple
        self._serve: Serve
        self._received = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._connections = 0
        tasks.spawn(self._listen(), "listen to the supervisor", endless=True)

    async def fetch_settings(self) -> dict[str, Any]:
        """Give what the supervisor wants this worker to be."""
        settings: dict[str, Any] = await self._channel.ask(Message.SETTINGS.value)
        return settings

    def report_invalid(self, text: str) -> None:
        """Say what is wrong with that."""
        self._channel.send(Message.INVALID.value, text)

    def subscribe(self, topic: Topic, handle: Callable[[Any], Awaitable[None]]) -> None:
        """Let `handle` take what siblings say about a topic."""
        self._handlers[topic.value] = handle

    def send(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        self._channel.send(Message.SEND.value, [topic.value, value])

    async def send_and_wait(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        with suppress(TimeoutError, ConnectionError):
            await self._channel.ask(Message.SEND_AND_WAIT.value, [topic.value, value], within=_SUPERVISOR_TIMEOUT)

    # Figures.

    def report_every_second(self, snapshot: Callable[[], Snapshot]) -> None:
        """Tell the supervisor every second what this worker has counted, and whenever it asks."""
        self._snapshot = snapshot
        self._tasks.spawn(self._keep_reporting(), "tell what was counted", endless=True)

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            self.send_snapshot()

    async def _send_snapshot_now(self, _: object) -> None:
        self.send_snapshot()

    def send_snapshot(self) -> None:
        """Tell the supervisor what this worker has counted."""
        self._channel.send(Message.SNAPSHOT.value, self._snapshot())

    async def together(self, own: Snapshot) -> Snapshot:
        """Give what all workers have counted, those that have ended too; raises TimeoutError and ConnectionError."""
        self._channel.send(Message.SNAPSHOT.value, own)
        return added([own, *await self._channel.ask(Message.SNAPSHOTS.value, within=_FIGURES_TIMEOUT)])

    # Connections.

    async def open(self, serve: Serve) -> None:
        """Let connections come, once this worker knows what its siblings know; `serve` is given each."""
        await self._channel.ask(Message.JOIN.value)
        self._serve = serve
        self._handoff.settimeout(0)
        asyncio.get_running_loop().add_reader(self._handoff, self._receive)
        self._channel.send(Message.OPEN.value)

    def _receive(self) -> bool:
        """Take a connection; whether there was one."""
        try:
            _, descriptors, _, _ = socket.recv_fds(self._handoff, 1, 1)
        except BlockingIOError:
            return False
        except OSError:
            descriptors = []
        if not descriptors:
            asyncio.get_running_loop().remove_reader(self._handoff)
            return False
        self._received += 1
        self._send_count()
        connection = socket.socket(fileno=descriptors[0])
        connection.settimeout(0)
        serving = self._tasks.spawn(self._serve(connection), "take a connection")
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        return True

    def report_connections(self, connections: int) -> None:
        """Tell the supervisor how many clients are connected here now."""
        self._connections = connections
        self._send_count()

    def _send_count(self) -> None:
        self._channel.send(Message.COUNT.value, [self._received, self._connections])

    async def leave(self) -> None:
        """Take what was handed to this worker before it said that it leaves, and nothing more."""
        while self._receive():
            pass
        asyncio.get_running_loop().remove_reader(self._handoff)
        self._channel.send(Message.LEAVING.value)
        if self._serving:
            await asyncio.wait(self._serving, timeout=SIBLING_TIMEOUT)

    # The supervisor.

    async def _listen(self) -> None:
        await self._channel.listen(self._dispatch)
        if self.drain_requested.is_set():
            os._exit(1)  # the supervisor was not to be waited for any longer either
        self.drain_requested.set()

    async def _dispatch(self, topic: str, value: Any) -> None:
        if (handle := self._handlers.get(topic)) is not None:
            await handle(value)

    async def _drain(self, _: object) -> None:
        self.drain_requested.set()
