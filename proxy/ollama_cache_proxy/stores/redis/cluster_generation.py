"""The generation of entries in a cluster: a copy of it beside the entries of each hash tag, so one command reads both.

Generations have an order (see `later_than`), and a copy is only ever replaced by a later one. A clear is done when all
copies have the new one, and goes on in the background until they have. Whoever finds an older one, as a replica has
that became the primary and had not heard of a clear, replaces it by the latest that it knows, and finds nothing under
it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError, WatchError
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.commands import Commands, is_refusal
from ollama_cache_proxy.stores.redis.generation import KEYS_PER_COMMAND, LONGEST_LOOKUP, TRIES
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard, WriteRefused
from ollama_cache_proxy.stores.redis.key_layout import TAGS
from ollama_cache_proxy.stores.redis.lane import Lane
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, NodeAwayError

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_ORDER: Final = 8
"""Hexadecimal digits of a token that say which is the later one."""
_LAST: Final = 16**_ORDER - 1
_RANDOM_BYTES: Final = 12
_ONE_WITHIN: Final = 1.0
"""Seconds to replace one copy."""
_AGAIN_AFTER: Final = 0.5
"""Seconds until copies that could not be replaced are tried again."""
_RACES: Final = 100
"""Attempts to replace a copy that others replace, too: of so many that begin at once, none loses more often."""


def later_than(token: str, now: float) -> str:
    """Return a token that nobody else has, and that is later than `token`, in the order of texts.

    It begins with the time, in seconds, or with the next number where that is no more: after a loss of all copies, what
    is begun is later than what somebody may still know.
    """
    number = max(int(token[:_ORDER] or "0", 16) + 1, int(now))
    return f"{min(number, _LAST):0{_ORDER}x}{secrets.token_hex(_RANDOM_BYTES)}"


class ClusterGeneration:
    """See generation.Generations. `seen` is the latest generation that is known; empty before the first."""

    def __init__(self, client: ClusterClient, guard: Guard, commands: Commands, *, clock: Clock, tasks: Tasks) -> None:
        self._client = client
        self._layout = client.layout
        self._guard = guard
        self._commands = commands
        self._clock = clock
        self._tasks = tasks
        self._behind: set[str] = set()
        """Copies that a clear has not reached yet."""
        self._probed = 0
        self.seen = ""

    def doubt(self) -> None:
        """See Generations. Each lookup reads a copy, and does not go by what was seen alone."""

    @property
    def probe_key(self) -> str:
        """See Generations. Nodes that are there take turns."""
        for _ in TAGS:
            self._probed += 1
            key = f"probe {self._probed % (4 * len(TAGS))}"
            if self._client.is_there(slot_of(self._layout.generation_beside(key))):
                break
        return key

    async def lookup(
        self, keys: Sequence[str], within: float | None = None, *, lane: Lane | None = None, longest: float = 0.0
    ) -> tuple[str, list[bytes | None]]:
        """See Generations. The entries of a node that is away are not found, unless that is so of all."""
        within = within or self._guard.wait.seconds
        several = len(keys) > KEYS_PER_COMMAND
        lane = lane or (self._client.lists if several else self._client.lane)
        begun = asyncio.get_running_loop().time()
        until = begun + max(within, self._guard.wait.longest, LONGEST_LOOKUP if several else longest)
        if not (self.seen and keys):
            await self._learn(lane, until)
        for attempt in range(TRIES):
            seen = self.seen
            first = begun + within if attempt == 0 and not several else until
            values, stale = await self._read(lane, seen, keys, first)
            if not stale:
                return seen, values
            async with asyncio.timeout_at(until):
                await self._settle(stale)
        return self.seen, [None] * len(keys)

    async def current(self) -> str:
        """See Generations."""
        return (await self.lookup((), WRITE_WITHIN))[0]

    async def replace(self) -> str:
        """See Generations. Raises an exception where some copies could not be replaced yet."""
        old = self.seen
        self._begin()
        for _ in range(TRIES):
            seen = self.seen
            await self._spread(self._layout.generations)
            if self.seen == seen:
                break
            self._begin()  # somebody has cleared in the same moment, and what came after that is to be cleared, too
        if self._behind:
            self._tasks.spawn(self._go_on(), "go on clearing", endless=True)
            raise RedisConnectionError("some copies of the generation could not be replaced")
        return old

    def _begin(self) -> None:
        self.seen = later_than(self.seen, self._clock.now())

    async def _go_on(self) -> None:
        """Replace the copies that could not be, until all are."""
        while self._behind:
            await asyncio.sleep(_AGAIN_AFTER)
            await self._spread(tuple(self._behind))

    async def _spread(self, names: Sequence[str]) -> None:
        """Have these copies be the latest generation, as far as that works now."""
        self._behind |= set(names)
        await asyncio.gather(*map(self._reach, names))

    async def _reach(self, name: str) -> None:
        with suppress(*FAILURES):
            async with asyncio.timeout(_ONE_WITHIN):
                await self._advance(name)
            self._behind.discard(name)

    async def _learn(self, lane: Lane, until: float) -> None:
        """Read all copies that can be read, and begin a generation where there is none."""
        names = self._layout.generations
        within = until - asyncio.get_running_loop().time()
        read = (self._get(lane, name, within) for name in names)
        found: list[bytes | BaseException | None] = await asyncio.gather(*read, return_exceptions=True)
        copies = {name: copy for name, copy in zip(names, found, strict=True) if not isinstance(copy, BaseException)}
        if len(copies) < len(names):
            error = next(copy for copy in found if isinstance(copy, BaseException))
            known = self.seen or any(_valid(copy) for copy in copies.values())
            if not (known and isinstance(error, NodeAwayError)):
                raise error  # the latest may be where nobody answers
        stale = {name: copy for name, copy in copies.items() if not self.seen or copy != self.seen.encode()}
        await self._settle(stale)

    async def _read(
        self, lane: Lane, seen: str, keys: Sequence[str], until: float
    ) -> tuple[list[bytes | None], dict[str, bytes | None]]:
        """Return the values of these entries of a generation, and the copies that are not that generation."""
        within = until - asyncio.get_running_loop().time()
        groups: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(self._layout.generation_beside(key), []).append(place)
        commands = [
            (name, places[start : start + KEYS_PER_COMMAND])
            for name, places in groups.items()
            for start in range(0, len(places), KEYS_PER_COMMAND)
        ]
        entry_name, asked = self._layout.entry_name, []
        for name, places in commands:
            asked.append(self._mget(lane, (name, *(entry_name(seen, keys[place]) for place in places)), within))
        if len(asked) == 1:
            replies: list[Any] = [await asked[0]]
        else:
            replies = await asyncio.gather(*asked, return_exceptions=True)
        values: list[bytes | None] = [None] * len(keys)
        stale: dict[str, bytes | None] = {}
        for (name, places), reply in zip(commands, replies, strict=True):
            if isinstance(reply, BaseException):
                if isinstance(reply, NodeAwayError):
                    continue
                raise reply
            if reply[0] != seen.encode():
                stale[name] = reply[0]
            for place, value in zip(places, reply[1:], strict=True):
                values[place] = value
        return values, stale

    async def _mget(self, lane: Lane, names: Sequence[str], within: float) -> list[bytes | None]:
        """Return the values of names of one slot. While that slot moves, they may be at two nodes: each is asked for.

        Then the generation is read at another moment than the entries, but each after the lookup began.
        """
        if self._commands.refused("MGET") is None:
            try:
                found: list[bytes | None] = await lane.ask("MGET", *names, within=within, urgent=True)
            except TryAgainError:
                pass
            except ResponseError as error:
                self._commands.note("MGET", error)
            else:
                return found
        return list(await asyncio.gather(*(self._get(lane, name, within) for name in names)))

    async def _get(self, lane: Lane, name: str, within: float) -> bytes | None:
        """Return a value, None for one of another type."""
        try:
            found: bytes | None = await lane.ask("GET", name, within=within)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return None
        return found

    async def _settle(self, copies: Mapping[str, bytes | None]) -> None:
        """Take in copies that are not what was seen: go by later ones, and replace those that are older, or none.

        Raises WriteRefused where the server takes no writes: then nothing under these is found.
        """
        later = max((token for copy in copies.values() if (token := _valid(copy))), default="")
        self.seen = max(self.seen, later)
        if not self.seen:
            self._begin()
        older = [name for name, copy in copies.items() if _valid(copy) != self.seen]
        if older and self._guard.writes.open:
            raise WriteRefused
        try:
            await asyncio.gather(*map(self._advance, older))
        except ResponseError as error:
            raise WriteRefused(error) from None

    async def _advance(self, name: str) -> None:
        """Replace a copy by the latest generation, or go by the copy where that is later. Raises what commands may."""
        for _ in range(_RACES):
            node = self._client.owner(slot_of(name))
            try:
                async with node.client.pool.pipeline(transaction=True) as pipeline:
                    await pipeline.watch(name)
                    found = _valid(await _found(pipeline, name))
                    if found >= self.seen:
                        self.seen = found
                        return
                    pipeline.multi()
                    pipeline.set(name, self.seen)
                    await pipeline.execute()
                    return
            except WatchError:
                continue
            except MovedError as error:
                self._client.redirected(slot_of(name), error, moved=True, by=node)
            except AskError as error:  # it is there when the slot has moved
                raise RedisConnectionError(type(error).__name__) from error
            except ResponseError as error:
                if is_refusal(error):
                    self._commands.refuse("WATCH", error)
                raise
            except FAILURES as error:
                raise self._client.failed(node, error) from error
        raise RedisConnectionError("the generation is replaced too often")


async def _found(pipeline: Any, name: str) -> bytes | None:
    try:
        found: bytes | None = await pipeline.get(name)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return None
    return found


def _valid(copy: object) -> str:
    """Return a copy as a generation, "" where it is none."""
    text = copy.decode("latin-1") if isinstance(copy, bytes) else ""
    return text if _TOKEN.fullmatch(text) else ""
