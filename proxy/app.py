"""The composition root: opens every part, joins them, and closes them in reverse order. It alone may import all."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TextIO
from urllib.parse import urlsplit

from proxy import __version__
from proxy.adapters.admin import Access, Admin, Render
from proxy.adapters.cache_routes import CacheRoutes
from proxy.adapters.listener import Listener
from proxy.adapters.log import Log, Style
from proxy.adapters.memory_store import MemoryStore
from proxy.adapters.metrics import Metrics
from proxy.adapters.models import OllamaModels
from proxy.adapters.ollama import Ollama
from proxy.adapters.private_redis import PrivateRedis, find_server
from proxy.adapters.redis_store import RedisStore
from proxy.adapters.redis_watch import RedisWatch
from proxy.adapters.residents import Residents
from proxy.adapters.siblings import SiblingProcesses
from proxy.adapters.statistics import Statistics
from proxy.adapters.tiered_store import TieredStore
from proxy.adapters.tls import CertificateError, for_clients, towards
from proxy.errors import ProxyError
from proxy.exchange import Exchanges
from proxy.explain import Explainer
from proxy.fetch import Neighbours
from proxy.marking import Marking
from proxy.policy.endpoints import REUSABLE, Policy
from proxy.policy.messages import Request
from proxy.policy.purge import Filter, Purges
from proxy.policy.rules import Rules
from proxy.policy.sums import Snapshot
from proxy.ports import Client, Health, Levels, Observer, Part, Store, Topic, fan_out
from proxy.settings import (
    Settings,
    SettingsError,
    chosen_upstream,
    host_and_port,
    is_loopback,
    named_redis,
    public_url,
    secret,
    setting_of,
)
from proxy.tasks import Tasks

_LAST_STORES = 2.0
_MIB = 1024 * 1024
_OWN_FILES = 128
"""Files that the proxy opens beside its clients' and Ollama's sockets: the store's connections above all."""


class SystemClock:
    """See ports.Clock."""

    def now(self) -> float:
        """Give Unix time."""
        return time.time()

    def monotonic(self) -> float:
        """Give a time that only measures."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A proxy that accepts connections at `url`."""

    url: str
    listener: Listener
    exchanges: Exchanges
    metrics: Metrics
    store: Store
    log: Log
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChosenStore:
    store: Store
    name: str
    well: Callable[[], Awaitable[bool]]
    forget: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
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


@asynccontextmanager
async def running(
    settings: Settings,
    sock: socket.socket,
    *,
    stream: TextIO = sys.stderr,
    siblings: SiblingProcesses | None = None,
    lent: Lent | None = None,
) -> AsyncIterator[Running]:
    """Run the proxy on a bound socket until the block ends; then drain, and close everything.

    With `siblings` it is one of several: it is handed its connections, and the private store is one that was `lent`.
    """
    clock = SystemClock()
    log = log_of(settings, stream, clock, quiet=siblings is not None and not siblings.speaks)
    metrics = Metrics()
    metrics(Health(part=Part.STORE, well=True, name=""))  # until a store says otherwise; memory never does
    observe: Observer = fan_out((metrics, log))
    asyncio.get_running_loop().set_exception_handler(quiet(log, clock))
    async with AsyncExitStack() as stack:
        tasks = Tasks()
        tls = None
        if settings.tls_cert is not None:
            tls = _certified("tls_cert", settings.tls_cert, lambda path: for_clients(path, settings.tls_key))
        url = _url_of(sock, "http" if tls is None else "https")
        loopback = is_loopback(sock.getsockname()[0])
        upstream_url = _upstream_url(settings, url, log)
        log.say(f"ollama-cache-proxy {__version__} listens on {url}, in front of Ollama at {upstream_url}")
        chosen = await _open_store(settings, stack, clock=clock, observe=observe, tasks=tasks, log=log, lent=lent)
        upstream = Ollama(
            upstream_url,
            connect_timeout=settings.connect_timeout,
            deadline=settings.upstream_timeout,
            clock=clock,
            observe=observe,
            tasks=tasks,
            tls=_certified("upstream_ca", settings.upstream_ca, towards),
        )
        stack.push_async_callback(upstream.close)
        models = OllamaModels(
            upstream,
            chosen.store,
            name=_machine(upstream_url) + upstream.name,
            deadline=settings.connect_timeout + 5,
            patience=None if settings.upstream_timeout is None else settings.upstream_timeout / 2,
            clock=clock,
            tasks=tasks,
            siblings=siblings,
        )
        stack.callback(models.close)
        stack.push_async_callback(tasks.close, _LAST_STORES)
        statistics = Statistics(chosen.store, tasks=tasks, siblings=siblings)
        await statistics.begin()
        stack.push_async_callback(statistics.close)
        neighbours = Neighbours(
            rules=_rules(settings, loopback=loopback),
            store=chosen.store,
            upstream=upstream,
            models=models,
            clock=clock,
            observe=fan_out((observe, statistics)),
            tasks=tasks,
            purges=Purges(),
            marking=Marking(chosen.store, on=settings.explain),
        )
        exchanges = Exchanges(neighbours, each=log.requests)

        residents = Residents(upstream, tasks=tasks)

        def levels(*, asking: bool) -> Levels:
            return Levels(
                serving=exchanges.serving,
                asking=upstream.asking,
                connections=listener.connections,
                tiers=chosen.store.tiers(asking=asking),
                broken=chosen.store.breakers(),
                residents=residents.found() if asking else (),
            )

        snapshot, render = _figures(metrics, exchanges, levels, siblings)
        if siblings is not None:
            _hear(siblings, neighbours, models, statistics, exchanges, chosen.forget)
            siblings.report(snapshot)
            stack.callback(siblings.reported)
        stack.callback(exchanges.shortcuts.tell)

        async def told() -> dict[str, Any]:
            exchanges.shortcuts.tell()
            return await statistics.told()

        admin = Admin(
            routes=CacheRoutes(
                store=chosen.store,
                store_name=chosen.name,
                purges=neighbours.purges,
                told=told,
                explain=Explainer(neighbours).explain,
                clock=clock,
                siblings=siblings,
            ).routes,
            store_well=chosen.well,
            upstream=upstream,
            render=render,
            serving=lambda: not listener.draining,
            access=Access(loopback=loopback, token=secret(settings.admin_token)),
            clock=clock,
        )

        async def handle(request: Request, client: Client) -> None:
            if admin.owns(request) and exchanges.admits(request):
                await admin.serve(request, client)
            else:
                await exchanges.serve(request, client)

        listener = Listener(
            handle,
            shortcuts=exchanges.shortcuts,
            clock=clock,
            head_timeout=settings.head_timeout,
            body_timeout=settings.body_timeout,
            max_connections=_connections(settings.max_connections, log),
            failed=lambda name: log.say(f"an error of the proxy's own ended a request: {name}", warning=True),
            counted=None if siblings is None else siblings.counted,
        )
        await _accept(listener, sock, tls, siblings)
        stack.push_async_callback(listener.drain, settings.drain_timeout)
        if siblings is not None:
            stack.push_async_callback(siblings.leave)
        tasks.spawn(_greet(upstream), "look for Ollama")
        yield Running(
            url=url,
            listener=listener,
            exchanges=exchanges,
            metrics=metrics,
            store=chosen.store,
            log=log,
            settings=settings,
        )


def _figures(
    metrics: Metrics, exchanges: Exchanges, levels: Callable[..., Levels], siblings: SiblingProcesses | None
) -> tuple[Callable[[], Snapshot], Render]:
    """Give what gives this process's figures, and what renders those of all.

    Only who is scraped asks Redis and Ollama how they are.
    """

    def snapshot(*, asking: bool = False) -> Snapshot:
        exchanges.shortcuts.tell()
        metrics.level(levels(asking=asking))
        return metrics.snapshot()

    async def render(accept: str) -> tuple[bytes, str]:
        if siblings is not None:
            return metrics.render(accept, await siblings.together(snapshot(asking=True)))
        exchanges.shortcuts.tell()
        metrics.level(levels(asking=True))
        return metrics.render(accept)

    return snapshot, render


async def _accept(
    listener: Listener, sock: socket.socket, tls: ssl.SSLContext | None, siblings: SiblingProcesses | None
) -> None:
    """Serve what connects to the socket, or what siblings are handed of that."""
    if siblings is None:
        await listener.start(sock, tls)
    else:
        await siblings.open(lambda connection: listener.take(connection, tls))


def _hear(  # noqa: PLR0913, PLR0917 - who has to know of siblings
    siblings: SiblingProcesses,
    neighbours: Neighbours,
    models: OllamaModels,
    statistics: Statistics,
    exchanges: Exchanges,
    forget: Callable[[], None],
) -> None:
    """Let each part hear what siblings say about it."""

    async def purge(wanted: dict[str, str | None]) -> None:
        neighbours.purges.add(Filter(**wanted))

    async def forgotten(_: None) -> None:
        forget()

    async def flush(_: None) -> None:
        exchanges.shortcuts.tell()
        await statistics.heard_flush()

    siblings.on(Topic.CHANGE_BEGINS, models.heard_begin)
    siblings.on(Topic.CHANGE_ENDS, models.heard_end)
    siblings.on(Topic.PURGE, purge)
    siblings.on(Topic.FORGET, forgotten)
    siblings.on(Topic.FLUSH, flush)
    siblings.on(Topic.TOTALS, statistics.heard_totals)


async def _greet(upstream: Ollama) -> None:
    """Look for Ollama at the start: the log says what was found."""
    with suppress(ProxyError):
        async with upstream.ask(Request(method="GET", target="/api/version", fields=()), None):
            pass


def _connections(wanted: int, log: Log) -> int:
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


def quiet(log: Log, clock: SystemClock) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Give the event loop a place for its errors: one line a second at most, and no word of what was handled."""
    said = float("-inf")

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said
        if clock.monotonic() - said >= 1:
            said = clock.monotonic()
            log.say(f"an error of the proxy's own: {type(context.get('exception')).__name__}", warning=True)

    return handle


def _machine(url: str) -> str:
    """Name this machine where the URL means another Ollama on each: proxies on several may share a Redis."""
    host = urlsplit(url).hostname or ""
    return f"{socket.gethostname()}/" if is_loopback(host) else ""


def _rules(settings: Settings, *, loopback: bool) -> Rules:
    hostname = socket.gethostname()
    return Rules(
        policies={row.operation: Policy(getattr(settings, setting_of(row.operation))) for row in REUSABLE},
        streams=settings.cache_streams,
        paced=settings.stream_pace == "recorded",
        ttl_completion=settings.ttl_completion,
        ttl_embedding=settings.ttl_embedding,
        max_ttl=settings.max_ttl,
        max_request_bytes=settings.max_request_bytes,
        max_entry_bytes=settings.max_entry_bytes,
        max_list_bytes=settings.max_list_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        max_misses=settings.max_misses,
        linger=settings.linger,
        epoch=settings.epoch,
        guard_host=loopback,
        hostname=hostname,
        local_addresses=_own_addresses(hostname),
    )


def _own_addresses(hostname: str) -> frozenset[str]:
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(hostname, None))
    except OSError:
        return frozenset()


def _url_of(sock: socket.socket, scheme: str) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _certified(setting: str, path: str | None, load: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext | None:
    """Give the TLS context of a file; raises SettingsError where it cannot be used."""
    if path is None:
        return None
    try:
        return load(path)
    except CertificateError as error:
        raise SettingsError(f"{setting}: {path!r} is not allowed: {error}") from None


def _upstream_url(settings: Settings, own: str, log: Log) -> str:
    """Choose Ollama's URL, and say where what the environment names is not it."""
    url, source = chosen_upstream(settings, own.partition("://")[2])
    if source == "default" and os.environ.get("OLLAMA_HOST", "").strip():
        log.say(f"OLLAMA_HOST names this proxy, so it is not used; Ollama is looked for at {url}")
    return url


async def _open_store(  # noqa: PLR0913 - what a store is made of
    settings: Settings,
    stack: AsyncExitStack,
    *,
    clock: SystemClock,
    observe: Observer,
    tasks: Tasks,
    log: Log,
    lent: Lent | None,
) -> _ChosenStore:
    """Choose and open the store, and say what the choice means."""

    async def connect(url: str) -> _ChosenStore:
        store = RedisStore(url, name="Redis", clock=clock, observe=observe, tasks=tasks, authority=settings.redis_ca)
        stack.push_async_callback(store.close)
        await store.ping()
        store.begin()
        if not settings.hot_bytes:
            return _ChosenStore(store=store, name=public_url(url), well=store.ping, forget=_nothing)
        tiered = _tiered(store, settings.hot_bytes, clock, tasks)
        return _ChosenStore(store=tiered, name=public_url(url), well=store.ping, forget=lambda: tiered.forget(None))

    _certified("redis_ca", settings.redis_ca, towards)
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
    return _ChosenStore(store=memory, name="memory", well=_always, forget=_nothing)


async def open_private(settings: Settings, stack: AsyncExitStack, tasks: Tasks) -> Lent | None:
    """Start a private server that lives as long as the stack; None where none can be had."""
    binary = find_server()
    if binary is None:
        return None
    private = PrivateRedis(binary, capacity=settings.private_redis_bytes, tasks=tasks)
    stack.push_async_callback(private.close)
    return Lent(url=private.url, name=private.name) if await private.start() else None


def _tiered(store: RedisStore, capacity: int, clock: SystemClock, tasks: Tasks) -> TieredStore:
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


async def _named(connect: Callable[[str], Awaitable[_ChosenStore]], url: str) -> _ChosenStore:
    try:
        return await connect(url)
    except (ValueError, TypeError):
        text = "redis_url: (hidden) is not allowed: must be a URL such as redis://127.0.0.1:6379/0"
        raise SettingsError(text) from None


async def _always() -> bool:
    return True


def _nothing() -> None:
    """Hold nothing that could be forgotten."""


def log_of(settings: Settings, stream: TextIO, clock: SystemClock, *, quiet: bool = False) -> Log:
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
