"""The generation of entries: a random token in the store, and a part of each entry's name. A clear replaces it.

A lookup reads the generation and the entries in one command, under the generation that this process read last; if that
is not the current one, it reads again. A generation that is absent (a new Redis, an eviction) or not a valid token is
replaced: that costs misses, and never brings an old entry back.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.guard import READ_WITHIN
from ollama_cache_proxy.stores.redis.key_layout import GENERATION, entry_name
from ollama_cache_proxy.stores.redis.redis_client import RedisClient

LONGEST_LOOKUP: Final = 1.0
"""Seconds for a lookup of several commands."""
_TOKEN: Final = re.compile(rb"[0-9a-f]{32}")
_BYTES: Final = 16
"""Bytes of a token."""
_KEYS_PER_COMMAND: Final = 64
"""Entries that one command reads."""
_TRIES: Final = 3
"""Attempts to read entries under the current generation."""


class Generation:
    """Reads entries of the current generation, and begins new ones. `seen` is the one that was read last."""

    def __init__(self, client: RedisClient, commands: Commands) -> None:
        self._pool = client.pool
        self._lane = client.lane
        self._commands = commands
        self.seen = secrets.token_hex(_BYTES)  # equals no token in the store, not even an empty one

    async def lookup(self, keys: Sequence[str], within: float = READ_WITHIN) -> tuple[str, list[bytes | None]]:
        """Return the current generation and the values of its entries; one command, unless it has changed."""
        if len(keys) <= _KEYS_PER_COMMAND:
            seen = self.seen
            names = [entry_name(seen, key) for key in keys]
            current, *values = await self._read((GENERATION, *names), within, urgent=True)
            if current == seen.encode() and len(values) == len(keys):
                return seen, values
        async with asyncio.timeout(within):
            return await self._lookup_in_steps(keys)

    async def current(self) -> str:
        """Return the current generation."""
        return (await self.lookup(()))[0]

    async def replace(self) -> str:
        """Begin a new generation; return the old one, empty where there was no valid one."""
        fresh = secrets.token_hex(_BYTES)
        try:
            old = await self._commands.run(
                ("GETSET", lambda: self._pool.execute_command("GETSET", GENERATION, fresh)),
                ("SET", lambda: self._get_and_set(fresh)),
            )
        except ResponseError as error:
            await self._remove_foreign(error)
            await self._pool.set(GENERATION, fresh)
            old = None
        self.seen = fresh
        return "" if old is None else old.decode("latin-1")

    async def _lookup_in_steps(self, keys: Sequence[str]) -> tuple[str, list[bytes | None]]:
        """Look up with several commands: the list is long, or the generation has changed."""
        for _ in range(_TRIES):
            seen = self.seen
            names = [entry_name(seen, key) for key in keys]
            current, *values = await self._read((GENERATION, *names[:_KEYS_PER_COMMAND]), LONGEST_LOOKUP)
            if current is None or _TOKEN.fullmatch(current) is None:  # absent or invalid: it could come back
                current = await self._renewed()
                if current is None:
                    continue
            self.seen = current.decode("latin-1")
            if self.seen == seen:
                for start in range(_KEYS_PER_COMMAND, len(names), _KEYS_PER_COMMAND):
                    values += await self._read_many(names[start : start + _KEYS_PER_COMMAND])
                return seen, values
        return self.seen, [None] * len(keys)

    async def _read(self, names: Sequence[str], within: float, *, urgent: bool = False) -> list[bytes | None]:
        """Return the values of these names over the lane.

        Without MGET, the generation is read at another moment than the entries. Each is read after the lookup began,
        so that it finds nothing that was cleared before it.
        """
        if self._commands.refused("MGET") is None:
            try:
                found: list[bytes | None] = await self._lane.ask("MGET", *names, within=within, urgent=urgent)
            except ResponseError as error:
                self._commands.note("MGET", error)
            else:
                return found
        return await self._read_each(names, within)

    async def _read_each(self, names: Sequence[str], within: float) -> list[bytes | None]:
        """Return the values of these names, one command each, all sent at once; None for one of another type."""
        asked = (self._lane.ask("GET", name, within=within) for name in names)
        found = await asyncio.gather(*asked, return_exceptions=True)
        values: list[bytes | None] = []
        for value in found:
            if not isinstance(value, BaseException):
                values.append(value)
            elif isinstance(value, ResponseError) and _is_of_another_type(value):
                values.append(None)
            else:
                if isinstance(value, ResponseError):
                    self._commands.note("GET", value)
                raise value
        return values

    async def _read_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the values of these names over a connection of the pool, which leaves the lane to others."""
        return await self._commands.run(
            ("MGET", lambda: self._pool.mget(names)), ("GET", lambda: self._read_each(names, LONGEST_LOOKUP))
        )

    async def _get_and_set(self, fresh: str) -> bytes | None:
        """Begin a generation without GETSET; return the old one. Of two clears at once, one sweeps too little."""
        (old,) = await self._read((GENERATION,), LONGEST_LOOKUP)
        await self._pool.set(GENERATION, fresh)
        return old

    async def _renewed(self) -> bytes | None:
        """Begin a generation unless another process just has; return the current one, None after a race."""
        (current,) = await self._read((GENERATION,), LONGEST_LOOKUP)
        if current is not None and _TOKEN.fullmatch(current) is not None:
            return current
        if current is not None:
            await self._remove()
        begun = await self._pool.set(GENERATION, secrets.token_hex(_BYTES), nx=True)
        (current,) = await self._read((GENERATION,), LONGEST_LOOKUP)
        if current is None and not begun:  # of another type
            await self._remove()
        return current if current is not None and _TOKEN.fullmatch(current) else None

    async def _remove_foreign(self, error: ResponseError) -> None:
        """Remove a generation that is of another type in Redis; raises any other error again."""
        if not _is_of_another_type(error):
            raise error
        await self._remove()

    async def _remove(self) -> None:
        await self._commands.run(
            ("UNLINK", lambda: self._pool.unlink(GENERATION)), ("DEL", lambda: self._pool.delete(GENERATION))
        )


def _is_of_another_type(error: ResponseError) -> bool:
    return str(error).startswith("WRONGTYPE")
