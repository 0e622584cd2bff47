"""Values in Redis that are no entries, and totals, which are hashes. A clear leaves them alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from redis.exceptions import InvalidResponse, RedisError, ResponseError

from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.key_layout import value_name
from ollama_cache_proxy.stores.redis.redis_client import RedisClient


class RedisValues:
    """See store_ports.ValueStore."""

    def __init__(self, client: RedisClient, guard: Guard) -> None:
        self._pool = client.pool
        self._guard = guard

    async def save(self, name: str, value: bytes) -> bool:
        """See store_ports.ValueStore."""
        return bool(await self._guard.write("save", lambda: self._pool.set(value_name(name), value)))

    async def load(self, name: str) -> bytes | None:
        """See store_ports.ValueStore."""
        return await self._guard.read("load", lambda: self._load(name), None)

    async def set_default(self, name: str, value: bytes) -> bytes | None:
        """See store_ports.ValueStore. Writes only where there is no value yet."""
        found = await self.load(name)
        return found if found is not None else await self._guard.write("save", lambda: self._set_default(name, value))

    async def _load(self, name: str) -> bytes | None:
        return _as_bytes(await self._pool.get(value_name(name)))

    async def _set_default(self, name: str, value: bytes) -> bytes | None:
        async with self._pool.pipeline() as pipeline:
            pipeline.set(value_name(name), value, nx=True).get(value_name(name))
            _, stored = await pipeline.execute()
        return _as_bytes(stored)

    async def add(self, name: str, deltas: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int] | None:
        """See store_ports.ValueStore. After a failure it may have been added, where only the reply was lost."""
        begun = {field: known[field] for field in deltas if field in known}
        totals = await self._guard.write("add", lambda: self._add(name, begun, deltas))
        if totals is None:
            return None
        lost = {field: total for field, total in known.items() if field not in totals}
        if lost:
            restored = await self._guard.write("add", lambda: self._add(name, lost, {})) or lost
            totals |= restored  # and not those alone: the hash may have been lost again in between
        return totals

    async def _add(self, name: str, begun: Mapping[str, int], deltas: Mapping[str, int]) -> dict[str, int]:
        """Set fields that are missing, add to fields, and return all of them, in one transaction."""
        own = value_name(name)
        async with self._pool.pipeline() as pipeline:
            for field, total in begun.items():
                pipeline.hsetnx(own, field, total)
            for field, delta in deltas.items():
                pipeline.hincrby(own, field, delta)
            pipeline.hgetall(own)
            *_, fields = await pipeline.execute(raise_on_error=False)  # one damaged field must not cost the others
        if isinstance(fields, ResponseError):  # of another type: begin again
            await self._pool.unlink(own)
            return await self._add(name, begun, deltas)
        if isinstance(fields, RedisError):
            raise fields
        totals: dict[str, int] = {}
        for field, total in fields.items():
            with suppress(ValueError):
                totals[field.decode()] = int(total)
        return totals


def _as_bytes(reply: object) -> bytes | None:
    """Return a reply that is a value or none; raise InvalidResponse for any other."""
    if reply is None or isinstance(reply, bytes):
        return reply
    raise InvalidResponse
