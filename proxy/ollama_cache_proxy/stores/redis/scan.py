"""Iterating over the names of entries with SCAN: pages of descriptions, counts, the removal of an old generation.

Nothing here is guarded: failures of the server are raised, and the caller sets the deadline.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from ollama_cache_proxy.core.store_ports import Page
from ollama_cache_proxy.policy.messages import Description
from ollama_cache_proxy.stores.codecs import Codec
from ollama_cache_proxy.stores.redis.commands import Commands, permitted, remove
from ollama_cache_proxy.stores.redis.generation import Generations
from ollama_cache_proxy.stores.redis.key_layout import ANY
from ollama_cache_proxy.stores.redis.redis_client import Client

_NAMES_TO_READ: Final = 64
"""Names in one command where the entries among them are described."""
_NAMES: Final = 1000
"""Names in one command where few or no entries are described."""
_TURNS: Final = 60
"""Commands for one page, or for a count that a client waits for."""
_PREFIX_BYTES: Final = 2048
"""First bytes of a value; enough to describe most entries."""
_CURSORS: Final = 2**64
_MOST_DIGITS: Final = 24


def read_cursor(text: str, servers: int = 1) -> int:
    """Return SCAN's cursor, 0 for an empty text. Raises ValueError for one that none of so many servers can have given.

    A cursor of the second server is one of its own plus 2^64, and so on.
    """
    valid = len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit() and int(text) < max(1, servers) * _CURSORS
    if text and not valid:
        raise ValueError(f"{text[:32]!r} is not a valid cursor")
    return int(text or "0")


async def database_size(client: Client) -> int:
    """Return how many names there are, in all servers."""
    return sum([await server.dbsize() for server in client.servers()])


class Scan:
    """Scans names. A name that exists during all of a scan is found at least once, and may be found twice."""

    def __init__(self, client: Client, generation: Generations, commands: Commands, codec: Codec) -> None:
        self._client = client
        self._pool = client.pool
        self._layout = client.layout
        self._generation = generation
        self._commands = commands
        self._codec = codec

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
        cursor, names = await self._scan(cursor, generation, count)
        return cursor, await self._described(generation, self._layout.keys_of(generation, names))

    async def remove(self, generation: str) -> None:
        """Remove every entry of a generation."""
        async with aclosing(self._names(generation)) as turns:
            async for names in turns:
                if names:
                    await self.delete(names)

    async def delete(self, names: Sequence[str] | Sequence[bytes]) -> int:
        """Delete these names; return how many there were."""
        return await remove(self._pool, self._commands, *names)

    async def count(self, most: int) -> tuple[int | None, int | None]:
        """Return the database's size in names, and how many entries of the current generation there are.

        The size is None where the server refuses to tell it, the other where there are more than `most`, or where
        counting takes too many commands.
        """
        generation = await self._generation.current()
        size = await self._size()
        if size is not None and size > _TURNS * _NAMES:
            return size, None
        seen: set[bytes] = set()
        turn = 0
        async with aclosing(self._names(generation)) as turns:
            async for names in turns:
                seen.update(names)
                turn += 1
                if len(seen) > most or turn > _TURNS:
                    return size, None
        return size, len(seen)

    async def _size(self) -> int | None:
        """Return the size of the database in names, None where the server refuses to tell it."""
        return await permitted(lambda: self._commands.run(("DBSIZE", lambda: database_size(self._client))), None)

    async def count_all(self) -> tuple[str, int, int | None]:
        """Return the current generation, how many entries it has, and how many names there are that are no entries.

        The latter is None where there are entries of other generations, which are being removed, and where the size
        of the database is not known.
        """
        keys = old = 0
        generation = await self._generation.current()
        async with aclosing(self._names(ANY)) as turns:
            async for names in turns:
                mine = len(self._layout.own(generation, names))
                keys += mine
                old += len(names) - mine
        size = None if old else await self._size()
        return generation, keys, None if size is None else max(0, size - keys)

    async def _names(self, generation: str) -> AsyncGenerator[list[bytes], None]:
        """Yield the names of the entries of one generation, or of ANY, some at a time; a name may come twice."""
        cursor = 0
        while True:
            cursor, names = await self._scan(cursor, generation, _NAMES)
            yield names
            if not cursor:
                return

    async def _scan(self, cursor: int, generation: str, count: int) -> tuple[int, list[bytes]]:
        """Scan about `count` names; return the next cursor, and those of the generation's entries among them."""
        pattern, servers = self._layout.entries_of(generation), self._client.servers()
        number, own = divmod(cursor, _CURSORS)
        if number >= len(servers):
            return 0, []
        own, names = await self._commands.run(
            ("SCAN", lambda: servers[number].scan(own, match=pattern, count=count)),
        )
        if not own and number + 1 < len(servers):
            return (number + 1) * _CURSORS, names
        return number * _CURSORS + own if own else 0, names

    async def _described(self, generation: str, keys: list[str]) -> list[Description]:
        """Return descriptions of the entries that exist and have a valid beginning."""
        values = await self._prefixes(generation, dict.fromkeys(keys, _PREFIX_BYTES))
        needed = {key: self._codec.described_by(key, prefix) for key, (prefix, _) in values.items()}
        longer = {key: length for key, length in needed.items() if _PREFIX_BYTES < length <= values[key][1]}
        values |= await self._prefixes(generation, longer)
        found = (
            self._codec.decode_description(generation, key, prefix, total) for key, (prefix, total) in values.items()
        )
        return [description for description in found if description is not None]

    async def _prefixes(self, generation: str, lengths: Mapping[str, int]) -> dict[str, tuple[bytes, int]]:
        """Return so many first bytes of each key's value, and the value's length; other types are left out."""
        async with self._pool.pipeline(transaction=False) as pipeline:
            for key, length in lengths.items():
                pipeline.getrange(self._layout.entry_name(generation, key), 0, length - 1)
                pipeline.strlen(self._layout.entry_name(generation, key))
            replies = await pipeline.execute(raise_on_error=False)
        for name, reply in zip(("GETRANGE", "STRLEN"), replies, strict=False):
            self._commands.checked(name, reply)
        values = zip(lengths, replies[::2], replies[1::2], strict=True)
        return {key: (prefix, total) for key, prefix, total in values if (type(prefix), type(total)) == (bytes, int)}
