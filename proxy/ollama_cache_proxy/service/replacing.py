"""Builds what requests are handed to under one set of settings, and puts another in its place while the proxy runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace

from ollama_cache_proxy.admin.router import Access, Admin
from ollama_cache_proxy.admin.token_guard import TokenGuard
from ollama_cache_proxy.core.exchange import Exchanges
from ollama_cache_proxy.core.ports import Client
from ollama_cache_proxy.downstream.listener import Handler, Listener
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.policy.target import without_prefix
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.eviction_check import check_eviction
from ollama_cache_proxy.service.in_service import InService, service_of
from ollama_cache_proxy.service.neighbours import Opened, neighbours_by
from ollama_cache_proxy.service.own_routes import OwnRoutes
from ollama_cache_proxy.service.recordings import opened_recordings, use_recordings
from ollama_cache_proxy.service.rules_from_settings import rules_from
from ollama_cache_proxy.service.scrape import Scrape
from ollama_cache_proxy.service.settings import Settings, secret
from ollama_cache_proxy.service.sockets import tls_of
from ollama_cache_proxy.service.tls import for_servers, renew, tls_from_file
from ollama_cache_proxy.telemetry.request_recorder import RecordingsFolder


@record
class Parts:
    """What stays when the settings change."""

    context: Context
    opened: Opened
    own: OwnRoutes
    scrape: Scrape
    guard: TokenGuard
    serving: Callable[[], bool]
    """Whether the listener accepts connections."""


def handler_of(parts: Parts, settings: Settings, exchanges: Exchanges) -> Handler:
    """Return what hands each request to the proxy's own routes or to the exchanges."""
    admin = Admin(
        routes=parts.own.routes,
        events=parts.own.events.listen,
        store_state=parts.opened.chosen.state,
        upstream=parts.opened.probes,
        refusal=lambda: parts.opened.upstream.refusal,
        render=parts.scrape.render,
        serving=parts.serving,
        access=Access(loopback=parts.context.address.loopback, token=secret(settings.admin_token)),
        guard=parts.guard,
        clock=parts.context.clock,
    )
    prefix = settings.path_prefix

    async def handle(request: Request, client: Client) -> None:
        inside = without_prefix(request.target, prefix) if prefix else None
        if inside is not None:
            request = replace(request, target=inside, prefix=prefix)
        if admin.owns(request) and exchanges.admits(request):
            await admin.serve(request, client)
        else:
            await exchanges.serve(request, client)

    return handle


@record
class _Prepared:
    """What a reload reads and what may fail."""

    rules: Rules
    certificate: ssl.SSLContext | None
    authorities: ssl.SSLContext | None
    recordings: RecordingsFolder | None


async def replace_service(parts: Parts, in_service: InService, listener: Listener, settings: Settings) -> None:
    """Serve by other settings from now on; raise SettingsError, and then nothing has changed.

    Settings that take a restart must be those of the current service. Requests in progress go on under their own.
    """
    context, opened = parts.context, parts.opened
    unknown = await check_eviction(settings)
    prepared = await asyncio.to_thread(_prepare, parts, settings)
    if unknown:
        context.log.say(unknown, warning=True)
    neighbours = neighbours_by(context, opened, prepared.rules, settings)
    service = service_of(neighbours, each=context.each, before=in_service.current)
    handler = handler_of(parts, settings, service.exchanges)
    use_recordings(opened.recorder, prepared.recordings, context.log)
    opened.probes.use(secret(settings.upstream_authorization))
    if prepared.authorities is not None:
        opened.upstream.use_tls(prepared.authorities)
    if context.address.tls is not None and prepared.certificate is not None:
        renew(context.address.tls, prepared.certificate)
    in_service.replace(service)
    listener.follow(
        handler,
        fast_path=service.exchanges.fast_path,
        head_timeout=settings.head_timeout,
        body_timeout=settings.body_timeout,
        keep_alive=settings.keep_alive,
    )


def _prepare(parts: Parts, settings: Settings) -> _Prepared:
    """Read files and names; raise SettingsError. It waits for them, so it runs in a thread."""
    authorities = tls_from_file("upstream_ca", settings.upstream_ca, for_servers)
    if authorities is None and parts.opened.upstream.over_tls:
        authorities = ssl.create_default_context()
    loopback, instance = parts.context.address.loopback, parts.context.instance
    return _Prepared(
        rules=rules_from(settings, loopback=loopback, instance=instance),
        certificate=tls_of(settings),
        authorities=authorities,
        recordings=opened_recordings(settings),
    )
