"""The proxy as several processes: composes the supervisor, and the worker around each proxy (app.py).

What workers share, the port and a private server, belongs to the supervisor and lives as long as it does.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.app import running
from ollama_cache_proxy.service.channel import Channel
from ollama_cache_proxy.service.context import new_instance
from ollama_cache_proxy.service.eviction_check import check_eviction
from ollama_cache_proxy.service.log_setup import log_loop_errors, log_of
from ollama_cache_proxy.service.private_store import PrivateServer, open_private
from ollama_cache_proxy.service.recordings import opened_recordings
from ollama_cache_proxy.service.sealing import seal_key
from ollama_cache_proxy.service.settings import Settings, SettingsError, named_redis, packed, share, unpacked
from ollama_cache_proxy.service.siblings import SiblingProcesses
from ollama_cache_proxy.service.sockets import raise_open_files, tls_of
from ollama_cache_proxy.service.supervisor import Supervisor, WorkerError
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.service.tls import for_servers, tls_from_file
from ollama_cache_proxy.telemetry.log import Log


@record
class Supervising:
    """A running proxy of several processes; `reload` is that of app.Running."""

    log: Log
    reload: Callable[[Settings], Awaitable[None]]
    tasks: Tasks


@asynccontextmanager
async def supervising(
    settings: Settings, sock: socket.socket, *, stream: TextIO = sys.stderr
) -> AsyncIterator[Supervising]:
    """Run workers behind a bound socket until the block ends; then drain them."""
    clock = SystemClock()
    log = log_of(settings, stream, clock)
    log_loop_errors(log, clock)
    secret = seal_key(settings)
    raise_open_files(2 * settings.max_connections)
    async with AsyncExitStack() as stack:
        stack.callback(log.close)
        tasks = Tasks()
        stack.push_async_callback(tasks.close, 0)
        private_server = await _shared_store(settings, stack, tasks, log)
        supervisor = Supervisor(
            sock,
            count=settings.workers,
            settings={
                "instance": new_instance(),
                "seal_key": None if secret is None else secret.hex(),
                "settings": packed(share(settings)) | {"redis_url": named_redis(settings) or None},
                "private_server": None if private_server is None else _packed_server(private_server),
            },
            log=lambda text: log.say(text, warning=True),
            tasks=tasks,
        )
        stack.callback(supervisor.kill)
        try:
            await supervisor.start()
        except WorkerError as error:
            raise SettingsError(str(error)) from None
        log.say(f"{settings.workers} workers serve")
        stack.push_async_callback(supervisor.drain, settings.drain_timeout)
        yield Supervising(log=log, reload=partial(_reload, supervisor), tasks=tasks)


async def _reload(supervisor: Supervisor, settings: Settings) -> None:
    """Have all workers serve by other settings; raise SettingsError.

    What can be wrong with them is looked for here first, so that none has them where one of the files is wrong.
    """
    await asyncio.to_thread(_check_files, settings)
    await check_eviction(settings)
    try:
        await supervisor.reload(packed(share(settings)) | {"redis_url": named_redis(settings) or None})
    except WorkerError as error:
        raise SettingsError(str(error)) from None


def _check_files(settings: Settings) -> None:
    tls_of(settings)
    tls_from_file("upstream_ca", settings.upstream_ca, for_servers)
    recordings = opened_recordings(settings)
    if recordings is not None:
        recordings.close()


async def _shared_store(settings: Settings, stack: AsyncExitStack, tasks: Tasks, log: Log) -> PrivateServer | None:
    """Return the private server that workers share, None if a Redis is set; raise SettingsError."""
    several = f"workers: {settings.workers} is not allowed"
    if sys.platform == "win32":
        raise SettingsError(f"{several}: this system cannot pass connections to other processes; leave it at 1")
    if settings.store == "memory":
        raise SettingsError(f"{several} with store 'memory', which processes cannot share: choose another, or 1 worker")
    if named_redis(settings):
        return None
    private_server = await open_private(settings, stack, tasks, log)
    if private_server is None:
        text = "without a shared Redis: name one with --redis-url, or install valkey-server or redis-server"
        raise SettingsError(f"{several} {text}")
    return private_server


def _packed_server(server: PrivateServer) -> list[str | None]:
    """Return a private server as JSON values for a worker process."""
    return [server.url, server.name, server.about, None if server.folder is None else str(server.folder)]


def _unpacked_server(values: list[str | None]) -> PrivateServer:
    url, name, about, folder = values
    kept = None if folder is None else Path(folder)
    return PrivateServer(url=url or "", name=name or "", about=about or "", folder=kept)


@asynccontextmanager
async def working(
    channel: socket.socket, handoff: socket.socket, sock: socket.socket
) -> AsyncIterator[SiblingProcesses]:
    """Run one worker, over the sockets from its supervisor, until the block ends; then drain it.

    Raise SettingsError after reporting it to the supervisor, and ConnectionError if the supervisor has gone.
    """
    tasks = Tasks()
    supervisor = await Channel.open(channel, tasks)
    try:
        siblings = SiblingProcesses(supervisor, handoff, tasks)
        given = await siblings.fetch_settings()
        siblings.logs_start = given["logs_start"]
        siblings.instance = given["settings"]["instance"]
        secret = given["settings"]["seal_key"]
        siblings.seal_key = None if secret is None else bytes.fromhex(secret)
        private = given["settings"]["private_server"]
        server = None if private is None else _unpacked_server(private)
        settings = unpacked(given["settings"]["settings"])
        try:
            async with running(settings, sock, siblings=siblings, private_server=server):
                sock.close()
                yield siblings
        except SettingsError as error:
            siblings.report_invalid(str(error))
            raise
    finally:
        await tasks.close(0)
        await supervisor.close_and_wait()
