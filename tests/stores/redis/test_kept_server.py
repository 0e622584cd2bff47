"""The server that keeps its entries, as a real process: a full disk, a crash, files that were deleted under it."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis.kept_folder import FolderError, KeptFolder
from ollama_cache_proxy.stores.redis.kept_server import KeptRedis
from ollama_cache_proxy.stores.redis.private_server import find_server
from ollama_cache_proxy.stores.redis.server_process import until_accepts
from tests.support.waiting import until

GONE: Final = "it was deleted, or another is in its place"


class Running:
    """A server that has loaded, and what was said of it."""

    def __init__(self, kept: KeptRedis, said: list[str]) -> None:
        self.kept = kept
        self.said = said
        self.socket = Path(kept.url.removeprefix("unix://"))

    @property
    def client(self) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))

    async def loaded(self) -> None:
        async with asyncio.timeout(20):
            await until_accepts(self.socket)

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def server(self) -> int:
        return int(self.client.info("server")["process_id"])


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets lie in a folder of the test's own, with a short name."""
    folder = tempfile.mkdtemp(prefix="ocp-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    yield
    shutil.rmtree(folder)


@asynccontextmanager
async def running(path: Path, binary: str | None = None) -> AsyncIterator[Running]:
    tasks, said = Tasks(), []
    server = binary or find_server()
    assert server is not None
    kept = KeptRedis(server, KeptFolder.opened(path), capacity=64 << 20, stop_within=10, say=said.append, tasks=tasks)
    try:
        assert await kept.start()
        found = Running(kept, said)
        await found.loaded()
        yield found
    finally:
        await tasks.close(0)
        await kept.close()


def limited(path: Path, kilobytes: int) -> str:
    """Make a program that is the server, and that cannot write larger files: as on a full disk, writing fails."""
    binary = find_server()
    assert binary is not None
    path.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f {2 * kilobytes}\nexec {shlex.quote(binary)} \"$@\"\n")
    path.chmod(0o700)
    return str(path)


def write(client: Any, name: str) -> bool:
    """Write a value; give whether it was taken."""
    try:
        return bool(client.set(name, b"v" * 1000))
    except RedisError:
        return False


async def test_a_full_disk_ends_keeping_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path / "kept", limited(tmp_path / "server", 64)) as server:
        taken = 0
        while write(server.client, f"before {taken}"):
            taken += 1
            assert taken < 1000, "the limit does not work"
        assert taken > 10
        await until(lambda: server.said, 20)
        await until(lambda: not server.kept.folder.entries.exists(), 20)
        (line,) = server.said
        assert line.startswith(
            f"Nothing more is kept in {tmp_path / 'kept'}: the disk is full, or cannot be written to;"
        )
        assert all(write(server.client, f"after {number}") for number in range(200))
        assert server.client.exists("before 0"), "it is still known"
        server.kept.folder.raise_deletions(1)
    async with running(tmp_path / "kept") as server:
        assert not server.client.exists("before 0", "after 0")
        assert server.said == []


async def test_files_that_are_deleted_end_keeping(tmp_path: Path) -> None:
    async with running(tmp_path / "kept") as server:
        assert write(server.client, "a")
        shutil.rmtree(tmp_path / "kept")
        await until(lambda: server.said, 20)
        assert server.said == [f"Nothing more is kept in {tmp_path / 'kept'}: {GONE}"]
        assert write(server.client, "b")
        assert server.kept.folder.deletions() == 0
        os.kill(server.server(), signal.SIGKILL)
        await until(server.answers, 20)
        assert not server.client.exists("a", "b")


async def test_entries_that_are_deleted_end_keeping(tmp_path: Path) -> None:
    async with running(tmp_path / "kept") as server:
        shutil.rmtree(tmp_path / "kept" / "entries")
        await until(lambda: server.said, 20)
        assert server.said == [f"Nothing more is kept in {tmp_path / 'kept'}: the files were deleted"]


async def test_another_folder_in_its_place_is_not_touched(tmp_path: Path) -> None:
    async with running(tmp_path / "kept") as server:
        (tmp_path / "kept").rename(tmp_path / "moved")
        (tmp_path / "kept" / "entries").mkdir(parents=True)
        (tmp_path / "kept" / "entries" / "letter").write_text("dear")
        await until(lambda: server.said, 20)
        assert server.said == [f"Nothing more is kept in {tmp_path / 'kept'}: {GONE}"]
        os.kill(server.server(), signal.SIGKILL)
        await until(server.answers, 20)
    assert [path.name for path in (tmp_path / "kept").rglob("*")] == ["entries", "letter"]


async def test_who_shares_takes_over_where_the_folder_was_deleted(tmp_path: Path) -> None:
    async with AsyncExitStack() as first:
        before = await first.enter_async_context(running(tmp_path / "kept"))
        async with running(tmp_path / "kept") as after:
            assert (after.kept.shared, after.socket) == (True, before.socket)
            shutil.rmtree(tmp_path / "kept")
            async with running(tmp_path / "kept") as another:
                assert another.socket != before.socket, "of another folder, perhaps with the same inode"
                await first.aclose()
                await until(after.answers, 20)
                assert after.said[-1] == f"Nothing more is kept in {tmp_path / 'kept'}: {GONE}"
                assert another.said == []


async def test_a_folder_with_a_copied_claim_has_a_socket_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path / "kept") as server:
        shutil.copytree(tmp_path / "kept", tmp_path / "copied")
        async with running(tmp_path / "copied") as copied:
            assert copied.socket != server.socket
            assert write(copied.client, "a")
            assert not server.client.exists("a")


@pytest.mark.parametrize("name", ["server.lock", "entries"])
async def test_a_folder_that_cannot_be_used_is_said(name: str, tmp_path: Path) -> None:
    folder = KeptFolder.opened(tmp_path / "kept")
    (folder.path / name).symlink_to(tmp_path / "kept" / "proxy.lock")
    async with running(tmp_path / "kept") as server:
        (line,) = server.said
        assert line.startswith(f"Nothing more is kept in {tmp_path / 'kept'}: ")
        assert write(server.client, "a")


async def test_a_server_that_is_killed_is_started_again_with_what_it_knew(tmp_path: Path) -> None:
    async with running(tmp_path / "kept") as server:
        assert write(server.client, "a")
        before = server.server()
        await until(lambda: any(b"vvvv" in path.read_bytes() for path in tmp_path.glob("kept/entries/*")))
        os.kill(before, signal.SIGKILL)
        await until(server.answers, 20)
        assert server.server() != before
        assert server.client.exists("a")
        assert server.said == []


async def test_another_that_does_not_end_is_not_waited_for_for_good(tmp_path: Path) -> None:
    """Its files are left to it, and this server keeps nothing."""
    folder = KeptFolder.opened(tmp_path / "kept")
    lock = folder.server_lock()
    assert lock is not None
    tasks, said = Tasks(), []
    binary = find_server()
    assert binary is not None
    kept = KeptRedis(binary, folder, capacity=64 << 20, stop_within=0.2, say=said.append, tasks=tasks)
    try:
        assert await kept.start()
        await Running(kept, said).loaded()
        assert said == [f"Nothing more is kept in {folder.path}: another server still writes there"]
        assert not folder.entries.exists()
    finally:
        await tasks.close(0)
        await kept.close()


async def test_a_server_that_cannot_be_reached_is_not_shared(tmp_path: Path) -> None:
    folder = KeptFolder.opened(tmp_path / "kept")
    assert folder.claim() is not None
    with pytest.raises(FolderError, match="is used by another proxy, whose server cannot be reached from here"):
        async with running(tmp_path / "kept"):
            pass


async def test_a_program_that_is_no_server_is_none(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "server").chmod(0o700)
    with pytest.raises(AssertionError):
        async with running(tmp_path / "kept", str(tmp_path / "server")):
            pass
