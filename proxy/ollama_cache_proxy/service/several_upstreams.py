"""Opens what stands in front of several Ollamas: a connection, probes, digests and context lengths for each."""

from __future__ import annotations

from contextlib import AsyncExitStack

from ollama_cache_proxy.core.lanes import Lanes
from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy.model_names import canonical
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.one_upstream import contexts_at, models_at, ollama_at
from ollama_cache_proxy.service.settings import secret
from ollama_cache_proxy.service.upstream_tables import UpstreamTable
from ollama_cache_proxy.upstream.digests import OllamaModels
from ollama_cache_proxy.upstream.fleet import Fleet
from ollama_cache_proxy.upstream.fleet_host import About, FleetHost
from ollama_cache_proxy.upstream.fleet_models import FleetContexts, FleetModels, OfHost
from ollama_cache_proxy.upstream.fleet_probes import FleetProbes
from ollama_cache_proxy.upstream.loaded_contexts import LoadedContexts
from ollama_cache_proxy.upstream.probes import Probes


@record
class OpenedFleet:
    """Several Ollamas, and what is known of them."""

    upstream: Fleet
    probes: FleetProbes
    models: FleetModels
    contexts: FleetContexts


def open_fleet(  # noqa: PLR0913 - what each of them needs, and the lanes
    context: Context,
    tables: tuple[UpstreamTable, ...],
    values: ValueStore,
    turns: Turns,
    stack: AsyncExitStack,
    *,
    lanes: Lanes | None,
) -> OpenedFleet:
    """Open the Ollamas of these tables, each behind its lanes if there are any; raise SettingsError.

    The stack closes them.
    """
    settings = context.settings
    hosts = [_host(context, table, lanes) for table in tables]
    fleet = Fleet(
        hosts,
        changes_to_all=settings.changes_to == "all",
        clock=context.clock,
        observe=context.observer(),
        tasks=context.tasks,
        turns=turns,
    )
    stack.push_async_callback(fleet.close)
    contexts: dict[str, LoadedContexts] = {}
    models: dict[str, OllamaModels] = {}
    for host, table in zip(hosts, tables, strict=True):
        siblings = context.siblings
        of_host = None if siblings is None else OfHost(siblings, host.name)
        contexts[host.name] = contexts_at(context, table.url, host.ollama, host.probes, values, siblings=of_host)
        models[host.name] = models_at(
            context,
            table.url,
            host.probes,
            host.ollama.name,
            values,
            contexts[host.name],
            siblings=siblings if host is hosts[0] else None,
        )
    return OpenedFleet(
        upstream=fleet,
        probes=FleetProbes(fleet, authorization=secret(settings.upstream_authorization)),
        models=FleetModels(fleet, models, clock=context.clock),
        contexts=FleetContexts(contexts),
    )


def _host(context: Context, table: UpstreamTable, lanes: Lanes | None) -> FleetHost:
    about = About(
        name=table.called,
        weight=table.weight,
        models=frozenset(name for model in table.models if (name := canonical(model)) is not None),
        labels=table.labels,
        epoch=table.epoch,
    )
    host = FleetHost(about, context.observer())
    host.ollama = ollama_at(context, table.url, host.observe)
    host.upstream = host.ollama if lanes is None else lanes.at(host.ollama, host.name)
    host.probes = Probes(host.ollama, authorization=secret(context.settings.upstream_authorization))
    return host
