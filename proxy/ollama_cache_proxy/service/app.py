"""The composition root: opens every part, joins them, and closes them in reverse order. It alone may import all."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TextIO
from urllib.parse import urlsplit

from ollama_cache_proxy import __version__
from ollama_cache_proxy.admin.entry_routes import CacheRoutes
from ollama_cache_proxy.admin.gpu_cards import Cards
from ollama_cache_proxy.admin.live_events import Events
from ollama_cache_proxy.admin.live_figures import Figures
from ollama_cache_proxy.admin.live_page import ROUTES as PAGE
from ollama_cache_proxy.admin.router import Access, Admin, Render
from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.exchange import Exchanges
from ollama_cache_proxy.core.explanation import Explainer
from ollama_cache_proxy.core.fingerprint_key import Marking
from ollama_cache_proxy.core.ports import Client, EntryStore, Health, Levels, Observer, Part, Topic, fan_out
from ollama_cache_proxy.core.questions import Neighbours
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.downstream.listener import Listener
from ollama_cache_proxy.policy.endpoints import REUSABLE, Policy
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.purge import Filter, Purges
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.policy.sums import Snapshot
from ollama_cache_proxy.service.resources import (
    Lent,
    SystemClock,
    certified,
    fitting_connections,
    log_of,
    open_store,
    upstream_url,
    url_of,
)
from ollama_cache_proxy.service.settings import Settings, is_loopback, secret, setting_of
from ollama_cache_proxy.service.siblings import SiblingProcesses
from ollama_cache_proxy.service.tls import for_clients, towards
from ollama_cache_proxy.telemetry.log import Log
from ollama_cache_proxy.telemetry.metrics import Metrics
from ollama_cache_proxy.telemetry.recent import Recent
from ollama_cache_proxy.telemetry.statistics import Statistics
from ollama_cache_proxy.upstream.digests import OllamaModels
from ollama_cache_proxy.upstream.loaded_models import Residents
from ollama_cache_proxy.upstream.ollama_server import Ollama

_LAST_STORES = 2.0


@record
class Running:
    """A proxy that accepts connections at `url`."""

    url: str
    listener: Listener
    exchanges: Exchanges
    events: Events
    metrics: Metrics
    store: EntryStore
    log: Log
    settings: Settings


@asynccontextmanager
async def running(  # noqa: PLR0913, PLR0915 - the composition root names each neighbour once
    settings: Settings,
    sock: socket.socket,
    *,
    stream: TextIO = sys.stderr,
    siblings: SiblingProcesses | None = None,
    lent: Lent | None = None,
    nvml: Callable[[], Any] | None = None,
) -> AsyncIterator[Running]:
    """Run the proxy on a bound socket until the block ends; then drain, and close everything.

    With `siblings` it is one of several: it is handed its connections, and the private store is one that was `lent`.
    `nvml` gives what graphics cards are read through, in place of NVML, when somebody wants to see them.
    """
    clock = SystemClock()
    log = log_of(settings, stream, clock, quiet=siblings is not None and not siblings.speaks)
    metrics = Metrics()
    metrics(Health(part=Part.STORE, well=True, name=""))  # until a store says otherwise; memory never does
    recent = Recent(clock.now)
    observers = (metrics, log, recent)
    observe: Observer = fan_out(observers)
    asyncio.get_running_loop().set_exception_handler(quiet(log, clock))
    async with AsyncExitStack() as stack:
        tasks = Tasks()
        tls = None
        if settings.tls_cert is not None:
            tls = certified("tls_cert", settings.tls_cert, lambda path: for_clients(path, settings.tls_key))
        url = url_of(sock, "http" if tls is None else "https")
        loopback = is_loopback(sock.getsockname()[0])
        ollama = upstream_url(settings, url, log)
        log.say(f"ollama-cache-proxy {__version__} listens on {url}, in front of Ollama at {ollama}")
        chosen = await open_store(settings, stack, clock=clock, observe=observe, tasks=tasks, log=log, lent=lent)
        upstream = Ollama(
            ollama,
            connect_timeout=settings.connect_timeout,
            deadline=settings.upstream_timeout,
            clock=clock,
            observe=observe,
            tasks=tasks,
            tls=certified("upstream_ca", settings.upstream_ca, towards),
        )
        stack.push_async_callback(upstream.close)
        models = OllamaModels(
            upstream,
            chosen.values,
            name=_machine(ollama) + upstream.name,
            deadline=settings.connect_timeout + 5,
            patience=None if settings.upstream_timeout is None else settings.upstream_timeout / 2,
            clock=clock,
            tasks=tasks,
            siblings=siblings,
        )
        stack.callback(models.close)
        stack.push_async_callback(tasks.close, _LAST_STORES)
        statistics = Statistics(chosen.values, tasks=tasks, siblings=siblings)
        await statistics.begin()
        stack.push_async_callback(statistics.close)
        neighbours = Neighbours(
            rules=_rules(settings, loopback=loopback),
            store=chosen.entries,
            upstream=upstream,
            models=models,
            clock=clock,
            observe=fan_out((*observers, statistics)),
            tasks=tasks,
            purges=Purges(),
            marking=Marking(chosen.values, on=settings.explain),
        )
        exchanges = Exchanges(neighbours, each=log.requests)

        residents = Residents(upstream, tasks=tasks)

        def levels(*, asking: bool) -> Levels:
            return Levels(
                serving=exchanges.serving,
                asking=upstream.asking,
                connections=listener.connections,
                tiers=[tier for part in chosen.gauges for tier in part.tiers(asking=asking)],
                broken={name: is_open for part in chosen.gauges for name, is_open in part.breakers().items()},
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

        figures = Figures(
            recent=recent,
            told=told,
            count=chosen.entries.count,
            store_name=chosen.name,
            residents=residents,
            cards=Cards(nvml, tasks=tasks),
            tasks=tasks,
        )
        events = Events(figures.state, clock=clock, tasks=tasks)
        about_entries = CacheRoutes(
            store=chosen.entries,
            store_name=chosen.name,
            purges=neighbours.purges,
            told=told,
            explain=Explainer(neighbours).explain,
            clock=clock,
            siblings=siblings,
        ).routes
        admin = Admin(
            routes={**about_entries, **figures.routes, **PAGE},
            watch=events.listen,
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
            max_connections=fitting_connections(settings.max_connections, log),
            failed=lambda name: log.say(f"an error of the proxy's own ended a request: {name}", warning=True),
            counted=None if siblings is None else siblings.counted,
        )
        await _accept(listener, sock, tls, siblings)
        stack.push_async_callback(listener.drain, settings.drain_timeout)
        if siblings is not None:
            stack.push_async_callback(siblings.leave)
        stack.callback(events.close)  # else whoever watches would hold the drain up
        tasks.spawn(_greet(upstream), "look for Ollama")
        yield Running(
            url=url,
            listener=listener,
            exchanges=exchanges,
            events=events,
            metrics=metrics,
            store=chosen.entries,
            log=log,
            settings=settings,
        )


def _figures(
    metrics: Metrics, exchanges: Exchanges, levels: Callable[..., Levels], siblings: SiblingProcesses | None
) -> tuple[Callable[[], Snapshot], Render]:
    """Give what gives this process's figures, and what renders those of all.

    Only who is scraped asks Redis and Ollama how they are.
    """

    def settle(*, asking: bool) -> None:
        exchanges.shortcuts.tell()
        metrics.level(levels(asking=asking))

    def snapshot() -> Snapshot:
        settle(asking=False)
        return metrics.snapshot()

    async def render(accept: str) -> tuple[bytes, str]:
        settle(asking=True)
        together = None if siblings is None else await siblings.together(metrics.snapshot())
        return metrics.render(accept, together)

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
