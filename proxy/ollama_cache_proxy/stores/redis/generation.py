"""The generation of entries: a random token in the store, and a part of each entry's name. A clear replaces it.

A lookup reads the generation and the entries in one command, under the generation that this process read last; if that
is not the current one, it reads again. A generation that is absent (a new Redis, an eviction) or not a valid token is
replaced: that costs misses, and never brings an old entry back. One that was replaced comes back with a replica that
had not heard of that before it became the primary, or with an old snapshot: then it is replaced again.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from typing import Final, Protocol

from redis.exceptions import InvalidResponse, ResponseError

from ollama_cache_proxy.stores.redis.commands import Commands, remove
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard, WriteRefused
from ollama_cache_proxy.stores.redis.key_layout import GENERATION, entry_name
from ollama_cache_proxy.stores.redis.lane import Lane
from ollama_cache_proxy.stores.redis.redis_client import Client

LONGEST_LOOKUP: Final = 1.0
"""Seconds for a lookup of several commands."""
_TOKEN: Final = re.compile(rb"[0-9a-f]{32}")
_BYTES: Final = 16
"""Bytes of a token."""
KEYS_PER_COMMAND: Final = 64
"""Entries that one command reads."""
_MOST_ENDED: Final = 1024
"""Generations that are remembered as ended."""
TRIES: Final = 3
"""Attempts to read entries under the current generation."""


PROBE: Final = "probe"


def new_token() -> str:
    """Return a token that no generation had before."""
    return secrets.token_hex(_BYTES)


class Generations(Protocol):
    """Reads entries of the current generation, and begins new ones."""

    seen: str
    """The generation that was read last."""

    @property
    def probe_key(self) -> str:
        """The key to look up to see whether lookups work."""

    def doubt(self) -> None:
        """Take what was seen for an old one, since another process has begun one."""

    async def lookup(
        self, keys: Sequence[str], within: float | None = None, *, lane: Lane | None = None, longest: float = 0.0
    ) -> tuple[str, list[bytes | None]]:
        """Return the current generation and the values of its entries.

        The first command has `within` seconds, by default as many as requests wait now; several have as many as they
        wait at most, LONGEST_LOOKUP for a long list, and `longest` where that is more. Raises WriteRefused where no
        generation can be begun.
        """

    async def current(self) -> str:
        """Return the current generation."""

    async def replace(self) -> str:
        """Begin a new generation; return the old one, empty where there was no valid one."""


class Generation:
    """Reads entries of the current generation, and begins new ones. `seen` is the one that was read last."""

    def __init__(self, client: Client, guard: Guard, commands: Commands) -> None:
        self._pool = client.pool
        self._lane = client.lane
        self._lists = client.lists
        self._guard = guard
        self._commands = commands
        self._renewing = asyncio.Lock()
        self.seen = new_token()  # equals no token in the store, not even an empty one
        self._newest = ""  # the newest one that the store was seen to have, or that was begun here
        self._ended: dict[str, None] = {}  # those that it has replaced, the oldest first

    async def lookup(
        self, keys: Sequence[str], within: float | None = None, *, lane: Lane | None = None, longest: float = 0.0
    ) -> tuple[str, list[bytes | None]]:
        """See Generations. One command, unless the generation has changed."""
        seen, within = self.seen, within or self._guard.wait.seconds
        lane = lane or (self._lane if len(keys) <= KEYS_PER_COMMAND else self._lists)
        begun = asyncio.get_running_loop().time()
        names = [entry_name(seen, key) for key in keys[:KEYS_PER_COMMAND]]
        current, *values = await self._read(lane, (GENERATION, *names), within, urgent=True)
        if len(keys) <= KEYS_PER_COMMAND and current == seen.encode() and len(values) == len(keys):
            return seen, values
        several = LONGEST_LOOKUP if len(keys) > KEYS_PER_COMMAND else longest
        until = begun + max(within, self._guard.wait.longest, several)
        async with asyncio.timeout_at(until):
            return await self._lookup_in_steps(keys, lane, until, seen, current, values)

    @property
    def probe_key(self) -> str:
        """See Generations."""
        return PROBE

    def doubt(self) -> None:
        """See Generations. What was seen equals no token then."""
        self.seen = new_token()

    async def current(self) -> str:
        """See Generations."""
        return (await self.lookup((), WRITE_WITHIN))[0]

    async def replace(self) -> str:
        """Begin a new generation, or at least end the old one; return that, empty where there was no valid one.

        Without a generation no entry is found, and the next lookup that may write begins one. To end one needs no
        memory, so a full server does it.
        """
        fresh, newest = new_token(), self._newest
        try:
            old = await self._commands.run(
                ("GETSET", lambda: self._pool.execute_command("GETSET", GENERATION, fresh)),
                ("SET", lambda: self._get_and_set(fresh)),
            )
        except ResponseError as error:
            old = await self._end(error)
            if _is_of_another_type(error):
                await self._pool.set(GENERATION, fresh)
        if self._newest == newest:
            self._note(fresh)
        else:  # another was read meanwhile; which one came later is read with the next lookup
            self.seen = new_token()
        return "" if old is None else old.decode("latin-1")

    def _note(self, token: str) -> None:
        """Note the current generation: those before it have ended."""
        self.seen = token
        if self._newest not in ("", token):
            self._ended[self._newest] = None
            if len(self._ended) > _MOST_ENDED:
                del self._ended[next(iter(self._ended))]
        self._newest = token

    async def _end(self, error: ResponseError) -> bytes | None:
        """Delete the generation, which could not be replaced because of `error`; return it."""
        found = [] if _is_of_another_type(error) else await self._read(self._lane, (GENERATION,), WRITE_WITHIN)
        await self._remove()
        return found[0] if found else None

    async def _lookup_in_steps(  # noqa: PLR0913, PLR0917 - what the first command told
        self,
        keys: Sequence[str],
        lane: Lane,
        until: float,
        seen: str,
        current: bytes | None,
        values: list[bytes | None],
    ) -> tuple[str, list[bytes | None]]:
        """Look up with several commands, until `until` in the loop's time: the list is long, or the generation new.

        `current` and `values` were read under the generation `seen`.
        """
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            if current is None or _TOKEN.fullmatch(current) is None:  # absent or invalid: it could come back
                current = await self._begun(current, lane, until)
            token = seen if current is None else current.decode("latin-1")
            if token in self._ended:
                current = await self._restored(token, lane, until)
                token = current.decode("latin-1")
            names = [entry_name(token, key) for key in keys]
            if current is not None and token == seen:
                rest = range(KEYS_PER_COMMAND, len(names), KEYS_PER_COMMAND)
                reading = (self._read(lane, names[at : at + KEYS_PER_COMMAND], until - loop.time()) for at in rest)
                values = [*values, *(value for found in await asyncio.gather(*reading) for value in found)]
                if len(values) != len(keys):
                    raise InvalidResponse
                return token, values
            self._note(token)
            seen = token
            names = [GENERATION, *names[:KEYS_PER_COMMAND]]
            current, *values = await self._read(lane, names, until - loop.time())
        return self.seen, [None] * len(keys)

    async def _read(
        self, lane: Lane, names: Sequence[str], within: float, *, urgent: bool = False
    ) -> list[bytes | None]:
        """Return the values of these names over the lane.

        Without MGET, the generation is read at another moment than the entries. Each is read after the lookup began,
        so that it finds nothing that was cleared before it.
        """
        if self._commands.refused("MGET") is None:
            try:
                found: list[bytes | None] = await lane.ask("MGET", *names, within=within, urgent=urgent)
            except ResponseError as error:
                self._commands.note("MGET", error)
            else:
                return found
        return await self._read_each(lane, names, within)

    async def _read_each(self, lane: Lane, names: Sequence[str], within: float) -> list[bytes | None]:
        """Return the values of these names, one command each, all sent at once; None for one of another type."""
        asked = (lane.ask("GET", name, within=within) for name in names)
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

    async def _get_and_set(self, fresh: str) -> bytes | None:
        """Begin a generation without GETSET; return the old one. Of two clears at once, one sweeps too little."""
        (old,) = await self._read(self._lane, (GENERATION,), WRITE_WITHIN)
        await self._pool.set(GENERATION, fresh)
        return old

    async def _begun(self, seen: bytes | None, lane: Lane, until: float) -> bytes | None:
        """Begin a generation unless another process just has; return the current one, None after a race.

        `seen` is what was there a moment ago: nothing, or no valid token. An absent one is begun once, whoever tries.
        An invalid one is removed first, which of two processes at the same moment costs one misses. Raises WriteRefused
        where the server takes no writes, without trying where that is known.
        """
        if self._guard.writes.open:
            raise WriteRefused
        loop = asyncio.get_running_loop()
        async with self._renewing:
            if seen is not None:
                (current,) = await self._read(lane, (GENERATION,), until - loop.time())
                if current is not None and _TOKEN.fullmatch(current) is not None:
                    return current
                await self._remove()
            fresh = new_token()
            try:
                begun = await lane.ask("SET", GENERATION, fresh, "NX", within=until - loop.time())
            except ResponseError as error:
                raise WriteRefused(error) from None
            if begun:
                return fresh.encode()
            (current,) = await self._read(lane, (GENERATION,), until - loop.time())
            if current is None:  # of another type, or gone again
                await self._remove()
            return current if current is not None and _TOKEN.fullmatch(current) else None

    async def _restored(self, ended: str, lane: Lane, until: float) -> bytes:
        """Replace a generation that has ended, and has come back, by the newest one; return what is current then.

        Raises WriteRefused where the server takes no writes: then nothing of that generation is found. One that
        somebody has begun meanwhile is ended, too, by another new one: which of the two is newer is not known.
        """
        if self._guard.writes.open:
            raise WriteRefused
        loop = asyncio.get_running_loop()
        async with self._renewing:
            newest = self._newest
            try:
                old = await self._commands.run(
                    ("GETSET", lambda: lane.ask("GETSET", GENERATION, newest, within=until - loop.time())),
                    ("SET", lambda: lane.ask("SET", GENERATION, newest, "GET", within=until - loop.time())),
                )
                if old is not None and old.decode("latin-1") not in (ended, newest):
                    newest = new_token()
                    await lane.ask("SET", GENERATION, newest, within=until - loop.time())
            except ResponseError as error:
                raise WriteRefused(error) from None
        return newest.encode()

    async def _remove(self) -> None:
        await remove(self._pool, self._commands, GENERATION)


def _is_of_another_type(error: ResponseError) -> bool:
    return str(error).startswith("WRONGTYPE")
