"""Real neighbours for tests: a Redis or Valkey process, and a proxy in this process."""

from __future__ import annotations

import asyncio
import io
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis

from ollama_cache_proxy.service.app import Running, running
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.stores.redis.private_server import find_server
from tests.support import canary
from tests.support.rawhttp import ask
from tests.support.waiting import until

STARTS_WITHIN = 10.0


PORTS = range(20_000, 32_000)
"""Below those that Linux and macOS give to whoever asks for any: no other process gets one of these by chance."""


def free_port() -> int:
    """Give a port of loopback that nobody listens on at the moment, and that nobody gets without asking for it."""
    chance = random.SystemRandom()
    while True:
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", chance.choice(PORTS)))
            return int(sock.getsockname()[1])


_WATCH = 'cat >/dev/null; kill -9 "$1"'
"""Ends a server when the tests end in a way in which they cannot: its input is a pipe that only they hold open."""


class RedisServer:
    """A redis-server or valkey-server of the tests' own on loopback, that can be stopped, killed and started again."""

    program: ClassVar[str | None] = None
    """The server's program; None for the one that the proxy would choose. Set by `pytest --redis-server`."""

    def __init__(self, *arguments: str) -> None:
        binary = self.program or find_server()
        assert binary is not None, "the tests need the `server` extra, or a redis-server on the PATH"
        self.port = free_port()
        self.url = f"redis://:{canary.PASSWORD}@127.0.0.1:{self.port}/0"
        self.name = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.mkdtemp(prefix="ocp-test-")
        self.arguments: list[str] = []
        """What a later start adds to the command line."""
        self._command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._command += ["--requirepass", canary.PASSWORD, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        self._process = subprocess.Popen([*self._command, *self.arguments], cwd=self._folder, stdout=subprocess.DEVNULL)
        watch = ("/bin/sh", "-c", _WATCH, "watch", str(self._process.pid))
        self._end_watch()
        self._watch = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + STARTS_WITHIN
        while wait and time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.client().ping()
            except (redis.ConnectionError, redis.ResponseError):
                time.sleep(0.01)
            else:
                return
        assert not wait, "the server did not start"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5, protocol=2)  # also to a server without HELLO

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._process is not None
        self._end_watch()
        self._process.kill()
        self._process.wait()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._end_watch()
        shutil.rmtree(self._folder, ignore_errors=True)


def cluster_node() -> RedisServer:
    """Start the only node of a cluster, with all slots.

    Its bus is at its port + 10,000, which may be too large, or another connection's: then another port is tried.
    """
    for _ in range(20):
        node = RedisServer("--cluster-enabled", "yes")
        with suppress(AssertionError):
            node.start()
            break
        node.close()
    client: Any = node.client()
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    ends = time.monotonic() + STARTS_WITHIN
    while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
        if time.monotonic() > ends:
            node.close()
            pytest.fail("the cluster did not form")
        time.sleep(0.05)
    return node


@dataclass(slots=True)
class Proxy:
    """A proxy in this process; `log` holds its lines."""

    running: Running
    log: io.StringIO

    @property
    def url(self) -> str:
        return self.running.url

    async def kept(self) -> None:
        """Wait until what was answered has been kept, which comes after the answer."""
        await until(lambda: not self.running.exchanges._collapsing._flights._groups)


@asynccontextmanager
async def proxy_before(
    upstream: str, *, nvml: Callable[[], Any] | None = None, **settings: Any
) -> AsyncIterator[Proxy]:
    """Run a proxy in front of `upstream`; with the memory store unless `settings` say otherwise.

    Nothing that it wrote, and nothing of its metrics and statistics at the end, may hold a secret of canary.py.
    """
    settings.setdefault("store", "redis" if "redis_url" in settings else "memory")
    settings.setdefault("listen", "127.0.0.1:0")
    settings.setdefault("drain_timeout", 5)
    settings.setdefault("development", True)
    settings.setdefault("admin_token", canary.TOKEN)
    settings.setdefault("upstream_authorization", f"Bearer {canary.CREDENTIAL}")
    loaded = load(None, {"upstream": upstream, **settings})
    log = io.StringIO()
    with bind(loaded.listen) as sock:
        async with running(loaded, sock, stream=log, nvml=nvml) as proxy:
            yield Proxy(proxy, log)
            for path in ("/metrics", "/api/cache/stats", "/api/cache/system"):
                with suppress(OSError, asyncio.IncompleteReadError):  # the test may have ended or filled its listener
                    canary.check((await ask(proxy.url, "GET", path)).body.decode(), path)
    canary.check(log.getvalue(), "the log")


def data(name: str) -> Path:
    """Give the path of a file of the tests' data."""
    return Path(__file__).parents[1] / "data" / name
