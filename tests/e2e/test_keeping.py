"""A private store that is kept over restarts: real processes that end in every way, and folders of every kind."""

from __future__ import annotations

import asyncio
import signal
import stat
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.keeping import EMBED, Place, descendants, place_of_a_person
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # the proxy is a process of its own


@pytest.fixture
def place(simulator: Simulator, tmp_path: Path) -> Iterator[Place]:
    with place_of_a_person(simulator.url, tmp_path) as own:
        yield own


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*") if not path.is_dir()}


# How a proxy ends.


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "both are killed"])
async def test_what_was_known_is_known_again(how: str, workers: str, place: Place, simulator: Simulator) -> None:
    texts = [f"{canary.PROMPT} {number}" for number in range(20)]
    async with place.serve("--workers", workers) as before:
        assert await before.ask(*texts) == ["MISS"] * 20
        await before.hits(*texts)
        await (before.kill_all() if how == "both are killed" else before.end(signal.Signals[how.replace(" ", "")]))
    asked = len([request for request in simulator.received if request.target == EMBED])
    async with place.serve("--workers", workers) as after:
        await after.hits(*texts)
        assert await after.command.line(lambda line: "20 entries from before are known" in line)
        assert not after.said("Lost", "⚠️")
        await after.end()
    again = len([request for request in simulator.received if request.target == EMBED]) - asked
    assert again == 0 or how == "SIGKILL", "the server of a proxy that is killed may still be ending"


async def test_nobody_else_can_read_it_and_the_first_start_says_where(place: Place) -> None:
    async with place.serve() as first:
        await first.ask("a")
        (line,) = first.said("Store:")
        assert f"kept in {place.folder} from now on (--no-keep keeps nothing" in line
        assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
        assert modes(place.folder) == {0o600}
        assert all(not path.stat().st_mode & 0o077 for path in place.temporary.rglob("*"))
        await first.end()
    async with place.serve() as second:
        (line,) = second.said("Store:")
        assert line.endswith(f"512 MiB, kept in {place.folder}")


async def test_a_reload_does_not_end_the_server(place: Place) -> None:
    async with place.serve() as serving:
        await serving.ask("a")
        before = descendants(serving.command.process.pid)
        serving.command.process.send_signal(signal.SIGHUP)
        await serving.command.line(lambda line: "Reloaded" in line)
        assert descendants(serving.command.process.pid) == before
        assert await serving.ask("a") == ["HIT"]


# Two proxies.


async def test_a_second_proxy_shares_the_server_and_takes_its_place(place: Place) -> None:
    async with place.serve() as first, place.serve(OCP_PRIVATE_REDIS_BYTES=str(64 << 20)) as second:
        (line,) = second.said("Store:")
        assert line.endswith(f"512 MiB, kept in {place.folder} together with another proxy, whose size limit holds")
        assert await first.ask("a") == ["MISS"]
        await second.hits("a")
        await first.end()
        answers = []
        async with asyncio.timeout(20):
            while not answers or answers[-1] != "HIT" or not second.said("this one starts the store now"):
                answers += await second.ask("a")
        assert set(answers) <= {"HIT", "MISS"}
        async with place.serve() as third:
            await third.hits("a")
            assert "64 MiB" in third.said("Store:")[0]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_of_many_that_start_at_once_one_starts_the_server(how: signal.Signals, place: Place) -> None:
    async with AsyncExitStack() as stack:
        many = await asyncio.gather(*(stack.enter_async_context(place.serve()) for _ in range(3)))
        assert sum(bool(each.said("together with another proxy")) for each in many) == 2
        await many[0].ask("a")
        for each in many:
            await each.hits("a")
        left = list(many)
        while len(left) > 1:
            await left.pop(0).end(how)
            for each in left:
                await each.hits("a")
                assert not each.said("Traceback", "failed")


# Not kept.


async def test_no_keep_leaves_no_file_and_says_what_is_left(place: Place) -> None:
    async with place.serve("--no-keep") as serving:
        assert await serving.ask("a") == ["MISS"]
        assert "forgotten when the proxy ends" in serving.said("Store:")[0]
        await serving.end()
    assert not place.folder.parent.exists()
    assert list(place.temporary.iterdir()) == []
    async with place.serve() as serving:
        await serving.ask("a")
        await serving.end()
    async with place.serve(OCP_KEEP="false") as serving:
        assert await serving.ask("a") == ["MISS"]
        assert f"What was kept before is still in {place.folder}; it is not used" in serving.said("before")[0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("letter.txt", "dear", "{folder} holds files that are not the proxy's"),
        ("store.json", '{"name": "ollama-cache-proxy", "format": 99}', "{folder} is of another version of the proxy"),
    ],
)
async def test_a_foreign_folder_is_left_alone(name: str, content: str, told: str, place: Place) -> None:
    place.folder.mkdir(parents=True)
    (place.folder / name).write_text(content)
    async with place.serve() as serving:
        assert await serving.ask("a", "a") == ["MISS", "HIT"]
        (line,) = serving.said("Nothing is kept")
        assert line.endswith(
            "Nothing is kept over restarts (--no-keep silences this): " + told.format(folder=place.folder)
        )
        assert "forgotten when the proxy ends" in serving.said("Store:")[0]
        await serving.end()
    assert [(path.name, path.read_text()) for path in place.folder.iterdir()] == [(name, content)]


async def test_a_folder_that_cannot_be_made_is_one_line(place: Place) -> None:
    place.folder.parent.write_text("a file")
    async with place.serve() as serving:
        assert await serving.ask("a", "a") == ["MISS", "HIT"]
        (line,) = serving.said("Nothing is kept")
        assert line.endswith(f"{place.folder} cannot be used: Not a directory")


# What cannot be loaded.


async def test_what_cannot_be_loaded_is_deleted_and_said_once(place: Place) -> None:
    async with place.serve() as serving:
        await serving.ask("a", "b")
        await serving.end()
    (base,) = place.folder.glob("entries/*.base.rdb")
    base.write_bytes(b"not a file of the server's")
    async with place.serve() as serving:
        await serving.ask("c")
        await serving.hits("c")
        (line,) = serving.said("could not be loaded")
        assert line.endswith(f"What was kept in {place.folder} could not be loaded, and is deleted")
        assert await serving.ask("a") == ["MISS"]
        await serving.end()
    assert sorted(path.name for path in place.folder.iterdir()) == [
        *("CACHEDIR.TAG", "entries", "proxy.lock", "server.lock", "store.json")
    ]
    async with place.serve() as serving:
        await serving.hits("a", "c")
        assert not serving.said("deleted", "Nothing")


async def test_a_damaged_number_of_deletions_costs_what_was_kept(place: Place) -> None:
    async with place.serve() as serving:
        await serving.ask("a")
        await serving.end()
    (place.folder / "store.json").write_bytes(b'{"name": "ollama-c')
    async with place.serve() as serving:
        assert await serving.ask("a") == ["MISS"]
        (line,) = serving.said("is deleted")
        assert "store.json is damaged, so that what was kept there is deleted: it may have been cleared" in line


async def test_the_end_of_a_file_that_was_cut_off_costs_no_more_than_that(place: Place) -> None:
    async with place.serve() as serving:
        await until(lambda: list(place.folder.glob("entries/*.2.base.rdb")))  # what each start has written anew
        await serving.ask("a", "b", "c")
        await serving.hits("a", "b", "c")
        await serving.kill_all()
    (written,) = place.folder.glob("entries/*.incr.aof")
    with written.open("rb+") as file:
        file.truncate(written.stat().st_size - 1)
    async with place.serve() as serving:
        await serving.hits("a")
        assert not serving.said("deleted", "Nothing")


async def test_what_a_killed_server_left_is_deleted(place: Place) -> None:
    async with place.serve() as serving:
        await serving.ask("a")
        await serving.end()
    left = [
        place.folder / "temp-rewriteaof-bg-1.aof",
        place.folder / "entries.old",
        place.folder / "entries" / "entries.aof.9.incr.aof",
        place.folder / "entries" / "temp-entries.aof.manifest",
    ]
    for path in left:
        path.write_bytes(b"cleared since")
    async with place.serve() as serving:
        await serving.hits("a")
        assert not [path for path in left if path.exists()]
