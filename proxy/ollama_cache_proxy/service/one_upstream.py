"""What stands in front of one Ollama, whether it is the only one: connections, digests of models, context lengths."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from ollama_cache_proxy.core.facts import Observer
from ollama_cache_proxy.core.ports import Siblings
from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.settings import is_loopback
from ollama_cache_proxy.service.tls import for_servers, tls_from_file
from ollama_cache_proxy.upstream.digests import OllamaModels
from ollama_cache_proxy.upstream.loaded_contexts import LoadedContexts
from ollama_cache_proxy.upstream.ollama_server import Ollama
from ollama_cache_proxy.upstream.probes import Probes
from ollama_cache_proxy.upstream.runners import OllamaRunners


def ollama_at(context: Context, url: str, observe: Observer) -> Ollama:
    """Return the Ollama at a URL; raise SettingsError. `observe` takes what its connections report."""
    settings = context.settings
    return Ollama(
        url,
        connect_timeout=settings.connect_timeout,
        deadline=settings.upstream_timeout,
        clock=context.clock,
        observe=observe,
        tasks=context.tasks,
        tls=tls_from_file("upstream_ca", settings.upstream_ca, for_servers),
    )


def contexts_at(  # noqa: PLR0913 - what it asks, whom it tells, and where it saves
    context: Context, url: str, ollama: Ollama, probes: Probes, values: ValueStore, *, siblings: Siblings | None
) -> LoadedContexts:
    """Return with which context lengths the Ollama at a URL loads models. `siblings` are told what it sees."""
    return LoadedContexts(
        OllamaRunners(probes),
        ollama,
        values,
        name=_machine(url) + ollama.name,
        clock=context.clock,
        tasks=context.tasks,
        observe=context.observer(),
        siblings=siblings,
    )


def models_at(  # noqa: PLR0913, PLR0917 - what it asks, whom it tells, and where it saves
    context: Context,
    url: str,
    probes: Probes,
    name: str,
    values: ValueStore,
    contexts: LoadedContexts,
    *,
    siblings: Siblings | None,
) -> OllamaModels:
    """Return the digests of the models of the Ollama at a URL. `siblings` are told of changes."""
    settings = context.settings
    return OllamaModels(
        probes,
        values,
        name=_machine(url) + name,
        deadline=settings.connect_timeout + 5,
        max_wait=None if settings.upstream_timeout is None else settings.upstream_timeout / 2,
        clock=context.clock,
        tasks=context.tasks,
        siblings=siblings,
        contexts=contexts,
    )


def _machine(url: str) -> str:
    """Return this machine's name if the URL is loopback, else "": proxies on several machines may share a Redis."""
    host = urlsplit(url).hostname or ""
    return f"{socket.gethostname()}/" if is_loopback(host) else ""
