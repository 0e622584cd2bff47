"""A server that keeps what it holds in a folder of ours, as a private one does, for tests that kill it and cut its files."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from redis.exceptions import BusyLoadingError

from ollama_cache_proxy.core.facts import Event
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.stores.codecs import Codec, PlainCodec
from ollama_cache_proxy.stores.redis.deletions import check_deletions
from ollama_cache_proxy.stores.redis.kept_folder import KeptFolder
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.support.servers import RedisServer


class KeptServer(RedisServer):
    """A server that appends to files in `folder`."""

    def __init__(self, folder: KeptFolder) -> None:
        keeps = ("--appendonly", "yes", "--appendfsync", "everysec", "--rdbcompression", "no")
        super().__init__(*keeps, "--dir", str(folder.entries))
        self.folder = folder
        folder.entries.mkdir(exist_ok=True)

    def children(self) -> list[int]:
        """Give the processes that write its files anew."""
        assert self._process is not None
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def listens(self) -> bool:
        """Wait until it listens; return whether it does, or ends because of its files."""
        assert self._process is not None
        while self._process.poll() is None:
            with suppress(ConnectionError), socket.create_connection(("127.0.0.1", self.port), 5):
                return True
            await asyncio.sleep(0.002)
        return False

    async def check_deletions(self) -> bool:
        """Do what the proxy does before anybody sees the server."""
        client = RedisClient(redis_address(self.url))
        try:
            while True:
                with suppress(BusyLoadingError):
                    return await check_deletions(client.pool, self.folder)
                await asyncio.sleep(0.002)
        finally:
            await client.close()

    @asynccontextmanager
    async def store(self, codec: Codec | None = None) -> AsyncIterator[RedisStore]:
        """Open it as a store."""
        client, tasks = RedisClient(redis_address(self.url)), Tasks()
        try:
            yield RedisStore(
                client,
                name="kept",
                clock=SystemClock(),
                observe=_ignore,
                tasks=tasks,
                codec=codec or PlainCodec(),
                folder=self.folder,
            )
        finally:
            await tasks.close(5)
            await client.close()


@contextmanager
def kept_server(path: Path) -> Iterator[KeptServer]:
    """Run one."""
    server = KeptServer(KeptFolder.opened(path))
    server.start()
    try:
        yield server
    finally:
        server.close()


def files(folder: KeptFolder) -> dict[str, bytes]:
    """Give the bytes of every file of a folder, by its path in it."""
    found = (path for path in folder.path.rglob("*") if path.is_file())
    read: dict[str, bytes] = {}
    for path in found:
        with suppress(FileNotFoundError):  # the server has just removed it
            read[str(path.relative_to(folder.path))] = path.read_bytes()
    return read


def restore(folder: KeptFolder, kept: dict[str, bytes]) -> None:
    """Make the files of a folder what they were when `files` gave them."""
    there = files(folder)
    for name in there.keys() - kept.keys():
        (folder.path / name).unlink()
    for name, content in kept.items():
        if there.get(name) != content:
            (folder.path / name).write_bytes(content)


def _ignore(_: Event) -> None:
    """Take in a fact."""
