"""The settings that decide about one exchange, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ollama_cache_proxy.policy.classify import is_embedding
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.record import record


@record
class Rules:
    """What an exchange follows. Sizes are bytes, times seconds.

    `policies` holds what is set for an operation; `streams` says whether streams are recorded where their endpoint's
    policy allows it, `paced` whether they are replayed at the pace they had. `linger` is how long an embeddings request
    goes on after its last client left; `max_misses` bounds the misses of one model that are under way, None not at
    all; `epoch` is part of every key; `guard_host` applies Ollama's Host rule, with this machine's `hostname` and
    `local_addresses`.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)
    streams: bool = False
    paced: bool = False

    ttl_completion: int = 3600
    ttl_embedding: int = 86_400
    max_ttl: int = 604_800
    max_request_bytes: int = 8 * 1024 * 1024
    max_entry_bytes: int = 1024 * 1024
    max_list_bytes: int = 64 * 1024 * 1024
    max_buffered_bytes: int = 256 * 1024 * 1024
    max_misses: int | None = None
    linger: float = 60.0
    epoch: str = ""
    guard_host: bool = False
    hostname: str = ""
    local_addresses: frozenset[str] = frozenset()

    def policy(self, endpoint: Endpoint) -> Policy | None:
        """Give what holds for this endpoint; None where answers can never be reused."""
        return self.policies.get(endpoint.operation, endpoint.policy)

    def lifetime(self, endpoint: Endpoint) -> int:
        """Give the freshness lifetime of this endpoint's answers, in seconds."""
        return self.ttl_embedding if is_embedding(endpoint) else self.ttl_completion

    def max_answer(self, endpoint: Endpoint) -> int:
        """Give the size up to which this endpoint's answers are kept, in bytes."""
        return self.max_list_bytes if is_embedding(endpoint) else self.max_entry_bytes

    def lingers(self, endpoint: Endpoint) -> float:
        """Give the seconds that a request nobody waits for any more goes on: vectors are worth finishing."""
        return self.linger if is_embedding(endpoint) else 0.0
