"""A private server that keeps its entries in a folder, and is shared by the proxies of one person that use that folder.

One of them has the claim to the folder, and starts the server; the others use its socket, and when that proxy ends one
of them takes its place, at the same socket. A server begins on a socket that nobody looks for: that gets the name that
all use when everything is loaded, and has been checked. Until then the store is away, as far as lookups can tell.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from redis.exceptions import BusyLoadingError

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.deletions import check_deletions
from ollama_cache_proxy.stores.redis.kept_folder import (
    ENTRIES,
    FolderError,
    KeptFolder,
    UnknownDeletionsError,
    claims,
)
from ollama_cache_proxy.stores.redis.private_server import (
    FORGETS,
    RESTART_AFTER,
    START_WITHIN,
    server_command,
    server_name,
    socket_url,
)
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, RedisClient
from ollama_cache_proxy.stores.redis.runtime_folder import is_private, socket_place
from ollama_cache_proxy.stores.redis.scrubber import Scrubber
from ollama_cache_proxy.stores.redis.server_process import ServerProcess, accepts

_KEEPS: Final = (
    *("--appendonly", "yes", "--appendfsync", "everysec", "--aof-load-truncated", "yes", "--rdbcompression", "no"),
    *("--appenddirname", ENTRIES, "--appendfilename", f"{ENTRIES}.aof"),
)
"""See docs/decisions/0035-a-kept-store-appends.md."""
_LOOK_EVERY: Final = 0.01
_LOADING_LOOK_EVERY: Final = 0.03
_CLAIM_EVERY: Final = 0.25
_STOPS_AT_LEAST: Final = 1.0
_SHARED_WITHIN: Final = 2.0
"""Seconds until the socket of another proxy's server accepts connections."""
_TEND_EVERY: Final = 1.0
"""Seconds, as those above."""
_BY_SIGNAL: Final = 128
"""A status that is larger is that of a server that was ended by a signal."""
_STARTING: Final = ".starting"
"""The end of the first name of the socket."""
_GONE: Final = "it was deleted, or another is in its place"
_UNIQUE: Final = 4
"""Bytes in the name of a socket, so that none is that of a folder that was deleted."""
_PASSES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT})
"""Errors that end by themselves."""


class KeptRedis:
    """The server, as a child of this proxy or of another. `url`, which is for redis-py, is known after `start`.

    `capacity` is in bytes, `stop_within` in seconds; `say` writes a warning to the log.
    """

    def __init__(  # noqa: PLR0913 - what the settings say, and whom to tell
        self,
        binary: str,
        folder: KeptFolder,
        *,
        capacity: int,
        stop_within: float,
        say: Callable[[str], None],
        tasks: Tasks,
    ) -> None:
        self.folder = folder
        self.name = server_name(binary)
        self.url = ""
        self.capacity = capacity
        """Bytes: those of the server that runs, which may be another proxy's."""
        self.shared = False
        """Whether another proxy had started it."""
        self._binary = binary
        self._own_capacity = capacity
        self._stop_within = stop_within
        self._say = say
        self._tasks = tasks
        self._socket = Path()
        self._claim: int | None = None
        self._next_claim: int | None = None
        """What becomes the claim when the other proxy has ended."""
        self._process: ServerProcess | None = None
        self._client: RedisClient | None = None
        self._scrubber: Scrubber | None = None
        self._keeps = True
        self._aside = False
        """Whether what could not be loaded was set aside."""
        self._killed = 0
        """How many servers in a row were killed while they loaded."""
        self._began = asyncio.Event()
        """Set when a server accepts connections, or another still has to end first."""
        self._closing = False

    async def start(self) -> bool:
        """Start the server, or find that of another proxy; return whether there is one. It may still be loading.

        Raises FolderError where another proxy's server cannot be reached, and OSError.
        """
        self._claim = self.folder.claim()
        if self._claim is None:
            await self._find_shared()
        if self._claim is None:
            self.shared = True
            self._next_claim = self.folder.next_claim()
            await self._read_capacity()
            self._tasks.spawn(self._take_over(self._next_claim), "take over the private store", endless=True)
        else:
            self._socket = self._place()
            running = self._tasks.spawn(self._own(self._claim), "keep the private store alive", endless=True)
            began = asyncio.ensure_future(self._began.wait())
            await asyncio.wait((running, began), timeout=START_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            began.cancel()
            if not self._began.is_set():
                running.cancel()
                await asyncio.wait((running,))
                await self.close()
                return False
        self.url = socket_url(self._socket)
        return True

    async def close(self) -> None:
        """End the server, if it is this proxy's. Whoever shares it may take its place then."""
        self._closing = True
        if self._next_claim is not None:
            os.close(self._next_claim)
            self._next_claim = None
        if self._claim is None:
            return
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._stop_within
        if self._scrubber is not None:
            await self._scrubber.close(self._stop_within)
        if self._client is not None:
            await self._client.close()
        with suppress(OSError):
            self._socket.unlink(missing_ok=True)  # before the next one can put its own there
        if self._process is not None:
            await self._process.stop(max(_STOPS_AT_LEAST, ends - loop.time()))
        os.close(self._claim)
        self._claim = None

    def _place(self) -> Path:
        """Return where the socket is to be: where those look that still share this folder, if any do."""
        found = self.folder.path.stat()
        own = f"{found.st_dev:x}-{found.st_ino:x}-"
        before = self.folder.socket()
        if before is not None and before.name.startswith(own) and is_private(before.parent):
            return before
        return socket_place(f"{own}{secrets.token_hex(_UNIQUE)}.sock")

    # Another proxy's server.

    async def _find_shared(self) -> None:
        """Wait until the server of another proxy accepts connections, or the claim can be had; raise FolderError."""
        ends = asyncio.get_running_loop().time() + _SHARED_WITHIN
        while asyncio.get_running_loop().time() < ends:
            socket = self.folder.socket()
            if socket is not None and (await accepts(socket) or await accepts(_starting(socket))):
                self._socket = socket
                return
            self._claim = self.folder.claim()
            if self._claim is not None:
                return
            await asyncio.sleep(_LOOK_EVERY)
        raise FolderError(f"{self.folder.path} is used by another proxy, whose server cannot be reached from here")

    async def _read_capacity(self) -> None:
        for socket in (self._socket, _starting(self._socket)):
            async with _client(socket) as pool:
                with suppress(*FAILURES):
                    self.capacity = int((await pool.config_get("maxmemory"))["maxmemory"])
                    return

    async def _take_over(self, claim: int) -> None:
        """Wait for the other proxy to end; then start the server here."""
        while not claims(claim):  # nothing signals that another process has ended
            await asyncio.sleep(_CLAIM_EVERY)
            if self._closing:
                return
        self._claim, self._next_claim = claim, None
        self._say(f"The proxy with which {self.folder.path} was shared has ended: this one starts the store now")
        await self._own(claim)

    # A server of this proxy's.

    async def _own(self, claim: int) -> None:
        """Run the server, and start it anew whenever it ends, until `close`."""
        with suppress(OSError):
            self.folder.write_socket(claim, self._socket)
        with suppress(OSError):
            self._socket.unlink(missing_ok=True)  # a server that is still ending is not to be found there
        self._client = RedisClient(redis_address(socket_url(self._socket)))
        self._scrubber = Scrubber(self._client.pool)
        self._scrubber.begin(self._tasks)
        pause = 0.0
        while not self._closing:
            await asyncio.sleep(pause)
            try:
                pause = await self._run()
            except OSError:  # out of memory, descriptors or space: the loop tries again
                pause = RESTART_AFTER

    async def _run(self) -> float:
        """Run a server until it ends; return for how many seconds to wait for the next. Raises OSError."""
        lock = await self._ready()
        try:
            if not is_private(self._socket.parent):
                return RESTART_AFTER
            starting = _starting(self._socket)
            folder = self.folder.path if self._keeps else self._socket.parent
            self._process = process = await ServerProcess.start(
                server_command(
                    self._binary,
                    socket=starting,
                    folder=folder,
                    capacity=self._own_capacity,
                    keeps=_KEEPS if self._keeps else FORGETS,
                ),
                folder=folder,
                lock=lock,
            )
        finally:
            if lock is not None:
                os.close(lock)
        if not await self._let_in(process, starting):
            status = await process.wait()
            return await asyncio.to_thread(self._ended_early, status)
        self.capacity = self._own_capacity
        tending = self._tasks.spawn(self._tend(), "watch the disk of the kept store", endless=True)
        await process.wait()
        tending.cancel()
        return RESTART_AFTER

    async def _ready(self) -> int | None:
        """Return the lock for the next server, which has files that it may load; None where it is to keep nothing.

        Raises OSError.
        """
        if not self._keeps:
            return None
        if not self._is_claimed():
            self._forget(_GONE)
            return None
        lock = None
        try:
            lock = await self._free()
            if lock is None:
                self._forget("another server still writes there")
            else:
                await asyncio.to_thread(self._prepare)
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            if not isinstance(error, OSError) or error.errno in _PASSES:
                raise
            self._forget(f"it cannot be used: {error.strerror}")
            return None
        return lock

    async def _free(self) -> int | None:
        """Return the lock for the next server, when the one before has ended; None if it does not. Raises OSError."""
        ends = asyncio.get_running_loop().time() + self._stop_within
        while (lock := self.folder.server_lock()) is None:
            self._began.set()  # this proxy can begin meanwhile, without its store
            if asyncio.get_running_loop().time() > ends:
                return None
            await asyncio.sleep(_LOOK_EVERY)
        return lock

    def _is_claimed(self) -> bool:
        return self._claim is not None and self.folder.is_claimed_by(self._claim)

    def _prepare(self) -> None:
        """Delete what must not be loaded. Raises OSError."""
        try:
            self.folder.deletions()
        except UnknownDeletionsError as error:
            if self.folder.holds_something:
                self._say(f"{error}, so that what was kept there is deleted: it may have been cleared")
            self.folder.start_anew()
        if not self._aside:
            self.folder.tidy()

    async def _let_in(self, process: ServerProcess, starting: Path) -> bool:
        """Wait until the server has loaded what is kept, and let everybody in; return False if it ends before.

        Raises OSError.
        """
        async with _client(starting) as pool:
            while not process.ended:
                try:
                    await pool.ping()
                    await self._open(starting, pool)
                except BusyLoadingError:
                    self._began.set()
                    await asyncio.sleep(_LOADING_LOOK_EVERY)
                except FAILURES:
                    await asyncio.sleep(_LOOK_EVERY)
                else:
                    return True
        return False

    async def _open(self, starting: Path, pool: Any) -> None:
        """Let everybody in. Raises what commands and files may raise."""
        self._killed = 0
        if self._aside:
            await asyncio.to_thread(self.folder.forget_aside)
            self._aside = False
            self._say(f"What was kept in {self.folder.path} could not be loaded, and is deleted")
        if await check_deletions(pool, self.folder):
            self._say(f"What was kept in {self.folder.path} is dropped: it lacks deletions that were answered")
        await asyncio.to_thread(starting.replace, self._socket)
        self._began.set()

    def _ended_early(self, status: int) -> float:
        """Decide what to do after a server that ended before it had loaded; return for how many seconds to wait.

        Whether what is kept is at fault is found out by starting without it. Raises OSError.
        """
        if self._closing or not self._keeps:
            return RESTART_AFTER
        if status == 0:
            return RESTART_AFTER
        if status > _BY_SIGNAL and not self._killed:  # it may be too large for the memory, or somebody ended it
            self._killed += 1
            return RESTART_AFTER
        if self._aside or not self.folder.holds_something:
            self.folder.put_back()
            self._aside = False
            self._forget("the server cannot write there")
        else:
            self.folder.set_aside()
            self._aside = True
        return 0.0

    def _forget(self, why: str) -> None:
        self._keeps = False
        self._say(f"Nothing more is kept in {self.folder.path}: {why}")

    # A server that runs.

    async def _tend(self) -> None:
        """Look after the server as long as it runs."""
        while self._keeps and self._client is not None:
            await asyncio.sleep(_TEND_EVERY)
            with suppress(*FAILURES):
                await self._check_disk(self._client.pool)

    async def _check_disk(self, pool: Any) -> None:
        """Where the server cannot write to the disk any more, have it go on without, and delete what is kept."""
        claimed = self._is_claimed()
        if not claimed or not self.folder.entries.exists():
            why = "the files were deleted" if claimed else _GONE
        elif (await pool.info("persistence"))["aof_last_write_status"] != "ok":
            why = "the disk is full, or cannot be written to; what was kept is deleted"
        else:
            return
        await pool.config_set("appendonly", "no")
        self._forget(why)
        if claimed:
            await asyncio.to_thread(self.folder.drop)


def _starting(socket: Path) -> Path:
    return socket.with_name(socket.name + _STARTING)


@asynccontextmanager
async def _client(socket: Path) -> AsyncIterator[Any]:
    """Connect for a few commands."""
    client = RedisClient(redis_address(socket_url(socket)))
    try:
        yield client.pool
    finally:
        await asyncio.shield(client.close())  # a proxy that ends cancels whoever waits for it
