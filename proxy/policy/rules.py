"""The settings that decide about one exchange, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.policy.classify import is_embedding
from proxy.policy.endpoints import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an exchange follows. Sizes are bytes, times seconds.

    `linger` is how long an embeddings request goes on after its last client left; `epoch` is part of every key;
    `guard_host` applies Ollama's Host rule, with this machine's `hostname` and `local_addresses`.
    """

    ttl_completion: int = 3600
    ttl_embedding: int = 86_400
    max_ttl: int = 604_800
    max_request_bytes: int = 8 * 1024 * 1024
    max_entry_bytes: int = 1024 * 1024
    max_list_bytes: int = 64 * 1024 * 1024
    linger: float = 60.0
    epoch: str = ""
    guard_host: bool = False
    hostname: str = ""
    local_addresses: frozenset[str] = frozenset()

    def lifetime(self, endpoint: Endpoint) -> int:
        """Give the freshness lifetime of this endpoint's answers, in seconds."""
        return self.ttl_embedding if is_embedding(endpoint) else self.ttl_completion

    def max_answer(self, endpoint: Endpoint) -> int:
        """Give the size up to which this endpoint's answers are kept, in bytes."""
        return self.max_list_bytes if is_embedding(endpoint) else self.max_entry_bytes

    def lingers(self, endpoint: Endpoint) -> float:
        """Give the seconds that a request nobody waits for any more goes on: vectors are worth finishing."""
        return self.linger if is_embedding(endpoint) else 0.0
