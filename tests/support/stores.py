"""What tests do with a store's entries, whichever store it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis
from redis.exceptions import ResponseError

from ollama_cache_proxy.core.store_ports import EntryStore, Page
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.support.servers import RedisServer


@asynccontextmanager
async def connected(server: RedisServer) -> AsyncIterator[Any]:
    """Open one connection of redis-py."""
    pool: Any = redis.ConnectionPool.from_url(server.url, protocol=2)
    connection = pool.make_connection()
    try:
        await connection.connect()
        yield connection
    finally:
        await connection.disconnect()
        await pool.aclose()


def key(number: int) -> str:
    return f"{number:064x}"


async def generation_of(store: EntryStore) -> str:
    """The current generation, which an entry is put under."""
    generation = (await store.get(key(0))).generation
    assert generation is not None
    return generation


async def fill(store: EntryStore, entries: dict[str, StoredResponse]) -> None:
    assert await store.put(list(entries.items()), await generation_of(store))


async def pages(store: EntryStore, limit: int) -> list[Page]:
    found: list[Page] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await store.page(cursor, limit)
        assert page is not None
        found.append(page)
        cursor = page.cursor
    return found


async def keys(store: EntryStore) -> list[str]:
    return sorted(entry.key for page in await pages(store, 100) for entry in page.entries)


async def fill_with_names(server: RedisServer, store: EntryStore, count: int, generation: str | None = None) -> None:
    """Write names of entries in Redis, in one go, without what an entry is made of: a look at one would remove it."""
    generation = generation or (await store.get_many(())).generation
    server.client().mset({f"ocp:1:e:{generation}:{key(number)}": b"x" for number in range(count)})


def calls(server: RedisServer, command: str) -> int:
    """How often the server was given a command."""
    return int(server.client().info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def patient(store: RedisStore) -> None:
    """Have lookups wait as long as a busy machine may take."""
    store.entries._guard.wait.begin(5.0)


def permit(server: RedisServer, user: str, *rules: str) -> None:
    """Change an access list. Where rules for channels (6.2) or subcommands (7.0) are not known, it is as near as it gets."""
    client: Any = server.client()
    try:
        client.execute_command("ACL", "SETUSER", user, *rules)
    except ResponseError:
        known = [rule.split("|")[0] for rule in rules if not rule.startswith("&")]
        client.execute_command("ACL", "SETUSER", user, *known)
