"""A primary with two replicas, and three Sentinels that watch them: real servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import redis

from tests.support import canary
from tests.support.servers import RedisServer

NAME: Final = "mymaster"
DOWN_AFTER: Final = 0.5
"""Seconds after which a Sentinel takes a server for gone."""
_REPLICATED_WITHIN: Final = 30.0
_CONFIGURATION: Final = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {primary} 2
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} {down_after}
sentinel failover-timeout {name} 3000
sentinel parallel-syncs {name} 2
"""


class _Sentinel(RedisServer):
    """A Sentinel, of the same program."""

    def __init__(self, primary: RedisServer, password: str) -> None:
        super().__init__()
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        file = Path(self._folder) / "sentinel.conf"
        values = {"name": NAME, "primary": primary.port, "down_after": int(1000 * DOWN_AFTER)}
        text = _CONFIGURATION.format(port=self.port, folder=self._folder, password=canary.PASSWORD, **values)
        own = f"requirepass {password}\nsentinel sentinel-pass {password}\n" if password else ""
        file.write_text(text + own)
        self._command = [self._command[0], str(file), "--sentinel"]


class Watched:
    """Servers and Sentinels; `url` leads to the primary of the moment."""

    def __init__(self, password: str = "") -> None:
        self.servers = [RedisServer("--masterauth", canary.PASSWORD) for _ in range(3)]
        self.sentinels: list[_Sentinel] = []
        self._password = password

    def start(self) -> Self:
        """Start all of them, and wait until the Sentinels know each other and both replicas."""
        first = self.servers[0]
        first.start()
        for replica in self.servers[1:]:
            replica.arguments = ["--replicaof", "127.0.0.1", str(first.port)]
            replica.start()
        self.sentinels = [_Sentinel(first, self._password) for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.start()
        return self

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        option = f"?sentinel_password={self._password}" if self._password else ""
        return f"redis+sentinel://:{canary.PASSWORD}@{hosts}/{NAME}/0{option}"

    async def ready(self) -> None:
        """Wait until every Sentinel knows the others and both replicas, which have all data."""

        def is_ready() -> bool:
            about = [self._about(sentinel) for sentinel in self.sentinels]
            known = all(
                told is not None and (told["num-slaves"], told["num-other-sentinels"]) == (2, 2) for told in about
            )
            links: list[Any] = [server.client().info("replication") for server in self.servers[1:]]
            return known and all(link["master_link_status"] == "up" for link in links)

        await _until(is_ready)

    def _about(self, sentinel: _Sentinel) -> dict[str, Any] | None:
        with suppress(redis.RedisError):
            client: Any = sentinel.client()
            told: dict[str, Any] = client.sentinel_master(NAME)
            return told
        return None

    def primary(self) -> RedisServer:
        """Return the server that most Sentinels name."""
        ports = [told["port"] for sentinel in self.sentinels if (told := self._about(sentinel)) is not None]
        named = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == named)

    async def another_than(self, server: RedisServer) -> RedisServer:
        """Wait until another server is the primary, and says so."""
        await _until(lambda: self.primary() is not server and _role(self.primary()) == "master")
        return self.primary()

    def part(self) -> None:
        """Let no replica have what is written from now on."""
        for server in self.servers:
            client: Any = server.client()
            client.config_set("masterauth", "another")
        primary: Any = self.primary().client()
        primary.client_kill_filter(_type="replica")

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()


def _role(server: RedisServer) -> str:
    with suppress(redis.RedisError):
        client: Any = server.client()
        return str(client.role()[0].decode())
    return ""


async def _until(condition: Callable[[], bool]) -> None:
    """Wait, with the questions in a thread: the proxy under test runs in this loop."""
    async with asyncio.timeout(_REPLICATED_WITHIN):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.05)
