"""The supervisor of one proxy's workers: it restarts them, hands them connections, and forwards their messages.

It accepts all connections and hands each to the worker that has the fewest: even a few are spread evenly, none waits
for a worker that has ended, and none is lost with one, because the supervisor holds a connection until a worker has
taken it. The metrics of a worker outlive it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.sums import Snapshot, added, lasting
from ollama_cache_proxy.service.channel import Channel
from ollama_cache_proxy.service.siblings import SIBLING_TIMEOUT, Message

_BACKLOG: Final = 1024
"""Connections that may wait in the kernel to be accepted."""
_MAX_ACCEPTS: Final = 64
"""Connections that are accepted in one turn of the event loop."""
_STALLED_AFTER: Final = 0.02
"""Seconds after which a worker that has not taken a connection counts as stalled."""
_MAX_UNTAKEN: Final = 16
"""Connections that a worker may have been handed and not taken yet."""
_MIN_SERVED: Final = 5.0
"""Seconds that a worker must have served to be restarted without a pause."""
_FIRST_PAUSE: Final = 0.1
"""Seconds before a restart; doubled each time, up to `_LONGEST_PAUSE`. Also the wait when descriptors run out."""
_LONGEST_PAUSE: Final = 5.0
_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OURS: Final = ("OCP_", "REDIS_URL")
"""Prefixes of environment variables that a worker does not get: it has the settings over its channel."""
_RELOAD_WITHIN: Final = 5.0
"""Seconds that workers have to say whether they have other settings."""
_KILL_AFTER: Final = 5.0
"""Seconds, beyond those for draining, after which a worker that is to end is killed."""


class WorkerError(Exception):
    """A worker cannot serve with its settings; the text is one line for the person who set them."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Worker:
    """One worker process. Times are those of the event loop's clock, in seconds."""

    process: asyncio.subprocess.Process
    channel: Channel
    handoff: socket.socket
    settings: dict[str, Any]
    untaken: deque[socket.socket] = field(default_factory=deque)
    """Connections that it was handed and has not taken."""
    taken: int = 0
    """How many connections it has taken so far."""
    last_taken_at: float = 0.0
    """When it took a connection last, or was handed the first of `untaken`."""
    connections: int = 0
    """How many connections it has now."""
    joined: bool = False
    """Whether it is sent the topics of its siblings."""
    open: bool = False
    """Whether it is handed connections, since `opened`."""
    opened: float | None = None
    invalid: str | None = None
    """Why it cannot serve."""
    snapshot: Snapshot = ()
    """Its latest metrics."""
    changes: dict[str, str] = field(default_factory=dict)
    """Its changes of models in progress: tokens to models."""

    def load(self, late: float) -> tuple[bool, int, int]:
        """Return its load, for comparison; it is stalled if it has untaken connections and took none since `late`."""
        return bool(self.untaken) and self.last_taken_at < late, len(self.untaken), self.connections


class Supervisor:
    """Runs `count` workers behind a bound socket. `settings` are sent to each worker."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        count: int,
        settings: dict[str, Any],
        log: Callable[[str], None],
        tasks: Tasks,
    ) -> None:
        self._sock = sock
        self._count = count
        self._settings = settings
        self._log = log
        self._tasks = tasks
        self._workers: list[_Worker] = []
        """The running ones; the one that was handed a connection last is at the end."""
        self._ended: Snapshot = ()
        self._unassigned: deque[socket.socket] = deque()
        self._accepts = False
        self._ending = asyncio.Event()
        self._changed = asyncio.Event()
        self._invalid: str | None = None
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all workers, and return when they serve; raise WorkerError if one reports that it cannot."""
        self._sock.listen(_BACKLOG)
        self._sock.settimeout(0)
        self._keepers = [
            self._tasks.spawn(self._keep_alive(number), f"run worker {number}", endless=True)
            for number in range(1, self._count + 1)
        ]
        while sum(worker.open for worker in self._workers) < self._count:
            await self._changed.wait()
            if self._invalid is not None:
                raise WorkerError(self._invalid)

    async def drain(self, seconds: float) -> None:
        """Let the workers drain, for `seconds` at most and a little longer."""
        self._ending.set()
        self._pause_accepting()
        self._sock.close()
        for worker in self._workers:
            worker.channel.send(Message.DRAIN.value)
        await asyncio.wait(self._keepers, timeout=seconds + _KILL_AFTER)

    async def reload(self, settings: dict[str, Any]) -> None:
        """Send settings to all workers, and to those that start from now on; raise WorkerError if one refuses them."""
        self._settings = self._settings | {"settings": settings}
        asked = []
        for worker in self._workers:
            worker.settings["settings"] = self._settings
            asked.append(worker.channel.request(Message.RELOAD.value, settings))
        if not asked:
            return
        done, late = await asyncio.wait(asked, timeout=_RELOAD_WITHIN)
        for future in late:
            future.cancel()
        wrong = [future.result() for future in done if future.exception() is None and future.result() is not None]
        if wrong:
            raise WorkerError(wrong[0])
        if late:
            raise WorkerError(f"{len(late)} of {len(asked)} workers have not answered in {_RELOAD_WITHIN:g} s")

    def kill(self) -> None:
        """Kill the workers that are left, and close the connections that none has taken."""
        self._ending.set()
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.process.kill()
        for connection in self._unassigned:
            connection.close()

    # Processes.

    async def _keep_alive(self, number: int) -> None:
        """Run a worker of this number, and restart it whenever it ends, until the proxy ends."""
        pause, logs_start = 0.0, number == 1
        while not self._ending.is_set():
            served = 0.0
            try:
                how, served = await self._run(logs_start=logs_start)
            except OSError as error:  # out of memory, processes or descriptors
                how = f"could not be started ({error.strerror})"
            if self._ending.is_set():
                return
            pause = 0.0 if served > _MIN_SERVED else min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            self._log(f"Worker {number} {how}; another takes its place")
            logs_start = False
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)

    async def _run(self, *, logs_start: bool) -> tuple[str, float]:
        """Run one worker to its end; return how it ended, and how many seconds it had served."""
        ours, theirs = socket.socketpair()
        handoff, taking = socket.socketpair()
        handoff.settimeout(0)
        descriptors = [end.fileno() for end in (theirs, taking, self._sock)]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ollama_cache_proxy.cli.worker", *map(str, descriptors)),
                pass_fds=descriptors,
                stdin=asyncio.subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)},
                start_new_session=True,  # only the supervisor handles Ctrl-C
            )
        except OSError:
            ours.close()
            handoff.close()
            raise
        finally:
            theirs.close()
            taking.close()
        channel = await Channel.open(ours, self._tasks)
        settings = {"settings": self._settings, "logs_start": logs_start}
        worker = _Worker(process=process, channel=channel, handoff=handoff, settings=settings)
        self._workers.append(worker)
        if self._ending.is_set():
            channel.send(Message.DRAIN.value)
        try:
            await channel.listen(lambda message, value: self._handle(worker, Message(message), value))
        finally:
            self._remove(worker)
        with suppress(ProcessLookupError, TimeoutError):
            await asyncio.wait_for(process.wait(), _KILL_AFTER)
        if process.returncode is None:  # it has closed its channel, and does not end
            process.kill()
        status = await process.wait()
        served = 0.0 if worker.opened is None else asyncio.get_running_loop().time() - worker.opened
        if worker.invalid is not None:
            return f"cannot serve ({worker.invalid})", served
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"(process {process.pid}) {how}", served

    def _remove(self, worker: _Worker) -> None:
        """Remove an ended worker; keep its metrics, end its changes, and hand on its untaken connections."""
        self._workers.remove(worker)
        worker.open = worker.joined = False
        self._ended = added([self._ended, lasting(worker.snapshot)])
        for token in worker.changes:
            self._send_to_others(worker, Topic.CHANGE_ENDS, token)
        worker.handoff.close()
        self._reassign(worker)

    # Messages.

    async def _handle(self, worker: _Worker, message: Message, value: Any) -> Any:  # noqa: C901 - one case for each message
        match message:
            case Message.SETTINGS:
                return worker.settings
            case Message.INVALID:
                self._invalid = worker.invalid = value
                self._notify_start()
            case Message.JOIN:
                self._join(worker)
            case Message.OPEN:
                worker.open, worker.opened = not self._ending.is_set(), asyncio.get_running_loop().time()
                self._resume_accepting()
            case Message.COUNT:
                self._note_count(worker, *value)
            case Message.LEAVING:
                worker.open = False
                self._reassign(worker)
            case Message.SNAPSHOT:
                worker.snapshot = value
            case Message.SNAPSHOTS:
                return await self._snapshots_of_others(worker)
            case Message.SEND_AND_WAIT | Message.SEND:
                topic, content = Topic(value[0]), value[1]
                self._note_changes(worker, topic, content)
                if message is Message.SEND:
                    self._send_to_others(worker, topic, content)
                else:
                    await _wait_for(other.channel.request(topic.value, content) for other in self._others(worker))
            case Message.DRAIN | Message.RELOAD:
                pass  # only the supervisor sends them
        return None

    def _join(self, worker: _Worker) -> None:
        """Send a worker the changes in progress, before any other topic."""
        worker.joined = True
        for change in [change for other in self._workers for change in other.changes.items()]:
            worker.channel.send(Topic.CHANGE_BEGINS.value, change)

    def _note_changes(self, worker: _Worker, topic: Topic, content: Any) -> None:
        """Note the changes in progress: a new worker is sent them, and an ended worker's are ended."""
        if topic is Topic.CHANGE_BEGINS:
            worker.changes[content[0]] = content[1]
        elif topic is Topic.CHANGE_ENDS:
            worker.changes.pop(content, None)

    def _others(self, worker: _Worker) -> list[_Worker]:
        return [other for other in self._workers if other is not worker and other.joined]

    def _send_to_others(self, worker: _Worker, topic: Topic, content: Any) -> None:
        for other in self._others(worker):
            other.channel.send(topic.value, content)

    async def _snapshots_of_others(self, worker: _Worker) -> list[Snapshot]:
        """Return the metrics of ended workers, and the latest of each other running one."""
        await _wait_for(other.channel.request(Message.SNAPSHOT.value) for other in self._others(worker))
        return [self._ended, *(other.snapshot for other in self._workers if other is not worker)]

    def _notify_start(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Connections.

    def _resume_accepting(self) -> None:
        """Hand over waiting connections, and continue to accept."""
        while self._unassigned and self._least_loaded() is not None:
            self._assign(self._unassigned.popleft())
        if not (self._accepts or self._ending.is_set()):
            self._accepts = True
            asyncio.get_running_loop().add_reader(self._sock, self._accept)
        self._notify_start()

    def _pause_accepting(self) -> None:
        """Stop accepting for now: connections wait in the kernel."""
        if self._accepts:
            self._accepts = False
            asyncio.get_running_loop().remove_reader(self._sock)

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTS):
            if self._unassigned or self._least_loaded() is None:
                self._pause_accepting()
                return
            try:
                connection, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._pause_accepting()
                    asyncio.get_running_loop().call_later(_FIRST_PAUSE, self._resume_accepting)
                return
            self._assign(connection)

    def _least_loaded(self) -> _Worker | None:
        """Return the worker for the next connection; None if none can take one."""
        able = [worker for worker in self._workers if worker.open and len(worker.untaken) < _MAX_UNTAKEN]
        late = asyncio.get_running_loop().time() - _STALLED_AFTER
        return min(able, key=lambda worker: worker.load(late), default=None)

    def _assign(self, connection: socket.socket) -> None:
        while (worker := self._least_loaded()) is not None:
            try:
                socket.send_fds(worker.handoff, [b"."], [connection.fileno()])
            except (BrokenPipeError, ConnectionResetError):  # it has just ended
                worker.open = False
                continue
            except OSError:  # too many descriptors are in transit
                break
            if not worker.untaken:
                worker.last_taken_at = asyncio.get_running_loop().time()
            worker.untaken.append(connection)
            self._workers.remove(worker)
            self._workers.append(worker)
            return
        self._unassigned.append(connection)

    def _note_count(self, worker: _Worker, taken: int, connections: int) -> None:
        """Note what a worker reports: close our copies of the connections that it has taken."""
        for _ in range(taken - worker.taken):
            worker.untaken.popleft().close()
            worker.last_taken_at = asyncio.get_running_loop().time()
        worker.taken, worker.connections = taken, connections
        if self._unassigned or not self._accepts:
            self._resume_accepting()

    def _reassign(self, worker: _Worker) -> None:
        """Hand a worker's untaken connections to others."""
        untaken, worker.untaken = worker.untaken, deque()
        for connection in untaken:
            self._assign(connection)


async def _wait_for(asked: Iterable[asyncio.Future[Any]]) -> None:
    """Return when all have answered or gone, or after `SIBLING_TIMEOUT`."""
    futures = list(asked)
    if futures:
        _, late = await asyncio.wait(futures, timeout=SIBLING_TIMEOUT)
        for future in late:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                future.exception()
