"""Deletions that are never undone, in a store that is kept in a folder.

Each is numbered in the store after what it deletes, and the number is in the folder's store.json, on the disk, before
it is answered. A server that has loaded a smaller one has lost answered deletions: what it has loaded is dropped
before anybody sees it. So nothing depends on when the server writes to the disk, nor on what of its files is cut off.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ollama_cache_proxy.core.store_ports import Entries, Matches, Uncounted
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.stores.redis.generation import new_token
from ollama_cache_proxy.stores.redis.kept_folder import DELETIONS_BELOW, FolderError, KeptFolder, UnknownDeletionsError
from ollama_cache_proxy.stores.redis.key_layout import DELETIONS, GENERATION, START
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries

_TOKEN_BYTES: Final = 16

T = TypeVar("T")


@record
class Begun:
    """What was so before something was deleted."""

    start: bytes | None
    """The token of the server's start."""
    answered: int
    """The number of the last deletion that was answered."""


class Deletions:
    """Numbers deletions. Its methods raise what commands and files may raise."""

    def __init__(self, pool: Any, folder: KeptFolder) -> None:
        self._pool = pool
        self._folder = folder

    async def begun(self) -> Begun:
        """Return what `survives` has to be given; call it before anything is deleted."""
        try:
            answered = await asyncio.to_thread(self._folder.deletions)
        except FolderError:
            if not await self._forgets():
                raise
            answered = 0
        return Begun(start=await self._pool.get(START), answered=answered)

    async def survives(self, begun: Begun) -> bool:
        """Number what was deleted since `begun`; return whether it may be answered: it will never be undone.

        It may not where the server has been started anew meanwhile, perhaps without the deletion.
        """
        number = await self._pool.incr(DELETIONS)
        if number <= begun.answered:  # the store has lost its count, to an eviction
            number = await self._pool.incrby(DELETIONS, begun.answered - number + 1)
        try:
            await asyncio.to_thread(self._folder.raise_deletions, number)
        except (OSError, FolderError):
            if not await self._forgets():
                raise
        return bool(await self._pool.get(START) == begun.start)

    async def _forgets(self) -> bool:
        """Return whether nothing is kept any more, so that nothing can come back: the disk was full, for example."""
        appends = (await self._pool.info("persistence"))["aof_enabled"]
        return not appends and not await asyncio.to_thread(lambda: self._folder.holds_something)


class KeptEntries(RedisEntries):
    """Entries of a store that is kept: what was deleted stays deleted, whatever ends the server and the proxy."""

    def __init__(self, *parts: Any, deletions: Deletions, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._deletions = deletions

    async def put(self, entries: Entries, generation: str) -> bool:
        """See store_ports.EntryStore. What was asked before a clear is not written: it would stay in the files."""
        if generation != self._generation.seen:
            current = await self._guard.read("get", self._generation.current, None)
            if current is not None and generation != current:
                return True  # it would not be found either
        return await super().put(entries, generation)

    async def delete(self, keys: Sequence[str], generation: str) -> int | None:
        """See store_ports.EntryStore."""
        return await self._surviving(partial(super().delete, keys, generation))

    async def purge(self, matches: Matches) -> int | None:
        """See store_ports.EntryStore."""
        return await self._surviving(partial(super().purge, matches))

    async def clear(self) -> int | Uncounted | None:
        """See store_ports.EntryStore."""
        return await self._surviving(super().clear)

    async def _surviving(self, delete: Callable[[], Awaitable[T | None]]) -> T | None:
        """Return what a deletion returns, None where it failed or may be undone."""
        await self._guard.recovery()
        begun = await self._guard.read("delete", self._deletions.begun, None)
        if begun is None:
            return None
        deleted = await delete()
        if deleted is None:
            return None
        survives = await self._guard.read("delete", partial(self._deletions.survives, begun), fallback=False)
        return deleted if survives else None


async def check_deletions(pool: Any, folder: KeptFolder) -> bool:
    """Make a server fit to be seen that has just loaded its files, and that nobody else can reach yet.

    Returns whether it had lost answered deletions, and what it had loaded was dropped for that. Raises what commands
    and files may raise.
    """
    number = await _number(pool)
    try:
        answered = await asyncio.to_thread(folder.deletions)
    except UnknownDeletionsError:
        number, answered = -1, max(number, 0)
    lost = number < answered
    held = bool(await pool.dbsize())
    async with pool.pipeline(transaction=True) as pipeline:
        if lost:
            pipeline.set(GENERATION, new_token())
            pipeline.set(DELETIONS, answered)
        pipeline.set(START, secrets.token_hex(_TOKEN_BYTES))
        await pipeline.execute()
    return lost and held


async def _number(pool: Any) -> int:
    """Return the number of the last deletion in the store, 0 for none, -1 for anything else under its name."""
    if await pool.type(DELETIONS) == b"none":
        return 0
    found = await pool.get(DELETIONS) if await pool.type(DELETIONS) == b"string" else b""
    return int(found) if found.isdigit() and int(found) < DELETIONS_BELOW else -1
