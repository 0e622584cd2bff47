"""Opens what the settings name, for the composition roots: socket, certificates, Ollama's URL, log and store.

Each raises SettingsError, in one line that says what to do, where a setting cannot be followed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Final, TextIO

from ollama_cache_proxy.core.ports import Clock, EntryStore, Observer, StoreGauges, ValueStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.settings import (
    Settings,
    SettingsError,
    chosen_upstream,
    host_and_port,
    named_redis,
    public_url,
)
from ollama_cache_proxy.service.tls import CertificateError, towards
from ollama_cache_proxy.stores.memory import MemoryStore, MemoryValues
from ollama_cache_proxy.stores.redis.invalidation import RedisWatch
from ollama_cache_proxy.stores.redis.key_layout import WATCHED, changed_keys
from ollama_cache_proxy.stores.redis.private_server import PrivateRedis, find_server
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from ollama_cache_proxy.stores.tiered import TieredStore
from ollama_cache_proxy.telemetry.log import Log, Style

_MIB: Final = 1024 * 1024
_OWN_FILES: Final = 128
"""Files that the proxy opens beside its clients' and Ollama's sockets: the store's connections above all."""


class SystemClock:
    """See ports.Clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@record
class ChosenStore:
    """The store, how log and statistics name it, whether it is well, and what forgets all that is held of it.

    `gauges` are those of its parts, the fastest one first.
    """

    entries: EntryStore
    values: ValueStore
    gauges: Sequence[StoreGauges]
    name: str
    well: Callable[[], Awaitable[bool]]
    forget: Callable[[], None]


@record
class Lent:
    """A private server that somebody else keeps alive."""

    url: str
    name: str


def bind(listen: str) -> socket.socket:
    """Give a socket bound to HOST:PORT; raises SettingsError where that cannot be had."""
    host, port = host_and_port(listen)
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        dual = family == socket.AF_INET6 and host in ("", "::") and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        text = f"listen: {listen!r} cannot be listened on: {error.strerror}; choose another HOST:PORT with --listen"
        raise SettingsError(text) from None


def fitting_connections(wanted: int, log: Log) -> int:
    """Bound the clients so that their sockets and as many towards Ollama fit into what a process may open."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    fitting = max(1, (soft - _OWN_FILES) // 2)
    log.say(
        f"At most {fitting} clients at once: a process may open {soft} files here (ulimit -n)", warning=not log.quiet
    )
    return fitting


def url_of(sock: socket.socket, scheme: str) -> str:
    """Give the URL at which a bound socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def certified(setting: str, path: str | None, load: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext | None:
    """Give the TLS context of a file; raises SettingsError where it cannot be used."""
    if path is None:
        return None
    try:
        return load(path)
    except CertificateError as error:
        raise SettingsError(f"{setting}: {path!r} is not allowed: {error}") from None


def upstream_url(settings: Settings, own: str, log: Log) -> str:
    """Choose Ollama's URL, and say where what the environment names is not it."""
    url, source = chosen_upstream(settings, own.partition("://")[2])
    if source == "default" and os.environ.get("OLLAMA_HOST", "").strip():
        log.say(f"OLLAMA_HOST names this proxy, so it is not used; Ollama is looked for at {url}")
    return url


async def open_store(  # noqa: PLR0913 - what a store is made of
    settings: Settings,
    stack: AsyncExitStack,
    *,
    clock: Clock,
    observe: Observer,
    tasks: Tasks,
    log: Log,
    lent: Lent | None,
) -> ChosenStore:
    """Choose and open the store, and say what the choice means."""

    async def connect(url: str) -> ChosenStore:
        client = RedisClient(url, authority=settings.redis_ca)
        stack.push_async_callback(client.close)
        store = RedisStore(client, name="Redis", clock=clock, observe=observe, tasks=tasks)
        await store.open()
        chosen = ChosenStore(
            entries=store.entries,
            values=store.values,
            gauges=(store.gauges,),
            name=public_url(url),
            well=store.ping,
            forget=store.entries.buffer.forget,
        )
        if not settings.hot_bytes:
            return chosen
        hot = MemoryStore(settings.hot_bytes, clock=clock, name="hot")
        tiered = tiered_store(hot, store.entries, client, tasks)

        def forget() -> None:
            chosen.forget()
            tiered.forget(None)

        return replace(chosen, entries=tiered, gauges=(hot, store.gauges), forget=forget)

    certified("redis_ca", settings.redis_ca, towards)
    url = "" if lent is not None else named_redis(settings)
    if url:
        chosen = await _named(connect, url)
        log.say(f"Store: {chosen.name}, shared with every proxy that uses it; it decides what is kept over a restart")
        return chosen
    if settings.store in ("auto", "private"):
        private = lent or await open_private(settings, stack, tasks)
        if private is not None:
            chosen = await connect(private.url)
            size = settings.private_redis_bytes // _MIB
            log.say(f"Store: {private.name}, {size} MiB, not shared, forgotten when the proxy ends (--redis-url)")
            return replace(chosen, name=private.name)
        if settings.store == "private":
            text = "store: 'private' is not allowed: neither valkey-server nor redis-server could be started"
            raise SettingsError(text)
    memory = MemoryStore(settings.memory_bytes, clock=clock)
    size = settings.memory_bytes // _MIB
    log.say(f"Store: this process's memory, {size} MiB, not shared, forgotten when the proxy ends (--redis-url)")
    return ChosenStore(
        entries=memory, values=MemoryValues(), gauges=(memory,), name="memory", well=_always, forget=_nothing
    )


async def open_private(settings: Settings, stack: AsyncExitStack, tasks: Tasks) -> Lent | None:
    """Start a private server that lives as long as the stack; None where none can be had."""
    binary = find_server()
    if binary is None:
        return None
    private = PrivateRedis(binary, capacity=settings.private_redis_bytes, tasks=tasks)
    stack.push_async_callback(private.close)
    return Lent(url=private.url, name=private.name) if await private.start() else None


def tiered_store(hot: MemoryStore, entries: RedisEntries, client: RedisClient, tasks: Tasks) -> TieredStore:
    """Put a hot tier before Redis, which tells it what changes."""
    tiered = TieredStore(hot, entries, tasks=tasks)
    watch = RedisWatch(
        client.connection,
        prefixes=WATCHED,
        wake=tiered.wake,
        changed=lambda names: tiered.forget(changed_keys(names)),
        sleep=tiered.sleep,
    )
    watch.begin(tasks)
    return tiered


async def _named(connect: Callable[[str], Awaitable[ChosenStore]], url: str) -> ChosenStore:
    try:
        return await connect(url)
    except (ValueError, TypeError):
        text = "redis_url: (hidden) is not allowed: must be a URL such as redis://127.0.0.1:6379/0"
        raise SettingsError(text) from None


async def _always() -> bool:
    return True


def _nothing() -> None:
    """Hold nothing that could be forgotten."""


def log_of(settings: Settings, stream: TextIO, clock: Clock, *, quiet: bool = False) -> Log:
    """Give the log; it tells of requests where somebody watches, or collects what can be searched."""
    style = _style(settings, stream)
    read = settings.development or style is Style.JSON or stream.isatty()
    requests = read if settings.log_requests == "auto" else settings.log_requests == "on"
    return Log(stream, style=style, development=settings.development, requests=requests, quiet=quiet, clock=clock)


def _style(settings: Settings, stream: TextIO) -> Style:
    if settings.log != "auto":
        return Style(settings.log)
    colourful = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style.COLOUR if colourful else Style.PLAIN
