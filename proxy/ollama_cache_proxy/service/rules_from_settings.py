"""The rules of one exchange, from the settings and this machine."""

from __future__ import annotations

import socket

from ollama_cache_proxy.policy.callers import callers
from ollama_cache_proxy.policy.credentials import credential_rules
from ollama_cache_proxy.policy.endpoints import REUSABLE, Policy
from ollama_cache_proxy.policy.fields import pseudonym
from ollama_cache_proxy.policy.host_names import host_names
from ollama_cache_proxy.policy.lifetimes import LifetimeKind
from ollama_cache_proxy.policy.model_names import canonical
from ollama_cache_proxy.policy.replay_pace import Pace
from ollama_cache_proxy.policy.rules import Rules, Terms
from ollama_cache_proxy.service.prefix_tables import chosen_rules
from ollama_cache_proxy.service.settings import Settings, secret, setting_of
from ollama_cache_proxy.service.tables import Table


def rules_from(settings: Settings, *, loopback: bool, instance: str) -> Rules:
    """Return the rules of exchanges; `loopback`: only this machine can reach the listener.

    `instance` tells this proxy from others in Via.
    """
    hostname = socket.gethostname()
    return Rules(
        policies={row.operation: Policy(getattr(settings, setting_of(row.operation))) for row in REUSABLE},
        streams=settings.cache_streams,
        pace=Pace(settings.stream_pace),
        line_pace_for=callers(settings.line_pace_for),
        ignore_no_cache=callers(settings.ignore_no_cache),
        stable_prefix=chosen_rules(settings.stable_prefix, settings.stable_prefix_rules),
        unbuffered_streams=settings.unbuffered_streams,
        ttl_completion=settings.ttl_completion,
        ttl_embedding=settings.ttl_embedding,
        max_ttl=settings.max_ttl,
        lifetime=LifetimeKind(settings.lifetime),
        max_lifetime=settings.max_lifetime,
        models={canonical(name) or name: _terms(table) for name, table in settings.models.items()},
        categories={name: _terms(table) for name, table in settings.categories.items()},
        max_request_bytes=settings.max_request_bytes,
        max_entry_bytes=settings.max_entry_bytes,
        max_list_bytes=settings.max_list_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        max_misses=settings.max_misses,
        estimated_counts=settings.estimated_counts,
        prompt_slots=settings.prompt_slots,
        linger=settings.linger,
        epoch=settings.epoch,
        credentials=credential_rules(settings.credential_fields, settings.placeholder_credentials),
        pseudonym=pseudonym(instance),
        authorization=_for_clients(settings),
        guard_host=loopback,
        hostname=hostname,
        allowed_hosts=host_names(settings.allowed_hosts),
        local_addresses=_own_addresses(hostname),
    )


def _terms(table: Table) -> Terms:
    return Terms(
        ttl=table.ttl,
        kind=None if table.lifetime is None else LifetimeKind(table.lifetime),
        policy=None if table.cache is None else Policy(table.cache),
    )


def _for_clients(settings: Settings) -> bytes:
    """Return the Authorization of clients' requests without one, empty for none."""
    return secret(settings.upstream_authorization).encode() if settings.upstream_authorization_for == "all" else b""


def _own_addresses(hostname: str) -> frozenset[str]:
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(hostname, None))
    except OSError:
        return frozenset()
