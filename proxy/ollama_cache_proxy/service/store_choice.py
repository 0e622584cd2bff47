"""Which store a proxy uses: a Redis that is named, a private server, or this process's memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from ollama_cache_proxy.core.ports import Clock, Store
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.settings import Settings, SettingsError, named_redis, public_url
from ollama_cache_proxy.service.tls import certified, towards
from ollama_cache_proxy.stores.memory import MemoryStore
from ollama_cache_proxy.stores.redis.invalidation import RedisWatch
from ollama_cache_proxy.stores.redis.private_server import PrivateRedis, find_server
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from ollama_cache_proxy.stores.tiered import TieredStore

_MIB: Final = 1024 * 1024
_ENDS_WITH_US: Final = "not shared, forgotten when the proxy ends (--redis-url)"


@record
class ChosenStore:
    """The store, how log and statistics name it, whether it is well, and what forgets all that is held of it."""

    store: Store
    name: str
    well: Callable[[], Awaitable[bool]]
    forget: Callable[[], None]


@record
class Lent:
    """A private server that somebody else keeps alive."""

    url: str
    name: str


async def open_store(context: Context, stack: AsyncExitStack, lent: Lent | None) -> ChosenStore:
    """Choose and open a store that lives as long as the stack, and log what the choice means.

    `lent` is the private server that workers share; where it is given, it is the store. Raises SettingsError.
    """
    settings = context.settings
    certified("redis_ca", settings.redis_ca, towards)
    url = "" if lent is not None else named_redis(settings)
    if url:
        return await _named(context, stack, url)
    if settings.store in ("auto", "private"):
        server = lent or await open_private(settings, stack, context.tasks)
        if server is not None:
            return await _private(context, stack, server)
        if settings.store == "private":
            text = "store: 'private' is not allowed: neither valkey-server nor redis-server could be started"
            raise SettingsError(text)
    return _memory(context)


async def _named(context: Context, stack: AsyncExitStack, url: str) -> ChosenStore:
    try:
        chosen = await _redis(context, stack, url)
    except (ValueError, TypeError):
        text = "redis_url: (hidden) is not allowed: must be a URL such as redis://127.0.0.1:6379/0"
        raise SettingsError(text) from None
    context.log.say(
        f"Store: {chosen.name}, shared with every proxy that uses it; it decides what is kept over a restart"
    )
    return chosen


async def _private(context: Context, stack: AsyncExitStack, server: Lent) -> ChosenStore:
    chosen = await _redis(context, stack, server.url)
    size = context.settings.private_redis_bytes // _MIB
    context.log.say(f"Store: {server.name}, {size} MiB, {_ENDS_WITH_US}")
    return replace(chosen, name=server.name)


def _memory(context: Context) -> ChosenStore:
    memory = MemoryStore(context.settings.memory_bytes, clock=context.clock)
    size = context.settings.memory_bytes // _MIB
    context.log.say(f"Store: this process's memory, {size} MiB, {_ENDS_WITH_US}")
    return ChosenStore(store=memory, name="memory", well=_always, forget=_nothing)


async def _redis(context: Context, stack: AsyncExitStack, url: str) -> ChosenStore:
    """Open a Redis, with a hot tier in front of it unless the settings want none."""
    settings, clock, tasks = context.settings, context.clock, context.tasks
    store = RedisStore(
        url, name="Redis", clock=clock, observe=context.observer(), tasks=tasks, authority=settings.redis_ca
    )
    stack.push_async_callback(store.close)
    await store.ping()
    store.begin()
    if not settings.hot_bytes:
        return ChosenStore(store=store, name=public_url(url), well=store.ping, forget=store.forget)
    tiered = tiered_store(store, settings.hot_bytes, clock, tasks)

    def forget() -> None:
        store.forget()
        tiered.forget(None)

    return ChosenStore(store=tiered, name=public_url(url), well=store.ping, forget=forget)


async def open_private(settings: Settings, stack: AsyncExitStack, tasks: Tasks) -> Lent | None:
    """Start a private server that lives as long as the stack; None where none can be had."""
    binary = find_server()
    if binary is None:
        return None
    private = PrivateRedis(binary, capacity=settings.private_redis_bytes, tasks=tasks)
    stack.push_async_callback(private.close)
    return Lent(url=private.url, name=private.name) if await private.start() else None


def tiered_store(store: RedisStore, capacity: int, clock: Clock, tasks: Tasks) -> TieredStore:
    """Put a hot tier before Redis, which tells it what changes."""
    tiered = TieredStore(MemoryStore(capacity, clock=clock), store, tasks=tasks)
    watch = RedisWatch(
        store.connection,
        prefixes=store.watched,
        wake=tiered.wake,
        changed=lambda names: tiered.forget(store.keys_of(names)),
        sleep=tiered.sleep,
    )
    watch.begin(tasks)
    return tiered


async def _always() -> bool:
    return True


def _nothing() -> None:
    """Hold nothing that could be forgotten."""
