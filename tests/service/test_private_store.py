"""Which private server is started, what the log says of it, and what happens while it loads what was kept."""

from __future__ import annotations

import io
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from ollama_cache_proxy.core.store_ports import StoreState
from ollama_cache_proxy.service import private_store
from ollama_cache_proxy.service.context import open_context
from ollama_cache_proxy.service.private_store import PrivateServer, open_private
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.service.store_choice import ChosenStore, open_store
from ollama_cache_proxy.stores.redis.kept_folder import KeptFolder
from ollama_cache_proxy.stores.redis.private_server import find_server
from tests.support.waiting import until

WELL = StoreState(answers=True, stores=True)


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets lie in a folder of the test's own, with a short name."""
    folder = tempfile.mkdtemp(prefix="ocp-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    yield
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def opened(path: str | Path, **settings: Any) -> AsyncIterator[tuple[ChosenStore, PrivateServer, io.StringIO]]:
    """A store before a private server that keeps in `path`, and the log."""
    stream = io.StringIO()
    given = load(None, {"store": "private", "keep": True, "store_dir": str(path), **settings})
    async with AsyncExitStack() as stack:
        context = open_context(given, stack.enter_context(bind("127.0.0.1:0")), stream, None)
        server = await open_private(given, stack, context.tasks, context.log)
        assert server is not None
        try:
            yield await open_store(context, stack, server), server, stream
        finally:
            await context.tasks.close(0)  # before the store, as in open_neighbours


def wrapped(monkeypatch: pytest.MonkeyPatch, path: Path, script: str) -> None:
    """Have the server run by a script, in which $SERVER is its program."""
    binary = find_server()
    assert binary is not None
    path.write_text(f"#!/bin/sh\nSERVER={shlex.quote(binary)}\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr(private_store, "find_server", lambda: str(path))


async def test_where_it_is_kept_is_said(tmp_path: Path) -> None:
    async with opened(tmp_path / "kept") as (_, server, log):
        assert server.folder == tmp_path / "kept"
        assert f", 512 MiB, kept in {tmp_path / 'kept'} from now on (--no-keep keeps nothing" in log.getvalue()
    async with opened(tmp_path / "kept", private_redis_bytes=str(8 << 20)) as (_, _, log):
        assert f", 8 MiB, kept in {tmp_path / 'kept'}\n" in log.getvalue()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/dev/null/kept", "/dev/null/kept cannot be used: Not a directory"),
        ("/sys/kept", "/sys/kept cannot be used: "),
        ("/etc/passwd", "/etc/passwd is not a folder"),
    ],
)
async def test_a_folder_that_cannot_be_used_is_one_line(path: str, told: str) -> None:
    async with opened(path) as (_, server, log):
        assert server.folder is None
        assert f"Nothing is kept over restarts (--no-keep silences this): {told}" in log.getvalue()
        assert "forgotten when the proxy ends" in log.getvalue()


async def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    async with opened("") as (_, server, log):
        assert server.folder is None
        assert "(--no-keep silences this): there is no home folder; --store-dir names another" in log.getvalue()


async def test_an_old_server_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = 'test "$1" = --version && echo "Redis server v=6.2.14 sha=0:0" && exit\nexec "$SERVER" "$@"'
    wrapped(monkeypatch, tmp_path / "old", old)
    async with opened(tmp_path / "kept") as (chosen, server, log):
        assert (server.folder, chosen.state()) == (None, WELL)
        assert f"(--no-keep silences this): {tmp_path / 'old'} is too old for it, or another program" in log.getvalue()
    assert not (tmp_path / "kept").exists()


async def test_what_was_kept_before_is_named_where_it_is_not_used(tmp_path: Path) -> None:
    async with opened(tmp_path / "kept"):
        pass
    async with opened(tmp_path / "kept", keep=False) as (_, server, log):
        assert server.folder is None
        assert f"What was kept before is still in {tmp_path / 'kept'}; it is not used" in log.getvalue()


async def test_while_it_loads_the_store_is_away_and_nothing_sounds_like_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "kept"):
        socket = KeptFolder(tmp_path / "kept").socket()
        client: Any = redis.Redis(unix_socket_path=str(socket))
        client.mset({f"ocp:1:value {number}": b"v" * 1000 for number in range(200)})
        client.close()
    slow = '"$SERVER" "$@" --key-load-delay 5000 --loading-process-events-interval-bytes 1024'
    wrapped(monkeypatch, tmp_path / "slow", f'test "$1" = --version && exec "$SERVER" --version\nexec {slow}')
    async with opened(tmp_path / "kept") as (chosen, _, log):
        assert chosen.state() == StoreState(answers=False, stores=False, reason="LOADING")
        assert (await chosen.entries.get("0" * 64)).generation is None
        await until(lambda: chosen.state() == WELL, 30)
        assert (await chosen.entries.get("0" * 64)).generation is not None
        assert "⏳ Redis loads what was kept; until then requests go to Ollama" in log.getvalue()
        assert "✅ Connected to Redis" in log.getvalue()
        assert "⚠️" not in log.getvalue()
