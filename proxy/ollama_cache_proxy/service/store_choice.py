"""Chooses and opens the store: a Redis by URL, a private server, or this process's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from ollama_cache_proxy.core.store_ports import EntryStore, SharedFlights, StoreGauges, StoreState, ValueStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.eviction_check import check_eviction
from ollama_cache_proxy.service.private_store import ENDS_WITH_PROXY, MIB, PrivateServer, open_private
from ollama_cache_proxy.service.redis_access import redis_address, tls_for
from ollama_cache_proxy.service.settings import SettingsError, named_redis, public_url
from ollama_cache_proxy.service.tls import for_servers, tls_from_file
from ollama_cache_proxy.stores.memory import MemoryStore, MemoryValues
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.invalidation import RedisWatches
from ollama_cache_proxy.stores.redis.kept_folder import KeptFolder
from ollama_cache_proxy.stores.redis.redis_client import Client, RedisClient
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from ollama_cache_proxy.stores.redis.server_process import until_accepts
from ollama_cache_proxy.stores.redis.shared_flights import RedisFlights
from ollama_cache_proxy.stores.redis.store_trouble import StoreTrouble
from ollama_cache_proxy.stores.tiered import TieredStore

_LOADS_AT_ONCE: Final = 0.05
"""Seconds to wait for a private server that loads what it kept; then the proxy begins without it."""
_COUNTED_EVERY: Final = 1.0
_COUNTED_TRIES: Final = 30
"""How often, and every how many seconds, what was kept is counted until that succeeds."""


@record
class Room:
    """How many bytes a store may take, and the setting that says so."""

    setting: str
    size: int


@record
class ChosenStore:
    """The store and what others need of it."""

    entries: EntryStore
    values: ValueStore
    gauges: Sequence[StoreGauges]
    """Those of its parts, the fastest one first."""
    name: str
    """Its name in log and statistics."""
    state: Callable[[], StoreState]
    """How it is, as far as has been seen; waits for nothing."""
    sealed: bool
    """Whether what leaves this process for it is sealed."""
    forget: Callable[[], None]
    """Drops what this process holds of it: the hot tier and the write buffer."""
    flights: SharedFlights | None = None
    """Those that processes share; None where each process asks for itself."""
    room: Room | None = None
    """How large it may grow; None where somebody else's settings say so."""


async def open_store(context: Context, stack: AsyncExitStack, shared: PrivateServer | None) -> ChosenStore:
    """Choose and open a store that the stack closes, and log the choice; raise SettingsError.

    `shared` is the private server that workers share; if given, it is the store.
    """
    settings = context.settings
    tls_from_file("redis_ca", settings.redis_ca, for_servers)
    url = "" if shared is not None else named_redis(settings)
    if url:
        return await _named(context, stack, url)
    if settings.store in ("auto", "private"):
        server = shared or await open_private(settings, stack, context.tasks, context.log)
        if server is not None:
            return await _private(context, stack, server, alone=shared is None)
        if settings.store == "private":
            text = "store: 'private' is not allowed: neither valkey-server nor redis-server could be started"
            raise SettingsError(text)
    return _memory(context)


async def _named(context: Context, stack: AsyncExitStack, url: str) -> ChosenStore:
    unknown = await check_eviction(context.settings)
    if unknown:
        context.log.say(unknown, warning=True)
    chosen = await _redis(context, stack, url)
    if isinstance(chosen.flights, RedisFlights):
        context.tasks.spawn(chosen.flights.company.follow(), "look for other proxies", endless=True)
        stack.push_async_callback(chosen.flights.company.leave)
    context.log.say(
        f"Store: {chosen.name}, shared with every proxy that uses it; its own settings decide what survives a restart"
    )
    return chosen


async def _private(context: Context, stack: AsyncExitStack, server: PrivateServer, *, alone: bool) -> ChosenStore:
    chosen = await _opened_private(context, stack, server)
    return replace(chosen, flights=None) if alone else chosen


async def _opened_private(context: Context, stack: AsyncExitStack, server: PrivateServer) -> ChosenStore:
    context.log.say(f"Store: {server.name}, {server.about}")
    room = Room(setting="private_redis_bytes", size=context.settings.private_redis_bytes)
    if server.folder is None:
        return replace(await _redis(context, stack, server.url, private=server), name=server.name, room=room)
    socket = Path(redis_address(server.url).socket)
    loaded = context.tasks.spawn(until_accepts(socket), "load the store", endless=True)
    await asyncio.wait((loaded,), timeout=_LOADS_AT_ONCE)
    chosen = await _redis(context, stack, server.url, private=server, loaded=None if loaded.done() else loaded)
    context.tasks.spawn(_say_known(context, chosen.entries, loaded), "count what was kept", endless=True)
    return replace(chosen, name=server.name, room=room)


async def _say_known(context: Context, entries: EntryStore, loaded: asyncio.Task[None]) -> None:
    """Log how many entries are known from before, when they can be counted."""
    await asyncio.wait((loaded,))
    for _ in range(_COUNTED_TRIES):
        count = await entries.count()
        if count is not None and count.keys is not None:
            if count.keys:
                known = "1 entry from before is" if count.keys == 1 else f"{count.keys:,} entries from before are"
                context.log.say(f"{known} known")
            return
        await asyncio.sleep(_COUNTED_EVERY)


def _memory(context: Context) -> ChosenStore:
    memory = MemoryStore(context.settings.memory_bytes, clock=context.clock)
    size = context.settings.memory_bytes // MIB
    if context.codec.sealed:
        context.log.say("seal_key_file has no effect: entries are in memory alone, where they are not sealed")
    context.log.say(f"Store: this process's memory, {size} MiB, {ENDS_WITH_PROXY} (--redis-url)")
    return ChosenStore(
        entries=memory,
        values=MemoryValues(),
        gauges=(memory,),
        name="memory",
        state=_well,
        sealed=False,
        forget=_nothing,
        room=Room(setting="memory_bytes", size=context.settings.memory_bytes),
    )


async def _redis(
    context: Context,
    stack: AsyncExitStack,
    url: str,
    *,
    private: PrivateServer | None = None,
    loaded: asyncio.Task[None] | None = None,
) -> ChosenStore:
    """Open a Redis, with a hot tier in front of it unless `hot_bytes` is 0; raise SettingsError.

    `private` is the server if it is one of ours, which nobody can mend. `loaded` is that of RedisStore.open.
    """
    settings, clock, tasks = context.settings, context.clock, context.tasks
    address = redis_address(url)
    tls = tls_for(address, settings.redis_ca)
    client: Client = (ClusterClient if address.nodes else RedisClient)(address, tls=tls)
    stack.push_async_callback(client.close)
    folder = None if private is None or private.folder is None else KeptFolder(private.folder)
    trouble = (
        () if private is not None else (StoreTrouble(address, tls, say=context.log.warn, clock=clock, tasks=tasks),)
    )
    store = RedisStore(
        client,
        name="Redis",
        clock=clock,
        observe=context.observer(*trouble),
        tasks=tasks,
        codec=context.codec,
        longest=settings.store_deadline,
        folder=folder,
    )
    stack.push_async_callback(store.entries.renewals.close)
    stack.callback(store.flights.close)
    await store.open(loaded)
    if context.codec.sealed:
        context.log.say("Entries are sealed before they are stored (seal_key_file)")
    chosen = ChosenStore(
        entries=store.entries,
        values=store.values,
        gauges=(store.gauges,),
        name=public_url(url),
        state=store.state,
        sealed=context.codec.sealed,
        forget=store.entries.buffer.discard,
        flights=store.flights if settings.collapse_across_proxies else None,
    )
    if not settings.hot_bytes:
        return chosen
    hot = MemoryStore(settings.hot_bytes, clock=clock, name="hot")
    tiered = tiered_store(hot, store.entries, client, tasks)

    def forget() -> None:
        chosen.forget()
        tiered.invalidate(None)

    return replace(chosen, entries=tiered, gauges=(hot, store.gauges), forget=forget)


def tiered_store(hot: MemoryStore, entries: RedisEntries, client: Client, tasks: Tasks) -> TieredStore:
    """Return a hot tier in front of Redis, which sends it invalidations."""
    tiered = TieredStore(hot, entries, tasks=tasks)

    def changed(names: list[bytes] | None) -> None:
        keys = client.layout.changed_keys(names)
        if keys is None:
            entries.doubt()
        tiered.invalidate(keys)

    watches = RedisWatches(
        client, commands=entries.commands, resume=tiered.resume, changed=changed, suspend=tiered.suspend
    )
    watches.begin(tasks)
    return tiered


def _well() -> StoreState:
    return StoreState(answers=True, stores=True)


def _nothing() -> None:
    """Do nothing: the memory store is held nowhere else."""
