"""The measured servers, each a process on the first core; what they need runs on the other core."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from benchmarks.speed.questions import TAGS, VERSION, answer
from ollama_cache_proxy.stores.redis.private_server import find_server
from tests.support.servers import free_port

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
BOTH_CORES: Final = f"{SERVER_CORE},{LOAD_CORE}"
_START_DEADLINE: Final = 20.0
"""Seconds for a server to accept connections."""

_COMMON: Final = """
{user}
worker_processes 1;
error_log /dev/null crit;
pid {folder}/pid;
daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000;
  client_max_body_size 64m; client_body_buffer_size 1m;
  {more}
}}
"""
_STUB: Final = """
  default_type "application/json; charset=utf-8";
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location /api/tags {{ return 200 '{tags}'; }}
    location /api/version {{ return 200 '{version}'; }}
    {others}
    location / {{ return 200 '{answer}'; }}
  }}
"""
_CACHE: Final = """
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=kept:64m max_size=4g inactive=60m;
  upstream ollama {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://ollama;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      {cache}
    }}
  }}
"""
_CACHED: Final = """
      proxy_cache kept; proxy_cache_methods POST; proxy_cache_valid 200 1h;
      proxy_cache_key "$request_uri|$request_body";
      add_header X-Cache $upstream_cache_status;
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running server; `pid` is the process that serves, `path` what wrk asks for."""

    name: str
    url: str
    pid: int
    path: str = "/api/generate"


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def child(pid: int) -> int:
    """Return the first child of a process: of nginx, which taskset execs, that is its worker."""
    while not (found := children(pid)):  # noqa: ASYNC110 - nginx listens before it starts its worker
        await asyncio.sleep(0.01)
    return found[0]


def nginx_program() -> str:
    """Return the path of nginx, which Debian keeps out of the PATH of users."""
    return shutil.which("nginx") or "/usr/sbin/nginx"


def nginx_version() -> str:
    """Return the version of nginx."""
    said = subprocess.run([nginx_program(), "-v"], capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return said.stderr.rpartition("/")[2].strip()


@asynccontextmanager
async def process(
    core: int | str,
    *command: str,
    environment: Mapping[str, str] | None = None,
    log: int = asyncio.subprocess.DEVNULL,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command on one core, or on some (`0,1`), until the block ends; its log goes to the file `log`."""
    running = await asyncio.create_subprocess_exec(
        *("taskset", "-c", str(core), *command),
        env={**os.environ, "OCP_KEEP": "false", **(environment or {})},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=log,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()


async def listens(port: int) -> None:
    """Wait until something listens on a port."""
    async with asyncio.timeout(_START_DEADLINE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


class Subjects:
    """Starts servers, which end with this context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = AsyncExitStack()
        self.store = ""
        self.upstream = ""
        self.helpers: list[int] = []
        """The processes of store and upstream."""

    async def __aenter__(self) -> Self:
        """Return self; no server runs yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all servers."""
        await self.stack.aclose()

    async def redis(self, *options: str) -> str:
        """Start a Redis or Valkey beside the load, and return its URL."""
        binary = find_server()
        assert binary is not None
        port = free_port()
        command = (binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options)
        running = await self.stack.enter_async_context(process(LOAD_CORE, *command))
        await listens(port)
        self.helpers.append(running.pid)
        self.store = f"redis://127.0.0.1:{port}/0"
        return self.store

    async def nginx(self, name: str, core: int, more: str, **values: str) -> Subject:
        """Start an nginx with `more` in its http block."""
        port = free_port()
        folder = self.folder / f"{name}-{port}"
        folder.mkdir(parents=True)
        file = folder / "nginx.conf"
        filled = more.format(folder=folder, port=port, **values)
        user = "user root;" if os.geteuid() == 0 else ""  # its default user may not write here
        file.write_text(_COMMON.format(folder=folder, more=filled, user=user))
        binary = nginx_program()
        running = await self.stack.enter_async_context(process(core, binary, "-p", str(folder), "-c", str(file)))
        await listens(port)
        return Subject(name, f"http://127.0.0.1:{port}", await child(running.pid))

    async def stub(self, others: Mapping[str, str] | None = None) -> str:
        """Start an upstream that responds immediately, and return its URL; `others` are responses by path."""
        more = "\n    ".join(f"location {path} {{ return 200 '{body}'; }}" for path, body in (others or {}).items())
        values = {"tags": TAGS.decode(), "version": VERSION.decode(), "answer": answer().decode(), "others": more}
        subject = await self.nginx("stub", LOAD_CORE, _STUB, **values)
        self.helpers.append(subject.pid)
        self.upstream = subject.url
        return self.upstream

    async def nginx_cache(self, upstream: str = "", *, logged: bool = False) -> Subject:
        """Start nginx with a cache keyed on the body; `logged`: with an access log in a file."""
        upstream = (upstream or self.upstream).removeprefix("http://")
        cache = _CACHED + ("access_log {folder}/access.log;" if logged else "")
        return await self.nginx("nginx", SERVER_CORE, _CACHE.replace("{cache}", cache), upstream=upstream)

    async def nginx_pass(self, upstream: str) -> Subject:
        """Start nginx as a plain reverse proxy without buffering."""
        more = _CACHE.replace("{cache}", "proxy_buffering off;")
        return await self.nginx("nginx", SERVER_CORE, more, upstream=upstream.removeprefix("http://"))

    async def _read_pipe(self) -> int:
        """Return the end of a pipe whose other end is read beside the load."""
        read, written = os.pipe()
        self.stack.callback(os.close, written)
        command = ("taskset", "-c", str(LOAD_CORE), "cat")
        await asyncio.create_subprocess_exec(*command, stdin=read, stdout=asyncio.subprocess.DEVNULL)
        os.close(read)
        return written

    async def floor(self, mode: str, upstream: str = "") -> Subject:
        """Start one of the modes of floors.py."""
        port = free_port()
        command = (sys.executable, "-m", "benchmarks.speed.floors", mode, "--port", str(port))
        more = ("--upstream", upstream or self.upstream, "--store", self.store)
        running = await self.stack.enter_async_context(process(SERVER_CORE, *command, *more))
        await listens(port)
        name = "plain relay" if mode == "plain" else f"aiohttp {mode}"
        return Subject(name, f"http://127.0.0.1:{port}", running.pid)

    async def proxy(
        self, name: str, upstream: str = "", *options: str, cores: str = str(SERVER_CORE), **settings: str
    ) -> Subject:
        """Start the proxy. What it logs is thrown away; as JSON it goes through a pipe that is read."""
        port = free_port()
        log = await self._read_pipe() if settings.get("OCP_LOG") == "json" else asyncio.subprocess.DEVNULL
        command = (sys.executable, "-m", "ollama_cache_proxy", "serve", "--listen", f"127.0.0.1:{port}")
        environment = {"OCP_UPSTREAM": upstream or self.upstream, "OCP_REDIS_URL": self.store, "OCP_LOG": "plain"}
        running = await self.stack.enter_async_context(
            process(cores, *command, *options, environment=environment | settings, log=log)
        )
        await listens(port)
        return Subject(name, f"http://127.0.0.1:{port}", running.pid)
