"""The composition root: opens every part, connects them, and closes them in reverse order.

    context.py         what all parts share: settings, address, clock, log, metrics, tasks
    neighbours.py      store, Ollama, digests of models, statistics; the store is chosen in store_choice.py
    scrape.py          metrics of this process, and of all workers, for Prometheus
    own_routes.py      the proxy's own routes
    sibling_topics.py  what a worker does when its siblings send a topic
    in_service.py      what serves requests under the settings of now
    replacing.py       what requests are handed to, and how a reload (reloading.py) replaces it

The order of closing: the live page's events; a worker's source of new connections; connections, which drain; the hits
of the fast path that are not counted yet; a worker's last metrics for the supervisor; the neighbours (see
open_neighbours).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, TextIO

from ollama_cache_proxy.admin.live_events import Events
from ollama_cache_proxy.admin.token_guard import TokenGuard
from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.exchange import Exchanges
from ollama_cache_proxy.core.ports import FastPath
from ollama_cache_proxy.core.store_ports import EntryStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.downstream.listener import Handler, Listener
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.context import Context, open_context
from ollama_cache_proxy.service.crowd import Crowd
from ollama_cache_proxy.service.in_service import InService, service_of
from ollama_cache_proxy.service.neighbours import open_neighbours
from ollama_cache_proxy.service.own_routes import own_routes
from ollama_cache_proxy.service.private_store import PrivateServer
from ollama_cache_proxy.service.replacing import Parts, handler_of, replace_service
from ollama_cache_proxy.service.scrape import Scrape
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.service.sibling_topics import handle_sibling_topics
from ollama_cache_proxy.service.siblings import SiblingProcesses
from ollama_cache_proxy.service.sockets import fitting_connections
from ollama_cache_proxy.telemetry.log import Log
from ollama_cache_proxy.telemetry.loop_lag import LoopLag
from ollama_cache_proxy.telemetry.metrics import Metrics
from ollama_cache_proxy.upstream.probes import Probes


@record
class Running:
    """A running proxy, which accepts connections at `url`."""

    url: str
    listener: Listener
    exchanges: Exchanges
    events: Events
    metrics: Metrics
    store: EntryStore
    log: Log
    settings: Settings
    tasks: Tasks
    reload: Callable[[Settings], Awaitable[None]]
    """Serves by other settings from now on; raises SettingsError, and then changes nothing. See reloading.py."""


@asynccontextmanager
async def running(  # noqa: PLR0913 - what commands, workers and tests each choose
    settings: Settings,
    sock: socket.socket,
    *,
    stream: TextIO = sys.stderr,
    siblings: SiblingProcesses | None = None,
    private_server: PrivateServer | None = None,
    nvml: Callable[[], Any] | None = None,
) -> AsyncIterator[Running]:
    """Run the proxy on a bound socket until the block ends; then drain, and close everything.

    With `siblings` it is a worker: its connections come from the supervisor. `private_server` is the one that workers
    share. `nvml` takes the place of NVML, through which graphics cards are read.
    """
    context = open_context(settings, sock, stream, siblings)
    async with AsyncExitStack() as stack:
        stack.callback(context.log.close)
        opened = await open_neighbours(context, stack, private_server)
        in_service = InService(service_of(opened.neighbours, each=context.each))
        scrape = Scrape(context, opened, in_service, listener=lambda: listener)
        if siblings is not None:
            handle_sibling_topics(siblings, opened, in_service.report)
            siblings.report_every_second(scrape.snapshot)
            stack.callback(siblings.send_snapshot)
        stack.callback(in_service.report)
        lag = LoopLag(context.metrics.loop_lag)
        stack.callback(lag.close)
        lag.start()
        own = own_routes(context, opened, in_service, nvml)
        guard = TokenGuard(clock=context.clock, observe=context.observer(), say=partial(context.log.say, warning=True))
        stack.callback(guard.close)
        parts = Parts(
            context=context,
            opened=opened,
            own=own,
            scrape=scrape,
            guard=guard,
            serving=lambda: not listener.draining,
        )
        exchanges = in_service.current.exchanges
        listener = _listener(context, handler_of(parts, settings, exchanges), exchanges.fast_path)
        reload = partial(replace_service, parts, in_service, listener)
        await _accept(context, listener, sock)
        stack.push_async_callback(listener.drain, settings.drain_timeout)
        if siblings is not None:
            await siblings.apply_settings_by(reload)
            stack.push_async_callback(siblings.leave)
        stack.callback(own.events.close)  # clients of the live page would otherwise delay the drain
        if opened.fleet is None:
            context.tasks.spawn(_probe_ollama(opened.probes), "probe Ollama")
        else:
            opened.fleet.start()
        yield Running(
            url=context.address.url,
            listener=listener,
            exchanges=exchanges,
            events=own.events,
            metrics=context.metrics,
            store=opened.chosen.entries,
            log=context.log,
            settings=settings,
            tasks=context.tasks,
            reload=reload,
        )


def _listener(context: Context, handler: Handler, fast_path: FastPath) -> Listener:
    """Return the listener, which hands each request to the handler."""
    settings, log, siblings = context.settings, context.log, context.siblings
    return Listener(
        handler,
        fast_path=fast_path,
        clock=context.clock,
        head_timeout=settings.head_timeout,
        body_timeout=settings.body_timeout,
        keep_alive=settings.keep_alive,
        max_connections=fitting_connections(settings.max_connections, log),
        evicted=Crowd(context.metrics.connection_closed, log, context.clock),
        failed=lambda name: log.say(f"A request failed with an internal error: {name}", warning=True),
        counted=None if siblings is None else siblings.report_connections,
    )


async def _accept(context: Context, listener: Listener, sock: socket.socket) -> None:
    """Serve the socket's connections; a worker is handed its share by the supervisor."""
    tls = context.address.tls
    if context.siblings is None:
        await listener.start(sock, tls)
    else:
        await context.siblings.open(lambda connection: listener.serve_accepted(connection, tls))


async def _probe_ollama(upstream: Probes) -> None:
    """Ask Ollama once at the start, so that the log says whether it can be reached."""
    with suppress(ProxyError):
        async with upstream.ask(Request(method="GET", target="/api/version", fields=()), None):
            pass
