"""Opens what stands in front of several Ollamas: a connection, probes, digests and context lengths for each."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy.model_names import canonical
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.settings import is_loopback, secret
from ollama_cache_proxy.service.tls import for_servers, tls_from_file
from ollama_cache_proxy.service.upstream_tables import UpstreamTable
from ollama_cache_proxy.upstream.digests import OllamaModels
from ollama_cache_proxy.upstream.fleet import Fleet
from ollama_cache_proxy.upstream.fleet_host import About, FleetHost
from ollama_cache_proxy.upstream.fleet_models import FleetContexts, FleetModels, OfHost
from ollama_cache_proxy.upstream.fleet_probes import FleetProbes
from ollama_cache_proxy.upstream.loaded_contexts import LoadedContexts
from ollama_cache_proxy.upstream.ollama_server import Ollama
from ollama_cache_proxy.upstream.probes import Probes
from ollama_cache_proxy.upstream.runners import OllamaRunners


@record
class OpenedFleet:
    """Several Ollamas, and what is known of them."""

    upstream: Fleet
    probes: FleetProbes
    models: FleetModels
    contexts: FleetContexts


def open_fleet(
    context: Context, tables: tuple[UpstreamTable, ...], values: ValueStore, turns: Turns, stack: AsyncExitStack
) -> OpenedFleet:
    """Open the Ollamas of these tables; raise SettingsError. The stack closes them."""
    settings = context.settings
    hosts = [_host(context, table) for table in tables]
    fleet = Fleet(
        hosts,
        changes_to_all=settings.changes_to == "all",
        clock=context.clock,
        observe=context.observer(),
        tasks=context.tasks,
        turns=turns,
    )
    stack.push_async_callback(fleet.close)
    contexts = {host.name: _contexts(context, host, table, values) for host, table in zip(hosts, tables, strict=True)}
    models = {
        host.name: _models(context, host, table, values, contexts[host.name], tells=host is hosts[0])
        for host, table in zip(hosts, tables, strict=True)
    }
    return OpenedFleet(
        upstream=fleet,
        probes=FleetProbes(fleet, authorization=secret(settings.upstream_authorization)),
        models=FleetModels(fleet, models, clock=context.clock),
        contexts=FleetContexts(contexts),
    )


def _host(context: Context, table: UpstreamTable) -> FleetHost:
    settings = context.settings
    about = About(
        name=table.called,
        weight=table.weight,
        models=frozenset(name for model in table.models if (name := canonical(model)) is not None),
        labels=table.labels,
        epoch=table.epoch,
    )
    host = FleetHost(about, context.observer())
    host.ollama = Ollama(
        table.url,
        connect_timeout=settings.connect_timeout,
        deadline=settings.upstream_timeout,
        clock=context.clock,
        observe=host.observe,
        tasks=context.tasks,
        tls=tls_from_file("upstream_ca", settings.upstream_ca, for_servers),
    )
    host.probes = Probes(host.ollama, authorization=secret(settings.upstream_authorization))
    return host


def _contexts(context: Context, host: FleetHost, table: UpstreamTable, values: ValueStore) -> LoadedContexts:
    siblings = context.siblings
    return LoadedContexts(
        OllamaRunners(host.probes),
        host.ollama,
        values,
        name=machine(table.url) + host.ollama.name,
        clock=context.clock,
        tasks=context.tasks,
        observe=context.observer(),
        siblings=None if siblings is None else OfHost(siblings, host.name),
    )


def _models(  # noqa: PLR0913 - what each host has of its own
    context: Context,
    host: FleetHost,
    table: UpstreamTable,
    values: ValueStore,
    contexts: LoadedContexts,
    *,
    tells: bool,
) -> OllamaModels:
    settings = context.settings
    return OllamaModels(
        host.probes,
        values,
        name=machine(table.url) + host.ollama.name,
        deadline=settings.connect_timeout + 5,
        max_wait=None if settings.upstream_timeout is None else settings.upstream_timeout / 2,
        clock=context.clock,
        tasks=context.tasks,
        siblings=context.siblings if tells else None,
        contexts=contexts,
    )


def machine(url: str) -> str:
    """Return this machine's name if the URL is loopback, else "": proxies on several machines may share a Redis."""
    host = urlsplit(url).hostname or ""
    return f"{socket.gethostname()}/" if is_loopback(host) else ""
