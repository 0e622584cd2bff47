"""What was deleted, and what has expired, is in no file of a kept store a moment later."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis import scrubber
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from ollama_cache_proxy.stores.redis.scrubber import Scrubber
from tests.support.entries import FULL_ENTRY
from tests.support.kept_servers import KeptServer, files, kept_server
from tests.support.stores import calls, fill, generation_of, key, patient
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KeptServer]:
    with kept_server(tmp_path / "kept") as running:
        yield running


@pytest.fixture
async def store(server: KeptServer) -> AsyncIterator[RedisStore]:
    await server.check_deletions()
    async with server.store() as opened:
        patient(opened)
        yield opened


@pytest.fixture
async def pool(server: KeptServer) -> AsyncIterator[Any]:
    async with aclosing(RedisClient(redis_address(server.url)).pool) as opened:
        yield opened


@pytest.fixture
async def scrubs(pool: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scrubber]:
    """One that runs, and looks more often."""
    monkeypatch.setattr(scrubber, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(scrubber, "GATHERS", 0.01)
    tasks, running = Tasks(), Scrubber(pool)
    running.begin(tasks)
    yield running
    await tasks.close(0)


def planted(number: int) -> bytes:
    return b"planted %d." % number


def found(server: KeptServer, number: int) -> bool:
    """Whether a text lies in any file."""
    return any(planted(number) in content for content in files(server.folder).values())


async def plant(store: RedisStore, *numbers: int, lifetime: int = 3600) -> None:
    await fill(
        store.entries,
        {key(number): replace(FULL_ENTRY, body=planted(number), lifetime=lifetime) for number in numbers},
    )


async def idle(server: KeptServer) -> None:
    """Wait until the server writes no file anew."""
    await until(lambda: not server.client().info("persistence")["aof_rewrite_in_progress"])


async def test_what_was_deleted_is_in_no_file_soon_after(
    server: KeptServer, store: RedisStore, scrubs: Scrubber
) -> None:
    await plant(store, 1, 2, 3)
    assert all(found(server, number) for number in (1, 2, 3))
    assert await store.entries.delete((key(1),), await generation_of(store.entries)) == 1
    await until(lambda: not found(server, 1))
    assert found(server, 2)
    assert found(server, 3)
    assert await store.entries.purge(lambda about: about.key == key(2)) == 1
    await until(lambda: not found(server, 2))
    assert found(server, 3)
    assert await store.entries.clear() == 1
    await until(lambda: not found(server, 3))


async def test_what_a_process_that_was_killed_has_cleared_is_removed(
    server: KeptServer, store: RedisStore, scrubs: Scrubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(_: str) -> None:
        """End before the old generation is removed."""

    monkeypatch.setattr(store.entries, "_sweep", killed)
    await plant(store, 1)
    await store.entries.clear()
    await plant(store, 2)
    await until(lambda: not found(server, 1))
    assert found(server, 2)
    await until(lambda: server.client().dbsize() == 4)


async def test_what_has_expired_before_a_start_is_in_no_file_soon_after(
    server: KeptServer, store: RedisStore, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(scrubber, "GATHERS", 0.01)
    await plant(store, *range(100), lifetime=1)
    await plant(store, 200)
    server.client().bgrewriteaof()
    await idle(server)
    server.kill()
    await asyncio.sleep(1.1)
    server.start()
    await server.check_deletions()
    assert found(server, 1)
    tasks = Tasks()
    Scrubber(pool).begin(tasks)
    await until(lambda: not any(found(server, number) for number in range(100)))
    assert found(server, 200)
    await tasks.close(0)


async def test_what_is_not_scrubbed_yet_is_at_the_end(server: KeptServer, store: RedisStore, pool: Any) -> None:
    ends = Scrubber(pool)
    await plant(store, 1, 2)
    await store.entries.delete((key(1),), await generation_of(store.entries))
    await ends.close(10)
    assert not found(server, 1)
    assert found(server, 2)
    before = calls(server, "bgrewriteaof")
    await ends.close(10)
    assert calls(server, "bgrewriteaof") == before, "there was nothing more to do"


async def test_the_end_waits_no_longer_than_it_may(server: KeptServer, store: RedisStore, pool: Any) -> None:
    await plant(store, 1)
    await store.entries.clear()
    server.client().config_set("rdb-key-save-delay", 10_000_000)  # 10 s for each key
    async with asyncio.timeout(5):
        await Scrubber(pool).close(0.1)


async def test_one_that_was_begun_before_the_deletion_does_not_count(
    server: KeptServer, store: RedisStore, pool: Any
) -> None:
    await plant(store, 1)
    server.client().config_set("rdb-key-save-delay", 100_000)
    server.client().bgrewriteaof()
    await store.entries.clear()
    await Scrubber(pool).close(10)
    assert not found(server, 1)


async def test_a_server_that_keeps_nothing_any_more_writes_nothing(
    server: KeptServer, store: RedisStore, pool: Any
) -> None:
    server.client().config_set("appendonly", "no")
    await plant(store, 1)
    await store.entries.clear()
    await Scrubber(pool).close(10)
    assert calls(server, "bgrewriteaof") == 0


async def test_one_that_the_server_could_not_write_is_tried_again_after_a_while(
    server: KeptServer, store: RedisStore, scrubs: Scrubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "_RESTS_AFTER_FAILURE", 0.1)
    client = server.client()
    await until(lambda: calls(server, "bgrewriteaof"))
    await idle(server)
    await plant(store, 1, 2)
    client.config_set("rdb-key-save-delay", 10_000_000)
    generation = await generation_of(store.entries)
    await store.entries.delete((key(1),), generation)
    await until(lambda: client.info("persistence")["aof_rewrite_in_progress"])
    for child in server.children():
        os.kill(child, signal.SIGKILL)
    await until(lambda: client.info("persistence")["aof_last_bgrewrite_status"] == "err")
    assert found(server, 1)
    client.config_set("rdb-key-save-delay", 0)
    for child in server.children():
        os.kill(child, signal.SIGKILL)
    await until(lambda: not found(server, 1))
    assert found(server, 2)


async def test_a_failed_one_is_tried_again(server: KeptServer, store: RedisStore, scrubs: Scrubber) -> None:
    client: Any = server.client()
    client.execute_command("ACL", "SETUSER", "default", "-bgrewriteaof")
    await plant(store, 1)
    await store.entries.clear()
    await until(lambda: "cmdstat_bgrewriteaof" in client.info("commandstats") or _refused(client))
    assert found(server, 1)
    client.execute_command("ACL", "SETUSER", "default", "+bgrewriteaof")
    await until(lambda: not found(server, 1))


def _refused(client: Any) -> bool:
    return any(entry["object"] == "bgrewriteaof" for entry in client.acl_log())
