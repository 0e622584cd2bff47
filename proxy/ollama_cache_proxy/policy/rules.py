"""The settings that an exchange depends on, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ollama_cache_proxy.policy.callers import Callers
from ollama_cache_proxy.policy.classify import is_embedding
from ollama_cache_proxy.policy.credentials import CredentialRules
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.host_names import HostNames
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.replay_pace import Pace


@record
class Rules:
    """The rules of exchanges. Times are seconds. Defaults are those of service/settings.py."""

    policies: Mapping[str, Policy]
    """The policies that are set, by operation."""
    streams: bool
    """Whether streams are recorded where their endpoint's policy allows it."""
    pace: Pace
    """How streams are replayed."""
    line_pace_for: Callers
    """The requests whose streams are replayed line by line, whatever `pace` is."""
    ignore_no_cache: Callers
    """The requests whose `no-cache` is not heard where they ask for a stream."""
    unbuffered_streams: bool
    """Whether streams tell an nginx in front not to hold them back."""

    ttl_completion: int
    ttl_embedding: int
    max_ttl: int
    max_request_bytes: int
    max_entry_bytes: int
    max_list_bytes: int
    max_buffered_bytes: int
    max_misses: int | None
    """How many misses of one model may be in flight; None for any number."""
    estimated_counts: bool
    """Whether a text known from a list answers alone with its share of that list's token count."""
    linger: float
    """How long an embeddings request goes on after its last client has left."""
    epoch: str
    """Part of every key."""
    credentials: CredentialRules
    """What counts as a credential."""
    pseudonym: bytes
    """This proxy's name in Via, the same in all of its processes."""
    authorization: bytes = field(default=b"", repr=False)
    """The Authorization that clients' requests without one go out with; empty for none."""
    guard_host: bool
    """Whether Ollama's Host rule applies."""
    hostname: str
    """This machine's name, for the Host rule."""
    allowed_hosts: HostNames
    """The names that it allows besides."""
    local_addresses: frozenset[str]
    """The addresses of its interfaces, for the Host rule."""

    def policy(self, endpoint: Endpoint) -> Policy | None:
        """Return the policy of an endpoint; None where its responses can never be reused."""
        return self.policies.get(endpoint.operation, endpoint.policy)

    def pace_for(self, endpoint: Endpoint, fields: Fields) -> Pace:
        """Return how a stream is replayed to a request with these fields."""
        return Pace.LINE if self.line_pace_for.include(endpoint, fields) else self.pace

    def lifetime(self, endpoint: Endpoint) -> int:
        """Return the freshness lifetime of an endpoint's responses, in seconds."""
        return self.ttl_embedding if is_embedding(endpoint) else self.ttl_completion

    def max_response_bytes(self, endpoint: Endpoint) -> int:
        """Return the size in bytes up to which an endpoint's responses are stored."""
        return self.max_list_bytes if is_embedding(endpoint) else self.max_entry_bytes

    def linger_seconds(self, endpoint: Endpoint) -> float:
        """Return for how many seconds a flight without clients goes on: vectors are worth finishing."""
        return self.linger if is_embedding(endpoint) else 0.0
