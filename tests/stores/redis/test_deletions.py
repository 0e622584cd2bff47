"""Deletions in a store that is kept: numbered before they are answered, and never undone by what a server loads."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.core.store_ports import EntryStore
from ollama_cache_proxy.stores.redis.deletions import KeptEntries
from ollama_cache_proxy.stores.redis.kept_folder import KeptFolder, UnknownDeletionsError
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.support.entries import FULL_ENTRY
from tests.support.kept_servers import KeptServer, files, kept_server, restore
from tests.support.stores import fill, generation_of, key, patient
from tests.support.waiting import until

Delete: TypeAlias = Callable[[EntryStore], Awaitable[object]]


async def clear(store: EntryStore) -> object:
    return await store.clear()


async def purge(store: EntryStore) -> object:
    return await store.purge(lambda about: about.key == key(1))


async def delete(store: EntryStore) -> object:
    return await store.delete((key(1),), await generation_of(store))


WAYS: Final = (clear, purge, delete)
ways = pytest.mark.parametrize("way", WAYS)


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


async def known(server: KeptServer) -> list[int]:
    """Give which of the entries 1 to 3 are found, by whoever looks now."""
    async with server.store() as opened:
        patient(opened)
        found = await opened.entries.get_many([key(number) for number in (1, 2, 3)])
    return [number for number, entry in zip((1, 2, 3), found.entries, strict=True) if entry is not None]


@ways
async def test_a_deletion_has_its_number_on_the_disk_when_it_is_answered(
    way: Delete, server: KeptServer, store: RedisStore
) -> None:
    assert isinstance(store.entries, KeptEntries)
    await fill(store.entries, {key(number): FULL_ENTRY for number in (1, 2, 3)})
    assert server.folder.deletions() == 0
    assert await way(store.entries) in (1, 3)
    assert server.folder.deletions() == 1
    assert await way(store.entries) == 0
    assert server.folder.deletions() == 2, "what is gone may still be in a file"


@ways
async def test_what_was_deleted_does_not_come_back_from_the_files_of_before(
    way: Delete, server: KeptServer, store: RedisStore, tmp_path: Path
) -> None:
    await fill(store.entries, {key(number): FULL_ENTRY for number in (1, 2, 3)})
    server.kill()
    shutil.copytree(server.folder.entries, tmp_path / "before")
    server.start()
    assert not await server.check_deletions()
    assert await known(server) == [1, 2, 3]
    async with server.store() as opened:
        patient(opened)
        assert await way(opened.entries) is not None
    left = await known(server)
    assert 1 not in left
    server.kill()
    server.start()
    assert not await server.check_deletions()
    assert await known(server) == left
    server.kill()
    shutil.rmtree(server.folder.entries)
    shutil.copytree(tmp_path / "before", server.folder.entries)
    server.start()
    assert await server.check_deletions()
    assert await known(server) == []
    async with server.store() as opened:
        patient(opened)
        await fill(opened.entries, {key(1): FULL_ENTRY})
    server.kill()
    server.start()
    assert not await server.check_deletions(), "the count goes on from the number in the folder"
    assert await known(server) == [1]


async def test_deletions_are_numbered_anew_above_a_count_that_was_lost(server: KeptServer, store: RedisStore) -> None:
    for _ in range(3):
        await store.entries.clear()
    server.client().delete("ocp:1:deletions")
    await store.entries.clear()
    assert server.folder.deletions() == 4
    assert server.client().get("ocp:1:deletions") == b"4"


@ways
async def test_a_deletion_that_a_restart_may_have_undone_is_not_answered(
    way: Delete, server: KeptServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = KeptFolder.raise_deletions

    def meanwhile(folder: KeptFolder, number: int) -> None:
        server.client().set("ocp:1:start", "another")
        raised(folder, number)

    monkeypatch.setattr(KeptFolder, "raise_deletions", meanwhile)
    await fill(store.entries, {key(1): FULL_ENTRY})
    assert await way(store.entries) is None


@ways
async def test_a_deletion_whose_number_cannot_be_written_is_not_answered(
    way: Delete, server: KeptServer, store: RedisStore
) -> None:
    await fill(store.entries, {key(1): FULL_ENTRY})
    (server.folder.path / "store.json").unlink()
    assert await way(store.entries) is None


@ways
async def test_where_nothing_is_kept_any_more_a_deletion_needs_no_number_on_the_disk(
    way: Delete, server: KeptServer, store: RedisStore
) -> None:
    await fill(store.entries, {key(1): FULL_ENTRY})
    (server.folder.path / "store.json").unlink()
    server.client().config_set("appendonly", "no")
    assert await way(store.entries) is None, "what is in the files could still come back"
    await fill(store.entries, {key(1): FULL_ENTRY})
    server.folder.drop()
    assert await way(store.entries) == 1


@ways
async def test_a_deletion_that_the_server_does_not_number_is_not_answered(
    way: Delete, server: KeptServer, store: RedisStore
) -> None:
    await fill(store.entries, {key(1): FULL_ENTRY})
    server.client().delete("ocp:1:deletions")
    server.client().rpush("ocp:1:deletions", "no number")
    assert await way(store.entries) is None


async def test_what_was_asked_before_a_clear_is_not_written(server: KeptServer, store: RedisStore) -> None:
    before = await generation_of(store.entries)
    async with server.store() as another:
        patient(another)
        assert await generation_of(another.entries) == before
        await another.entries.clear()
        store.entries.doubt()  # as the hot tier has it do, when it hears of the clear
        assert await store.entries.put([(key(1), FULL_ENTRY)], before)
        assert await another.entries.put([(key(2), FULL_ENTRY)], before)
        assert await another.entries.put([(key(3), FULL_ENTRY)], await generation_of(another.entries))
    assert [name.decode()[-1:] for name in server.client().scan_iter("ocp:1:e:*")] == ["3"]


@pytest.mark.parametrize("found", [None, b"no number", b"-1", b"9223372036854775807", ["a list"]])
async def test_a_number_that_is_none_is_smaller_than_any(
    found: bytes | list[str] | None, server: KeptServer, store: RedisStore
) -> None:
    await store.entries.clear()
    await fill(store.entries, {key(1): FULL_ENTRY})
    client = server.client()
    client.delete("ocp:1:deletions")
    if isinstance(found, bytes):
        client.set("ocp:1:deletions", found)
    elif found is not None:
        client.rpush("ocp:1:deletions", *found)
    assert await server.check_deletions()
    assert await known(server) == []
    assert client.get("ocp:1:deletions") == b"1"


async def test_deletions_at_once_have_numbers_of_their_own(server: KeptServer, store: RedisStore) -> None:
    await fill(store.entries, {key(number): FULL_ENTRY for number in range(20)})
    generation = await generation_of(store.entries)
    gone = await asyncio.gather(*(store.entries.delete((key(number),), generation) for number in range(20)))
    assert gone == [1] * 20
    assert server.folder.deletions() == 20


async def test_without_a_number_on_the_disk_nothing_is_served(server: KeptServer, store: RedisStore) -> None:
    await store.entries.clear()
    await fill(store.entries, {key(1): FULL_ENTRY})
    (server.folder.path / "store.json").unlink()
    assert await server.check_deletions()
    assert await known(server) == []
    assert server.client().get("ocp:1:deletions") == b"1"


DRAWS: Final = 200
"""Places at which each file is cut."""
AT_ONCE: Final = 4
"""Servers that load cut files at once."""


@pytest.mark.timeout(120)
async def test_nothing_cleared_is_served_from_files_that_are_cut_anywhere(
    server: KeptServer, store: RedisStore, tmp_path: Path
) -> None:
    """Every file of the folder at DRAWS places each, by seed. Where it does not start, the proxy starts empty."""
    await fill(store.entries, {key(number): FULL_ENTRY for number in (1, 2, 3)})
    assert await purge(store.entries) == 1
    server.client().bgrewriteaof()
    await until(lambda: not server.client().info("persistence")["aof_rewrite_in_progress"])
    await fill(store.entries, {key(1): FULL_ENTRY})
    assert await delete(store.entries) == 1
    server.kill()
    whole = files(server.folder)
    del whole["CACHEDIR.TAG"]  # it is for others than the proxy
    draw = Random(51)
    cuts = [(name, at) for name in whole for at in {draw.randrange(len(whole[name])) for _ in range(DRAWS)}]
    served = {"as before": 0, "less": 0, "not at all": 0}

    async def cut(own: KeptServer) -> None:
        while cuts:
            name, at = cuts.pop()
            restore(own.folder, whole | {name: whole[name][:at]})
            found = await _found(own)
            assert found is None or set(found) <= {2, 3}, (name, at)
            served["not at all" if found is None else "as before" if found == [2, 3] else "less"] += 1

    with ExitStack() as stack:  # a start is mostly waiting
        others = [stack.enter_context(kept_server(tmp_path / f"{number}")) for number in range(AT_ONCE - 1)]
        for other in others:
            other.kill()
        await asyncio.gather(*map(cut, (server, *others)))
    assert all(served.values()), served


async def _found(server: KeptServer) -> list[int] | None:
    """Give what is found after a start on the files of now; None where nothing is loaded."""
    try:
        server.folder.deletions()
    except UnknownDeletionsError:
        return None
    server.start(wait=False)
    try:
        if await server.listens():
            with suppress(RedisConnectionError):
                await server.check_deletions()
                return await known(server)
        return None
    finally:
        server.kill()
