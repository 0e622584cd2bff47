"""The settings that decide about one exchange, as plain values."""

from __future__ import annotations

from collections.abc import Mapping

from ollama_cache_proxy.policy.classify import is_embedding
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.record import record


@record
class Rules:
    """What an exchange follows. Sizes are bytes, times seconds. Defaults are those of service/settings.py.

    `policies` holds what is set for an operation; `streams` says whether streams are recorded where their endpoint's
    policy allows it, `paced` whether they are replayed at the pace they had. `linger` is how long an embeddings request
    goes on after its last client left; `max_misses` bounds the misses of one model that are under way, None not at
    all; `epoch` is part of every key; `guard_host` applies Ollama's Host rule, with this machine's `hostname` and
    `local_addresses`.
    """

    policies: Mapping[str, Policy]
    streams: bool
    paced: bool

    ttl_completion: int
    ttl_embedding: int
    max_ttl: int
    max_request_bytes: int
    max_entry_bytes: int
    max_list_bytes: int
    max_buffered_bytes: int
    max_misses: int | None
    linger: float
    epoch: str
    guard_host: bool
    hostname: str
    local_addresses: frozenset[str]

    def policy(self, endpoint: Endpoint) -> Policy | None:
        """Return what holds for this endpoint; None where answers can never be reused."""
        return self.policies.get(endpoint.operation, endpoint.policy)

    def lifetime(self, endpoint: Endpoint) -> int:
        """Return the freshness lifetime of this endpoint's answers, in seconds."""
        return self.ttl_embedding if is_embedding(endpoint) else self.ttl_completion

    def max_response_bytes(self, endpoint: Endpoint) -> int:
        """Return the size up to which this endpoint's answers are kept, in bytes."""
        return self.max_list_bytes if is_embedding(endpoint) else self.max_entry_bytes

    def linger_seconds(self, endpoint: Endpoint) -> float:
        """Return the seconds that a request nobody waits for any more goes on: vectors are worth finishing."""
        return self.linger if is_embedding(endpoint) else 0.0
