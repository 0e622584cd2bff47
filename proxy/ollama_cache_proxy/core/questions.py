"""A question: a candidate with all that it takes to look it up, to ask Ollama, and to store the response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import ParamSpec, Protocol

from ollama_cache_proxy.core.facts import NOTHING, Exchange, Observer, Saved
from ollama_cache_proxy.core.fingerprint_key import Fingerprinting
from ollama_cache_proxy.core.lanes import Lanes
from ollama_cache_proxy.core.ports import Clock, Identity, Models, Templates, Upstream
from ollama_cache_proxy.core.prompt_watch import PromptWatch
from ollama_cache_proxy.core.store_ports import EntryStore, SharedFlights
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.core.unanswered import Unanswered
from ollama_cache_proxy.policy import embeddings
from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.key import Scope
from ollama_cache_proxy.policy.lifetimes import Lifetime, Renewal, renewals_of
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.listing.list_forms import KnownForms, Source
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.purge import Purges
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import Directives, Hit
from ollama_cache_proxy.policy.rules import Rules

P = ParamSpec("P")


@record
class Neighbours:
    """What serving depends on, put together once by the composition root."""

    rules: Rules
    store: EntryStore
    upstream: Upstream
    models: Models
    clock: Clock
    observe: Observer
    tasks: Tasks
    purges: Purges
    fingerprinting: Fingerprinting
    shared_flights: SharedFlights | None = None
    """None where flights are those of this process alone."""
    templates: Templates | None = None
    """None where models whose templates write the date are cached like others."""
    forms: KnownForms = field(default_factory=KnownForms)
    unanswered: Unanswered = field(default_factory=Unanswered)
    turns: Turns = field(default_factory=Turns)
    audit: Auditor | None = None
    """None where no hits are audited."""
    recorder: Recorder | None = None
    """None where no requests are recorded."""
    forecaster: Forecaster | None = None
    """None where nobody asks what other settings would have given."""
    prompts: PromptWatch | None = None
    """None where nothing of prompts is looked at."""
    lanes: Lanes | None = None
    """None where no request waits for others."""


class Recorder(Protocol):
    """Writes requests to files, for `warm`. No method waits, or raises."""

    def record(self, key: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Write the request of a question to a file, unless it was written already."""


class Auditor(Protocol):
    """Draws hits, to compare them later with what Ollama says then. No method waits."""

    def audits(self, candidate: Candidate) -> bool:
        """Return whether hits of a candidate are drawn at all."""

    def gap(self, key: str) -> int:
        """Return which one of the next hits of this key is drawn, counted from 1. See `audit_sampling.Sampler`."""

    def passed(self, key: str, hits: int) -> None:
        """Count hits of this key that were served since, and of which `hit` was not told."""

    def hit(self, question: Question, hit: Hit) -> None:
        """Take in a hit that was served, unless it came by the fast path."""

    def items(self, question: Question) -> None:
        """Take in the known texts of a list of which only some were known."""


class Forecaster(Protocol):
    """Samples what is asked for, for forecasts. No method waits."""

    def asked(self, question: Question, rules: Rules, exchange: Exchange) -> None:
        """Take in how a question was answered under these rules; its listing, if any, says which texts were known."""

    def again(self, exchange: Exchange, hits: int) -> None:
        """Take in hits of the fast path that are like this exchange."""

    def passed(self, bypassed: Bypassed, exchange: Exchange) -> None:
        """Take in a request that bypassed the cache."""


def sampled(take_in: Callable[P, None], *args: P.args, **named: P.kwargs) -> None:
    """Have the forecaster take in an exchange, which is over whatever becomes of that."""
    try:
        take_in(*args, **named)
    except Exception as error:  # noqa: BLE001 - it reads requests that nothing else here reads
        told = {"message": "a request was not sampled", "exception": error}
        asyncio.get_running_loop().call_exception_handler(told)


@record
class Bypassed:
    """A request that bypassed the cache, with what would be in its key."""

    endpoint: Endpoint
    policy: Policy | None
    request: Request
    """Its fields are those for Ollama."""
    body: bytes
    namespace: str
    rules: Rules


@record
class Listing:
    """The part of a question that is about a list of texts."""

    text_list: TextList
    keys: Mapping[str, str]
    """The keys of items in Ollama's own form, by text; odd texts have none."""
    others: Mapping[str, str] | None = None
    """Likewise those of items in another form, where they were made already."""
    known: Mapping[str, Item] = field(default_factory=dict)
    """The stored items that may be used, by text."""
    saved: Saved = NOTHING
    """What those save Ollama."""
    age: int | None = None
    """The age of the oldest of them, in seconds; None where there is none."""
    renewals: Mapping[str, Renewal] = field(default_factory=dict)
    """What it takes to renew those of them that a hit renews, by key."""

    @property
    def known_texts(self) -> int:
        """How many of the caller's texts are known, duplicates counted."""
        return sum(text in self.known for text in self.text_list.texts)


@record
class Question:
    """A candidate with its identity, key and policy; after the lookup also with the generation."""

    request: Request
    """Its fields are those for Ollama, so that the key is made of what Ollama gets."""
    body: bytes
    directives: Directives
    candidate: Candidate
    identity: Identity
    scope: Scope
    key: str
    policy: Policy | None
    lifetime: Lifetime
    """How long a response to it may live."""
    purges: int
    """How many purges had begun when the store was asked."""
    generation: str | None = None
    """The generation of the store at the lookup; None where the store did not answer."""
    listing: Listing | None = None
    spent: float = 0.0
    """Seconds spent waiting for a flight that failed."""

    @property
    def source(self) -> Source:
        """What writes the response."""
        return self.scope.digest, self.scope.version, self.candidate.endpoint.operation

    def other_keys(self) -> Mapping[str, str]:
        """Return the keys of items in another form than Ollama's own, by text; empty where the question is no list."""
        if self.listing is None:
            return {}
        if self.listing.others is not None:
            return self.listing.others
        return embeddings.other_keys(self.listing.text_list, self.scope, self.request.fields)

    def keys(self) -> dict[str, str | None]:
        """Return every key under which something of the response may be stored, with the text that it is about."""
        own = {} if self.listing is None else self.listing.keys
        items = {key: text for keys in (own, self.other_keys()) for text, key in keys.items()}
        return {self.key: None} | items

    def renewals(self, hit: Hit | None) -> Mapping[str, Renewal]:
        """Return by key what of the store a served response has used and a hit renews.

        `hit` is what was served; None where the known texts of a list were joined with others.
        """
        if self.listing is not None and (self.listing.known or hit is None):
            return self.listing.renewals
        return {} if hit is None else renewals_of(((self.key, hit.entry),))

    @property
    def texts(self) -> int:
        """How many texts the list has; 0 where the question is no list."""
        return 0 if self.listing is None else len(self.listing.text_list.texts)
