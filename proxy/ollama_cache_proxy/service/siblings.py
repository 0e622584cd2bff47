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

HEARS_WITHIN: Final = 0.25
"""Seconds that siblings have to do what they are told: one that is stalled must not hold up the others for ever."""
_SUPERVISED_WITHIN: Final = 2 * HEARS_WITHIN
_FIGURES_WITHIN: Final = 1.0
_EVERY: Final = 1.0

Take: TypeAlias = Callable[[socket.socket], Coroutine[Any, Any, None]]
"""Serves a connection."""


class Word(Enum):
    """What supervisor and workers say to each other.

    A worker asks for its `settings`, says what is `wrong` with them, asks to be let `in` (and is told of the changes of
    models under way), says that it is `open`, how many connections it has taken and has now (`count`), that it is
    `leaving`, and what it has counted (`snapshot`); it passes topics on (`tell`, `say`), and asks for the figures of
    the `others`. The supervisor passes topics on, asks for a `snapshot`, and tells it to `drain`.
    """

    SETTINGS = "settings"
    WRONG = "wrong"
    IN = "in"
    OPEN = "open"
    COUNT = "count"
    LEAVING = "leaving"
    SNAPSHOT = "snapshot"
    TELL = "tell"
    SAY = "say"
    OTHERS = "others"
    DRAIN = "drain"


class SiblingProcesses:
    """See ports.Siblings. `told_to_end` is set when the supervisor says so, or is gone."""

    def __init__(self, channel: Channel, handoff: socket.socket, tasks: Tasks) -> None:
        self.told_to_end = asyncio.Event()
        self.speaks = False
        """Whether this worker says for all how the start went."""
        self._channel = channel
        self._handoff = handoff
        self._tasks = tasks
        self._hears: dict[str, Callable[[Any], Awaitable[None]]] = {
            Word.DRAIN.value: self._drain,
            Word.SNAPSHOT.value: self._asked,
        }
        self._snapshot: Callable[[], Snapshot] = tuple
        self._serve: Take
        self._taken = 0
        self._taking: set[asyncio.Task[None]] = set()
        self._connections = 0
        tasks.spawn(self._listen(), "listen to the supervisor", endless=True)

    async def begin(self) -> dict[str, Any]:
        """Give what the supervisor wants this worker to be."""
        settings: dict[str, Any] = await self._channel.ask(Word.SETTINGS.value)
        return settings

    def refuse(self, text: str) -> None:
        """Say what is wrong with that."""
        self._channel.say(Word.WRONG.value, text)

    def on(self, topic: Topic, hear: Callable[[Any], Awaitable[None]]) -> None:
        """Let `hear` take what siblings say about a topic."""
        self._hears[topic.value] = hear

    def notify(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        self._channel.say(Word.SAY.value, [topic.value, value])

    async def notify_and_wait(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        with suppress(TimeoutError, ConnectionError):
            await self._channel.ask(Word.TELL.value, [topic.value, value], within=_SUPERVISED_WITHIN)

    # Figures.

    def report(self, snapshot: Callable[[], Snapshot]) -> None:
        """Tell the supervisor every second what this worker has counted, and whenever it asks."""
        self._snapshot = snapshot
        self._tasks.spawn(self._report(), "tell what was counted", endless=True)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            self.reported()

    async def _asked(self, _: object) -> None:
        self.reported()

    def reported(self) -> None:
        """Tell the supervisor what this worker has counted."""
        self._channel.say(Word.SNAPSHOT.value, self._snapshot())

    async def together(self, own: Snapshot) -> Snapshot:
        """Give what all workers have counted, those that have ended too; raises TimeoutError and ConnectionError."""
        self._channel.say(Word.SNAPSHOT.value, own)
        return added([own, *await self._channel.ask(Word.OTHERS.value, within=_FIGURES_WITHIN)])

    # Connections.

    async def open(self, take: Take) -> None:
        """Let connections come, once this worker knows what its siblings know; `take` is given each."""
        await self._channel.ask(Word.IN.value)
        self._serve = take
        self._handoff.settimeout(0)
        asyncio.get_running_loop().add_reader(self._handoff, self._take)
        self._channel.say(Word.OPEN.value)

    def _take(self) -> bool:
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
        self._taken += 1
        self._count()
        connection = socket.socket(fileno=descriptors[0])
        connection.settimeout(0)
        taking = self._tasks.spawn(self._serve(connection), "take a connection")
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        return True

    def counted(self, connections: int) -> None:
        """Tell the supervisor how many clients are connected here now."""
        self._connections = connections
        self._count()

    def _count(self) -> None:
        self._channel.say(Word.COUNT.value, [self._taken, self._connections])

    async def leave(self) -> None:
        """Take what was handed to this worker before it said that it leaves, and nothing more."""
        while self._take():
            pass
        asyncio.get_running_loop().remove_reader(self._handoff)
        self._channel.say(Word.LEAVING.value)
        if self._taking:
            await asyncio.wait(self._taking, timeout=HEARS_WITHIN)

    # The supervisor.

    async def _listen(self) -> None:
        await self._channel.listen(self._heard)
        if self.told_to_end.is_set():
            os._exit(1)  # the supervisor was not to be waited for any longer either
        self.told_to_end.set()

    async def _heard(self, topic: str, value: Any) -> None:
        if (hear := self._hears.get(topic)) is not None:
            await hear(value)

    async def _drain(self, _: object) -> None:
        self.told_to_end.set()
