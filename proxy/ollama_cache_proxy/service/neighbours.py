"""Opens the neighbours of the exchanges: store, Ollama, digests of models, statistics."""

from __future__ import annotations

import os
import secrets
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from ollama_cache_proxy import __version__
from ollama_cache_proxy.core.audit import Audit
from ollama_cache_proxy.core.facts import Observer
from ollama_cache_proxy.core.fingerprint_key import Fingerprinting
from ollama_cache_proxy.core.ports import Upstream
from ollama_cache_proxy.core.prompt_watch import PromptWatch
from ollama_cache_proxy.core.questions import Neighbours
from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.core.traffic import Traffic
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy.audit_sampling import Sampler, read_rate
from ollama_cache_proxy.policy.purge import Purges
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.lanes_from_settings import lanes_from
from ollama_cache_proxy.service.one_upstream import contexts_at, models_at, ollama_at
from ollama_cache_proxy.service.private_store import PrivateServer
from ollama_cache_proxy.service.recordings import opened_recordings, use_recordings
from ollama_cache_proxy.service.rules_from_settings import rules_from
from ollama_cache_proxy.service.settings import (
    FORMER_LISTEN,
    Settings,
    chosen_upstream,
    chosen_upstreams,
    ollama_host,
    same_listener,
    secret,
)
from ollama_cache_proxy.service.several_upstreams import OpenedFleet, open_fleet
from ollama_cache_proxy.service.store_choice import ChosenStore, open_store
from ollama_cache_proxy.telemetry.forecaster import TrafficForecaster
from ollama_cache_proxy.telemetry.request_recorder import RequestRecorder
from ollama_cache_proxy.telemetry.statistics import Statistics
from ollama_cache_proxy.upstream.digests import OllamaModels
from ollama_cache_proxy.upstream.fleet import Fleet
from ollama_cache_proxy.upstream.fleet_models import FleetContexts, FleetModels
from ollama_cache_proxy.upstream.loaded_contexts import LoadedContexts
from ollama_cache_proxy.upstream.loaded_models import Residents
from ollama_cache_proxy.upstream.model_templates import ModelTemplates
from ollama_cache_proxy.upstream.ollama_server import Ollama
from ollama_cache_proxy.upstream.probes import Probes
from ollama_cache_proxy.upstream.runners import OllamaRunners

_TASKS_CLOSE_SECONDS: Final = 2.0
"""Seconds that background tasks have to end: the last responses may still be being stored."""

_ONLY_GUARD: Final = (
    "Requests without an Authorization go to Ollama with the proxy's (upstream_authorization_for = all), and other"
    " machines can connect: this proxy is now the only guard of Ollama"
)


@record
class Opened:
    """The neighbours of the exchanges, and the parts of them that others need. `audit` is None where it is off."""

    neighbours: Neighbours
    audit: Audit | None
    chosen: ChosenStore
    upstream: Ollama | Fleet
    fleet: Fleet | None
    """The same where it is several."""
    probes: Probes
    models: OllamaModels | FleetModels
    contexts: LoadedContexts | FleetContexts
    residents: Residents
    statistics: Statistics
    recorder: RequestRecorder
    forecaster: TrafficForecaster
    prompts: PromptWatch


async def open_neighbours(context: Context, stack: AsyncExitStack, private_server: PrivateServer | None) -> Opened:
    """Open all neighbours, and log where Ollama and the store are; raise SettingsError.

    The stack closes them in this order: statistics, background tasks, digests, Ollama, store.
    """
    tables = chosen_upstreams(context.settings, context.address.url.partition("://")[2])
    url = ", ".join(table.url for table in tables) or _upstream_url(context)
    context.log.say(f"ollama-cache-proxy {__version__} listens on {context.address.url}, in front of Ollama at {url}")
    if context.settings.upstream_authorization_for == "all" and not context.address.loopback:
        context.log.say(_ONLY_GUARD, warning=True)
    chosen = await open_store(context, stack, private_server)
    turns = Turns()
    lanes = lanes_from(context.settings, context.clock, context.observer(), context.siblings)
    ollamas: OpenedFleet | _OpenedOllama
    if tables:
        ollamas = open_fleet(context, tables, chosen.values, turns, stack, lanes=lanes)
    else:
        ollamas = _opened_ollama(context, url, chosen.values, stack)
    upstream, probes, models = ollamas.upstream, ollamas.probes, ollamas.models
    asked: Upstream = upstream if lanes is None or tables else lanes.at(upstream)
    stack.callback(models.close)
    stack.push_async_callback(context.tasks.close, _TASKS_CLOSE_SECONDS)
    recorder = _recorder(context, stack)
    statistics = Statistics(chosen.values, tasks=context.tasks, siblings=context.siblings)
    await statistics.load()
    stack.push_async_callback(statistics.close)
    traffic = Traffic(asked, context.clock)
    observe = context.observer(statistics)
    forecaster = TrafficForecaster(clock=context.clock, tasks=context.tasks, turns=turns)
    prompts = PromptWatch(clock=context.clock, observe=observe, tasks=context.tasks, turns=turns)
    audit = _audit(context, chosen, upstream, traffic, models, OllamaRunners(probes), observe)
    if audit is not None:
        await statistics.begin_audit(context.clock.now())
    return Opened(
        neighbours=Neighbours(
            rules=rules_from(context.settings, loopback=context.address.loopback, instance=context.instance),
            store=chosen.entries,
            upstream=asked if audit is None else traffic,
            models=models,
            clock=context.clock,
            observe=observe,
            tasks=context.tasks,
            purges=Purges(),
            fingerprinting=Fingerprinting(
                chosen.values, on=context.settings.explain, secret=context.codec.fingerprint_key
            ),
            shared_flights=chosen.flights,
            templates=_templates(context, probes, models),
            turns=turns,
            audit=audit,
            recorder=recorder if context.settings.record_requests else None,
            forecaster=forecaster,
            prompts=prompts if context.settings.prompt_watch else None,
            lanes=lanes,
        ),
        audit=audit,
        chosen=chosen,
        upstream=upstream,
        fleet=upstream if isinstance(upstream, Fleet) else None,
        probes=probes,
        models=models,
        contexts=ollamas.contexts,
        residents=Residents(probes, tasks=context.tasks),
        statistics=statistics,
        recorder=recorder,
        forecaster=forecaster,
        prompts=prompts,
    )


def neighbours_by(context: Context, opened: Opened, rules: Rules, settings: Settings) -> Neighbours:
    """Return the same neighbours for exchanges with other settings, of which these are the rules."""
    templates = opened.neighbours.templates or ModelTemplates(
        opened.probes, opened.models, clock=context.clock, tasks=context.tasks
    )
    return replace(
        opened.neighbours,
        rules=rules,
        templates=None if settings.cache_dated_templates else templates,
        recorder=opened.recorder if settings.record_requests else None,
        prompts=opened.prompts if settings.prompt_watch else None,
    )


def _upstream_url(context: Context) -> str:
    """Return Ollama's URL; log a line if OLLAMA_HOST is not used."""
    own = context.address.url.partition("://")[2]
    url, source = chosen_upstream(context.settings, own)
    named = os.environ.get("OLLAMA_HOST", "")
    if source == "default" and named.strip():
        why = "OLLAMA_HOST names this proxy"
        if not same_listener(ollama_host(named), own):
            why = f"OLLAMA_HOST names {FORMER_LISTEN}, where this proxy listened before 0.3 and clients miss it now"
            why += " (if Ollama is there, name it with --upstream)"
        context.log.say(f"{why}, so it is not used; Ollama is expected at {url}")
    return url


@record
class _OpenedOllama:
    """One Ollama, and what is known of it."""

    upstream: Ollama
    probes: Probes
    models: OllamaModels
    contexts: LoadedContexts


def _opened_ollama(context: Context, url: str, values: ValueStore, stack: AsyncExitStack) -> _OpenedOllama:
    upstream = ollama_at(context, url, context.observer())
    stack.push_async_callback(upstream.close)
    probes = Probes(upstream, authorization=secret(context.settings.upstream_authorization))
    siblings = context.siblings
    contexts = contexts_at(context, url, upstream, probes, values, siblings=siblings)
    models = models_at(context, url, probes, upstream.name, values, contexts, siblings=siblings)
    return _OpenedOllama(upstream=upstream, probes=probes, models=models, contexts=contexts)


def _recorder(context: Context, stack: AsyncExitStack) -> RequestRecorder:
    """Open what records requests, if the settings say so; raise SettingsError."""
    recorder = RequestRecorder(context.log.warn)
    stack.push_async_callback(recorder.close)
    use_recordings(recorder, opened_recordings(context.settings), context.log)
    return recorder


def _audit(  # noqa: PLR0913, PLR0917 - the parts that it watches
    context: Context,
    chosen: ChosenStore,
    upstream: Ollama | Fleet,
    traffic: Traffic,
    models: OllamaModels | FleetModels,
    runners: OllamaRunners,
    observe: Observer,
) -> Audit | None:
    """Return the audit, None where it is off."""
    settings = context.settings
    rate = read_rate(settings.audit)
    if rate is None:
        return None
    return Audit(
        Sampler(rate.of_worker(settings.workers), seed=secrets.randbits(64)),
        completions=settings.audit_completions,
        upstream=upstream,
        traffic=traffic,
        runners=runners,
        models=models,
        store=chosen.entries,
        clock=context.clock,
        observe=observe,
        tasks=context.tasks,
        siblings=context.siblings,
    )


def _templates(context: Context, probes: Probes, models: OllamaModels | FleetModels) -> ModelTemplates | None:
    if context.settings.cache_dated_templates:
        return None
    return ModelTemplates(probes, models, clock=context.clock, tasks=context.tasks)
