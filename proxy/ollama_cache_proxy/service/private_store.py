"""Starts a private server: one that keeps its entries in a folder, or, where that cannot be, one that forgets them."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.server_versions import can_keep
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.stores.redis.kept_folder import FolderError, KeptFolder, default_folder
from ollama_cache_proxy.stores.redis.kept_server import KeptRedis
from ollama_cache_proxy.stores.redis.private_server import PrivateRedis, find_server
from ollama_cache_proxy.stores.redis.server_process import says
from ollama_cache_proxy.telemetry.log import Log

MIB: Final = 1024 * 1024
ENDS_WITH_PROXY: Final = "not shared, forgotten when the proxy ends"


@record
class PrivateServer:
    """A private server that is running."""

    url: str
    name: str
    about: str
    """How large it is, and what becomes of its entries, for the log."""
    folder: Path | None = None
    """The KeptFolder in which it keeps its entries; None where it forgets them."""


async def open_private(settings: Settings, stack: AsyncExitStack, tasks: Tasks, log: Log) -> PrivateServer | None:
    """Start a private server that the stack closes, and log why it keeps nothing; return None if none can be started.

    One that keeps its entries may still be loading them: until then its URL leads nowhere.
    """
    binary = find_server()
    if binary is None:
        return None
    if settings.keep:
        try:
            return await _kept(binary, settings, stack, tasks, log)
        except FolderError as error:
            log.say(f"Nothing is kept over restarts (--no-keep silences this): {error}", warning=True)
    else:
        _say_what_is_left(settings, log)
    private = PrivateRedis(binary, capacity=settings.private_redis_bytes, tasks=tasks)
    stack.push_async_callback(private.close)
    if not await private.start():
        return None
    about = f"{settings.private_redis_bytes // MIB} MiB, {ENDS_WITH_PROXY} (--redis-url)"
    return PrivateServer(url=private.url, name=private.name, about=about)


async def _kept(binary: str, settings: Settings, stack: AsyncExitStack, tasks: Tasks, log: Log) -> PrivateServer | None:
    """Start a server that keeps its entries, or find that of another proxy; raise FolderError."""
    if sys.platform == "win32":
        text = "this system has no locks and no Unix sockets for it"
        raise FolderError(text)
    path = _path(settings)
    try:
        if not can_keep(await says(binary, "--version")):
            text = f"{binary} is too old for it, or another program: Valkey and Redis 7.0 or newer can"
            raise FolderError(text)
        begins = KeptFolder.found(path) is None
        folder = KeptFolder.opened(path)
        server = KeptRedis(
            binary,
            folder,
            capacity=settings.private_redis_bytes,
            stop_within=settings.store_stop_timeout,
            say=log.warn,
            tasks=tasks,
        )
        stack.push_async_callback(server.close)
        if not await server.start():
            return None
    except OSError as error:
        raise FolderError(f"{path} cannot be used: {error.strerror}") from None
    about = f"{server.capacity // MIB} MiB, kept in {path}"
    if server.shared:
        about += " together with another proxy, whose size limit holds"
    elif begins:
        about += " from now on (--no-keep keeps nothing, SECURITY.md says what lies there)"
    return PrivateServer(url=server.url, name=server.name, about=about, folder=path)


def _path(settings: Settings) -> Path:
    """Return where to keep; raise FolderError."""
    if not settings.store_dir:
        return default_folder()
    try:
        return Path(settings.store_dir).expanduser().absolute()
    except (RuntimeError, OSError):  # no home, or no current folder
        raise FolderError(f"{settings.store_dir} leads nowhere") from None


def _say_what_is_left(settings: Settings, log: Log) -> None:
    """Log where something is that was kept before, and is not used now."""
    try:
        folder = KeptFolder.found(_path(settings))
    except FolderError:
        return
    if folder is not None and folder.holds_something:
        log.say(f"What was kept before is still in {folder.path}; it is not used, nor cleared, while keep is off")
