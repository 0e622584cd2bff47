"""A worker's connection to its supervisor, and through it to the other workers.

Messages go over a channel; the connections that the supervisor has accepted come over a socket of their own. A worker
ends when its supervisor has gone.
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
from ollama_cache_proxy.service.settings import Settings, SettingsError, unpacked

SIBLING_TIMEOUT: Final = 0.25
"""Seconds that siblings have to handle a topic: a stalled one must not hold up the others."""
_SUPERVISOR_TIMEOUT: Final = 2 * SIBLING_TIMEOUT
_FIGURES_TIMEOUT: Final = 1.0
"""Seconds that the supervisor has to answer with the others' snapshots."""
_REPORT_EVERY: Final = 1.0
"""Seconds between two snapshots."""

Serve: TypeAlias = Callable[[socket.socket], Coroutine[Any, Any, None]]
"""Serves one accepted connection."""


class Message(Enum):
    """Messages between supervisor and workers. The supervisor also forwards topics (`Topic`) to workers."""

    SETTINGS = "settings"
    """A worker requests its settings."""
    INVALID = "invalid"
    """A worker reports what is wrong with its settings."""
    JOIN = "join"
    """A worker asks to be sent topics; it is first sent the changes of models in progress."""
    OPEN = "open"
    """A worker is ready for connections."""
    COUNT = "count"
    """A worker reports how many connections it has taken so far, and how many it has now."""
    LEAVING = "leaving"
    """A worker takes no more connections."""
    SNAPSHOT = "snapshot"
    """A worker sends its metrics, every second and when the supervisor requests them."""
    SEND_AND_WAIT = "send-and-wait"
    """A worker sends a topic to its siblings, and waits until they have handled it."""
    SEND = "send"
    """A worker sends a topic to its siblings."""
    SNAPSHOTS = "snapshots"
    """A worker requests the metrics of all others, including those that have ended."""
    DRAIN = "drain"
    """The supervisor tells a worker to drain."""
    RELOAD = "reload"
    """The supervisor sends a worker other settings; it answers with what is wrong with them, or null."""


class SiblingProcesses:
    """See ports.Siblings. `drain_requested` is set when the supervisor asks for a drain, or has gone."""

    def __init__(self, channel: Channel, handoff: socket.socket, tasks: Tasks) -> None:
        self.drain_requested = asyncio.Event()
        self.logs_start = False
        """Whether this worker logs the start on behalf of all."""
        self.instance = ""
        """What tells this proxy from others; the supervisor made it."""
        self.seal_key: bytes | None = None
        """What entries are sealed with; the supervisor read it, so that all workers have the same."""
        self._channel = channel
        self._handoff = handoff
        self._tasks = tasks
        self._handlers: dict[str, Callable[[Any], Awaitable[Any]]] = {
            Message.DRAIN.value: self._drain,
            Message.SNAPSHOT.value: self._send_snapshot_now,
            Message.RELOAD.value: self._reload,
        }
        self._apply: Callable[[Settings], Awaitable[None]] | None = None
        self._newer: dict[str, Any] | None = None
        self._snapshot: Callable[[], Snapshot] = tuple
        self._serve: Serve
        self._received = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._connections = 0
        tasks.spawn(self._listen(), "listen to the supervisor", endless=True)

    async def fetch_settings(self) -> dict[str, Any]:
        """Return the settings of this worker."""
        settings: dict[str, Any] = await self._channel.ask(Message.SETTINGS.value)
        return settings

    def report_invalid(self, text: str) -> None:
        """Report what is wrong with the settings."""
        self._channel.send(Message.INVALID.value, text)

    def subscribe(self, topic: Topic, handle: Callable[[Any], Awaitable[None]]) -> None:
        """Call `handle` with the value of each message that siblings send about a topic."""
        self._handlers[topic.value] = handle

    def send(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        self._channel.send(Message.SEND.value, [topic.value, value])

    async def send_and_wait(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        with suppress(TimeoutError, ConnectionError):
            await self._channel.ask(Message.SEND_AND_WAIT.value, [topic.value, value], within=_SUPERVISOR_TIMEOUT)

    # Metrics.

    def report_every_second(self, snapshot: Callable[[], Snapshot]) -> None:
        """Send this worker's metrics to the supervisor, every second and when it requests them."""
        self._snapshot = snapshot
        self._tasks.spawn(self._keep_reporting(), "report metrics", endless=True)

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            self.send_snapshot()

    async def _send_snapshot_now(self, _: object) -> None:
        self.send_snapshot()

    def send_snapshot(self) -> None:
        """Send this worker's metrics to the supervisor."""
        self._channel.send(Message.SNAPSHOT.value, self._snapshot())

    async def together(self, own: Snapshot) -> Snapshot:
        """Return the metrics of all workers, including ended ones; raise TimeoutError or ConnectionError."""
        self._channel.send(Message.SNAPSHOT.value, own)
        return added([own, *await self._channel.ask(Message.SNAPSHOTS.value, within=_FIGURES_TIMEOUT)])

    # Connections.

    async def open(self, serve: Serve) -> None:
        """Start taking connections, after joining the siblings; `serve` is called with each connection."""
        await self._channel.ask(Message.JOIN.value)
        self._serve = serve
        self._handoff.settimeout(0)
        asyncio.get_running_loop().add_reader(self._handoff, self._receive)
        self._channel.send(Message.OPEN.value)

    def _receive(self) -> bool:
        """Take one connection; return False if there was none."""
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
        serving = self._tasks.spawn(self._serve(connection), "serve a connection")
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        return True

    def report_connections(self, connections: int) -> None:
        """Report the number of clients that are connected to this worker."""
        self._connections = connections
        self._send_count()

    def _send_count(self) -> None:
        self._channel.send(Message.COUNT.value, [self._received, self._connections])

    async def leave(self) -> None:
        """Serve the connections that were handed over so far, and take no more."""
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
            os._exit(1)  # the supervisor has gone during the drain
        self.drain_requested.set()

    async def _dispatch(self, topic: str, value: Any) -> Any:
        return None if (handle := self._handlers.get(topic)) is None else await handle(value)

    async def apply_settings_by(self, apply: Callable[[Settings], Awaitable[None]]) -> None:
        """Call `apply` with the settings that the supervisor sends from now on, and with those that it has sent."""
        self._apply = apply
        if self._newer is not None:
            await self._reload(self._newer)

    async def _reload(self, values: dict[str, Any]) -> str | None:
        """Apply settings, as soon as this worker can; return what is wrong with them, or None."""
        if self._apply is None:
            self._newer = values
            return None
        try:
            await self._apply(unpacked(values))
        except SettingsError as error:
            return str(error)
        return None

    async def _drain(self, _: object) -> None:
        self.drain_requested.set()
