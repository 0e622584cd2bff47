"""Iterating over the names of entries with SCAN: pages of descriptions, counts, the removal of an old generation.

Nothing here is guarded: failures of the server are raised, and the caller sets the deadline.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from ollama_cache_proxy.core.store_ports import Page
from ollama_cache_proxy.policy.messages import Description
from ollama_cache_proxy.stores.entry_codec import decode_description, described_by
from ollama_cache_proxy.stores.redis.generation import Generation
from ollama_cache_proxy.stores.redis.key_layout import ANY, entry_name, keys_of
from ollama_cache_proxy.stores.redis.redis_client import RedisClient

_NAMES_TO_READ: Final = 64
"""Names in one command where the entries among them are described."""
_NAMES: Final = 1000
"""Names in one command where few or no entries are described."""
_TURNS: Final = 60
"""Commands for one page, or for a count that a client waits for."""
_PREFIX_BYTES: Final = 2048
"""First bytes of a value; enough to describe most entries."""
_CURSORS: Final = 2**64


def read_cursor(text: str) -> int:
    """Return SCAN's cursor, 0 for an empty text. Raises ValueError for an invalid one."""
    if text and not (text.isascii() and text.isdigit() and int(text) < _CURSORS):
        raise ValueError(f"{text[:32]!r} is not a valid cursor")
    return int(text or "0")


class Scan:
    """Scans names. A name that exists during all of a scan is found at least once, and may be found twice."""

    def __init__(self, client: RedisClient, generation: Generation) -> None:
        self._pool = client.pool
        self._generation = generation

    async def page(self, cursor: int, limit: int) -> Page:
        """Return about `limit` entries of the current generation; among many other names fewer, or none."""
        generation = await self._generation.current()
        entries: list[Description] = []
        sparse = False
        for _ in range(_TURNS):
            cursor, found = await self.turn(generation, cursor, sparse=sparse)
            entries += found
            if not cursor or len(entries) >= limit:
                break
            sparse = not found
        return Page(entries=tuple(entries), cursor=str(cursor) if cursor else None)

    async def turn(self, generation: str, cursor: int, *, sparse: bool) -> tuple[int, list[Description]]:
        """Scan some names; return the next cursor, 0 at the end, and the entries among them.

        It scans more names where entries are `sparse`: where the turn before found none.
        """
        count = _NAMES if sparse else _NAMES_TO_READ
        cursor, names = await self._pool.scan(cursor, match=entry_name(generation, ANY), count=count)
        return cursor, await self._described(generation, keys_of(generation, names))

    async def remove(self, generation: str) -> None:
        """Remove every entry of a generation."""
        async with aclosing(self._names(generation)) as turns:
            async for names in turns:
                if names:
                    await self._pool.unlink(*names)

    async def count(self, most: int) -> tuple[int, int | None]:
        """Return the database's size in names, and how many entries of the current generation there are.

        The latter is None where there are more than `most`, or where counting takes too many commands.
        """
        generation = await self._generation.current()
        size = await self._pool.dbsize()
        if size > _TURNS * _NAMES:
            return size, None
        seen: set[bytes] = set()
        async with aclosing(self._names(generation)) as turns:
            async for names in turns:
                seen.update(names)
                if len(seen) > most:
                    return size, None
        return size, len(seen)

    async def count_all(self) -> tuple[str, int, int | None]:
        """Return the current generation, how many entries it has, and how many names there are that are no entries.

        The latter is None where there are entries of other generations, which are being removed.
        """
        keys = old = 0
        generation = await self._generation.current()
        own = entry_name(generation, "").encode()
        async with aclosing(self._names(ANY)) as turns:
            async for names in turns:
                mine = sum(name.startswith(own) for name in names)
                keys += mine
                old += len(names) - mine
        return generation, keys, None if old else max(0, await self._pool.dbsize() - keys)

    async def _names(self, generation: str) -> AsyncGenerator[list[bytes], None]:
        """Yield the names of the entries of one generation, or of ANY, some at a time; a name may come twice."""
        cursor = 0
        while True:
            cursor, names = await self._pool.scan(cursor, match=entry_name(generation, ANY), count=_NAMES)
            yield names
            if not cursor:
                return

    async def _described(self, generation: str, keys: list[str]) -> list[Description]:
        """Return descriptions of the entries that exist and have a valid beginning."""
        values = await self._prefixes(generation, dict.fromkeys(keys, _PREFIX_BYTES))
        needed = {key: described_by(key, prefix) for key, (prefix, _) in values.items()}
        longer = {key: length for key, length in needed.items() if _PREFIX_BYTES < length <= values[key][1]}
        values |= await self._prefixes(generation, longer)
        found = (decode_description(key, prefix, total) for key, (prefix, total) in values.items())
        return [description for description in found if description is not None]

    async def _prefixes(self, generation: str, lengths: Mapping[str, int]) -> dict[str, tuple[bytes, int]]:
        """Return so many first bytes of each key's value, and the value's length; other types are left out."""
        async with self._pool.pipeline(transaction=False) as pipeline:
            for key, length in lengths.items():
                pipeline.getrange(entry_name(generation, key), 0, length - 1)
                pipeline.strlen(entry_name(generation, key))
            replies = await pipeline.execute(raise_on_error=False)
        values = zip(lengths, replies[::2], replies[1::2], strict=True)
        return {key: (prefix, total) for key, prefix, total in values if (type(prefix), type(total)) == (bytes, int)}
