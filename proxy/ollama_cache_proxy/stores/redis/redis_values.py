"""Values in Redis that are no entries, and totals, which are hashes. A clear leaves them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import InvalidResponse, RedisError, ResponseError

from ollama_cache_proxy.stores.redis.commands import Commands, is_refusal, permitted, remove
from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.key_layout import value_name
from ollama_cache_proxy.stores.redis.redis_client import Client


class RedisValues:
    """See store_ports.ValueStore."""

    def __init__(self, client: Client, guard: Guard, commands: Commands) -> None:
        self._pool = client.pool
        self._lane = client.lane
        self._guard = guard
        self._commands = commands

    async def save(self, name: str, value: bytes) -> bool:
        """See store_ports.ValueStore."""
        return bool(await self._guard.write_value("save", lambda: self._pool.set(value_name(name), value)))

    async def load(self, name: str) -> bytes | None:
        """See store_ports.ValueStore."""
        return await self._guard.lookup("load", lambda: self._load(name), None)

    async def set_default(self, name: str, value: bytes) -> bytes | None:
        """See store_ports.ValueStore. Writes only where there is no value yet."""
        found = await self.load(name)
        if found is not None:
            return found
        return await self._guard.write_value("save", lambda: self._set_default(name, value))

    async def _load(self, name: str) -> bytes | None:
        own = value_name(name)
        within = self._guard.wait.seconds

        async def load_with_others() -> Any:
            (value,) = await self._lane.ask("MGET", own, within=within)
            return value

        return _as_bytes(
            await self._commands.run(
                ("GET", lambda: self._lane.ask("GET", own, within=within)), ("MGET", load_with_others)
            )
        )

    async def _set_default(self, name: str, value: bytes) -> bytes | None:
        await self._pool.set(value_name(name), value, nx=True)
        return await self._load(name)

    async def add(self, name: str, deltas: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int] | None:
        """See store_ports.ValueStore. After a failure it may have been added, where only the reply was lost."""
        begun = {field: known[field] for field in deltas if field in known}
        totals = await self._guard.write_value("add", lambda: permitted(lambda: self._add(name, begun, deltas), None))
        if totals is None:
            return None
        lost = {field: total for field, total in known.items() if field not in totals}
        if lost:
            restored = await self._guard.write_value("add", lambda: permitted(lambda: self._add(name, lost, {}), lost))
            totals |= restored or lost  # and not those alone: the hash may have been lost again in between
        return totals

    async def _add(self, name: str, begun: Mapping[str, int], deltas: Mapping[str, int]) -> dict[str, int]:
        """Set fields that are missing, add to fields, and return all of them, in one round trip.

        No transaction: not every server, or user, has them, and each of these commands can stand for itself.
        """
        own = value_name(name)
        refusal = self._commands.refused("HINCRBY") if deltas else None
        if refusal is not None:
            raise refusal
        async with self._pool.pipeline(transaction=False) as pipeline:
            for field, total in begun.items():
                pipeline.hsetnx(own, field, total)
            for field, delta in deltas.items():
                pipeline.hincrby(own, field, delta)
            pipeline.hgetall(own)
            *replies, fields = await pipeline.execute(raise_on_error=False)  # a damaged field must not cost the others
        restored = dict(zip(begun, replies, strict=False))
        added = dict(zip(deltas, replies[len(begun) :], strict=True))
        if any(_begins(reply, "WRONGTYPE") for reply in (*replies, fields)):  # begin again
            await self._remove(own)
            return await self._add(name, begun, deltas)
        self._check_added(list(added.values()))
        for reply in restored.values():
            self._note("HSETNX", reply)
        self._note("HGETALL", fields)
        totals = _numbers(fields) if not isinstance(fields, ResponseError) else _replies(added)
        return {field: begun[field] for field, reply in restored.items() if isinstance(reply, RedisError)} | totals

    def _check_added(self, replies: Sequence[Any]) -> None:
        """Raise an error where none was added. Where some were, the caller must not add those again."""
        failed = [reply for reply in replies if isinstance(reply, RedisError) and not _begins(reply, "hash value")]
        if failed and not any(isinstance(reply, int) for reply in replies):
            self._note("HINCRBY", failed[0])
            raise failed[0]

    def _note(self, name: str, reply: Any) -> None:
        """Take in the reply to a command, where that is a refusal. Raises errors of the connection."""
        if isinstance(reply, ResponseError):
            if is_refusal(reply):
                self._commands.note(name, reply)
        elif isinstance(reply, RedisError):
            raise reply

    async def _remove(self, own: str) -> None:
        await remove(self._pool, self._commands, own)


def _as_bytes(reply: object) -> bytes | None:
    """Return a reply that is a value or none; raise InvalidResponse for any other."""
    if reply is None or isinstance(reply, bytes):
        return reply
    raise InvalidResponse


def _begins(reply: Any, text: str) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith(text)


def _numbers(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    """Return the fields of a hash that are numbers."""
    numbers: dict[str, int] = {}
    for field, total in fields.items():
        with suppress(ValueError):
            numbers[field.decode()] = int(total)
    return numbers


def _replies(added: Mapping[str, Any]) -> dict[str, int]:
    """Return the totals that HINCRBY gave: all that is known without HGETALL."""
    return {field: total for field, total in added.items() if isinstance(total, int)}
