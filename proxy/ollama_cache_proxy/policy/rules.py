"""The settings that an exchange depends on, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from ollama_cache_proxy.policy.callers import Callers
from ollama_cache_proxy.policy.classify import is_embedding
from ollama_cache_proxy.policy.credentials import CredentialRules
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.host_names import HostNames
from ollama_cache_proxy.policy.lifetimes import Lifetime, LifetimeKind, lifetime
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.model_names import canonical
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.replay_pace import Pace
from ollama_cache_proxy.policy.stable_prefix import PrefixRule


@record
class Terms:
    """What is set for one model or category; None where that says nothing."""

    ttl: int | None = None
    """Seconds."""
    kind: LifetimeKind | None = None
    policy: Policy | None = None


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
    stable_prefix: Sequence[PrefixRule] = ()
    """What is pinned in the beginning of prompts."""
    unbuffered_streams: bool
    """Whether streams tell an nginx in front not to hold them back."""

    ttl_completion: int
    ttl_embedding: int
    max_ttl: int
    lifetime: LifetimeKind
    """The kind of lifetime that embeddings have."""
    max_lifetime: int
    """The longest lifetime of an entry that hits renew."""
    models: Mapping[str, Terms]
    """By canonical name."""
    categories: Mapping[str, Terms]
    max_request_bytes: int
    max_entry_bytes: int
    max_list_bytes: int
    max_buffered_bytes: int
    max_misses: int | None
    """How many misses of one model may be in flight; None for any number."""
    estimated_counts: bool
    """Whether a text known from a list answers alone with its share of that list's token count."""
    prompt_slots: int
    """How many prompts of a model Ollama holds."""
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

    def policy(self, endpoint: Endpoint, category: str = "", model: str = "") -> Policy | None:
        """Return the policy of a request to an endpoint; None where its responses can never be reused.

        What is set for its category comes before what is set for its model, since the request itself names it for a
        purpose, and both before what is set for the endpoint.
        """
        policy = self.policies.get(endpoint.operation, endpoint.policy)
        for terms in self._terms(category, model) if endpoint.policy is not None else ():
            policy = policy if terms.policy is None else terms.policy
        return policy

    def model_may_open(self, category: str) -> bool:
        """Return whether a model may turn on what is off for the endpoint of a request of this category."""
        if not self.models or (category in self.categories and self.categories[category].policy is not None):
            return False
        return any(terms.policy not in (None, Policy.OFF) for terms in self.models.values())

    def _terms(self, category: str, model: str) -> Sequence[Terms]:
        """Return what is set for a request; the last to say something is heard."""
        if not (self.models or self.categories):  # the usual case, on the way of each hit
            return ()
        found = self.models.get(canonical(model) or ""), self.categories.get(category)
        return [terms for terms in found if terms is not None]

    def pace_for(self, endpoint: Endpoint, fields: Fields) -> Pace:
        """Return how a stream is replayed to a request with these fields."""
        return Pace.LINE if self.line_pace_for.include(endpoint, fields) else self.pace

    def lifetime_of(self, endpoint: Endpoint, category: str = "", model: str = "", *, asked: int | None) -> Lifetime:
        """Return the lifetime of a response; `asked` is how many seconds the request asks for, if it does.

        What a request asks for is fixed. Each of `ttl` and `lifetime` is that of the category, else of the model, else
        of the setting. Completions have a fixed lifetime: their keys do not tell that they would be the same again.
        """
        if asked is not None:
            return Lifetime(seconds=asked)
        embeds = is_embedding(endpoint)
        ttl, kind = (self.ttl_embedding, self.lifetime) if embeds else (self.ttl_completion, LifetimeKind.FIXED)
        for terms in self._terms(category, model):
            ttl = ttl if terms.ttl is None else terms.ttl
            kind = terms.kind if embeds and terms.kind is not None else kind
        return lifetime(kind, ttl, self.max_lifetime)

    def max_response_bytes(self, endpoint: Endpoint) -> int:
        """Return the size in bytes up to which an endpoint's responses are stored."""
        return self.max_list_bytes if is_embedding(endpoint) else self.max_entry_bytes

    def linger_seconds(self, endpoint: Endpoint) -> float:
        """Return for how many seconds a flight without clients goes on: vectors are worth finishing."""
        return self.linger if is_embedding(endpoint) else 0.0
