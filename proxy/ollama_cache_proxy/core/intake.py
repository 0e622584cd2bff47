"""From a request to a decision: a bypass, or a question with the result of its lookup.

An exchange and an explanation take the same steps, and both take them here: find the endpoint, read the directives,
classify by head, size and body, pose the question, look it up.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

from ollama_cache_proxy.core.lookup import StoreLookup
from ollama_cache_proxy.core.ports import Identity, Templates
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.policy import classify, endpoints, fields, outline, stable_prefix, template_dates
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.credentials import with_authorization
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import Directives, Hit, Reuse, read_directives, without_no_cache
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish

Classified: TypeAlias = Callable[[Endpoint, str, bytes], tuple[Candidate, int] | None]
"""Takes an endpoint, the category, and a body; see `KnownQuestions.take`."""
_LARGE_MULTIPART: Final = 1 << 20
"""Bytes of a multipart body; a larger one is read in turns of the event loop."""


@record
class Arrival:
    """What is known from the head of a request."""

    endpoint: Endpoint
    policy: Policy | None
    directives: Directives
    request: Request
    """Its fields are those for Ollama."""
    bypass: Bypass | None
    """The bypass, where the head is enough to decide it."""


@record
class Found:
    """A question, and whether the store's entry may answer it."""

    question: Question
    reuse: Reuse


class Intake:
    """Decides about requests; writes nothing to a client and asks Ollama for no response.

    `categories` bounds the categories of entries; None where nothing will be stored. `classified` gives what the fast
    path has classified already.
    """

    def __init__(
        self, neighbours: Neighbours, *, categories: Labels | None = None, classified: Classified | None = None
    ) -> None:
        self._rules = neighbours.rules
        self._clock = neighbours.clock
        self._lookup = StoreLookup(neighbours)
        self._templates = neighbours.templates
        self._turns = neighbours.turns
        self._categories = categories
        self._classified = classified

    def admits(self, request: Request) -> bool:
        """Return whether Ollama's Host rule, for a listener on loopback, admits the request; own routes included."""
        rules = self._rules
        return not rules.guard_host or fields.allowed_host(
            request.fields,
            hostname=rules.hostname,
            local_addresses=rules.local_addresses,
            more=rules.allowed_hosts,
        )

    def arrival(self, request: Request) -> Arrival:
        """Read the head of a request."""
        endpoint, exact = endpoints.find(request.method, request.target)
        directives = read_directives(request.fields, max_ttl=self._rules.max_ttl)
        policy = self._rules.policy(endpoint, directives.category)
        forwarded = fields.forwarded_request(request.fields, self._rules.pseudonym)
        if self._rules.authorization:
            forwarded = with_authorization(self._rules.credentials, forwarded, self._rules.authorization)
        return Arrival(
            endpoint=endpoint,
            policy=policy,
            directives=directives,
            request=Request(
                method=request.method,
                target=request.target,
                fields=forwarded,
                prefix=request.prefix,
            ),
            bypass=classify.by_head(
                endpoint,
                request,
                directives,
                policy=None if policy is Policy.OFF and self._rules.model_may_open(directives.category) else policy,
                exact=exact,
            ),
        )

    def classified(
        self, arrival: Arrival, body: bytes | None, hold: Hold
    ) -> Bypass | Candidate | Coroutine[Any, Any, Bypass | Candidate]:
        """Classify a request by its body, which is None where it is over the limit or `hold` has no room for it.

        A coroutine is returned where that takes longer than a turn of the event loop should.
        """
        found = self._as_it_came(arrival, body, hold)
        rules, fields = self._rules.stable_prefix, arrival.request.fields
        if body and any(rule.is_for(arrival.endpoint, fields) for rule in rules):
            return self._stabilised(arrival, body, hold, found)
        return found

    async def _stabilised(
        self,
        arrival: Arrival,
        body: bytes,
        hold: Hold,
        found: Bypass | Candidate | Coroutine[Any, Any, Bypass | Candidate],
    ) -> Bypass | Candidate:
        """Return a bypass of the body with what a rule pins, where one fits; else what was found."""
        as_it_came = found if isinstance(found, Bypass | Candidate) else await found
        if not hold.grow(len(body)):
            return as_it_came
        steps = stable_prefix.stabilised(self._rules.stable_prefix, arrival.endpoint, arrival.request.fields, body)
        changed = finish(steps) if outline.quick(body) is not None else await self._turns.run(steps)
        if changed is None:
            return as_it_came
        return Bypass(detail=Detail.PREFIX_STABILISED, model=as_it_came.model, stabilised=changed)

    def _as_it_came(
        self, arrival: Arrival, body: bytes | None, hold: Hold
    ) -> Bypass | Candidate | Coroutine[Any, Any, Bypass | Candidate]:
        """Classify a request by what it is without rules that pin anything."""
        if arrival.bypass is not None:
            return arrival.bypass
        if body is None:
            return Bypass(detail=Detail.BUFFERS_FULL if hold.refused else Detail.TOO_LARGE)
        known = None
        if self._classified is not None:
            known = self._classified(arrival.endpoint, arrival.directives.category, body)
        if known is not None:
            return known[0] if hold.grow(known[1]) else Bypass(detail=Detail.BUFFERS_FULL)
        return self._by_body(arrival, body, hold)

    def _by_body(
        self, arrival: Arrival, body: bytes, hold: Hold
    ) -> Bypass | Candidate | Coroutine[Any, Any, Bypass | Candidate]:
        endpoint = arrival.endpoint
        policy_of = partial(self._rules.policy, endpoint, arrival.directives.category)
        if not endpoint.multipart:  # of a multipart body little is kept
            counts = outline.quick(body)
            if counts is None:
                streams = self._rules.streams
                return self._turns.run(
                    classify.by_large_body(endpoint, body, policy_of=policy_of, streams=streams, reserve=hold.grow)
                )
            if not hold.grow(counts.weight):
                return Bypass(detail=Detail.BUFFERS_FULL)
        fields, streams = arrival.request.fields, self._rules.streams
        if endpoint.multipart and len(body) > _LARGE_MULTIPART:
            steps = classify.by_large_multipart(endpoint, body, policy_of=policy_of, streams=streams, fields=fields)
            return self._turns.run(steps)
        return classify.by_body(endpoint, body, policy_of=policy_of, streams=streams, fields=fields)

    async def looked_up(
        self, arrival: Arrival, candidate: Candidate, body: bytes, on_question: Callable[[Question], object]
    ) -> Bypass | Found:
        """Pose a question and look it up; `on_question` is called with the question before the store is asked.

        A candidate whose model has no known digest becomes a bypass after all, and where the setting says so one whose
        prompt may hold the date.
        """
        begun = self._clock.monotonic()
        directives, category = arrival.directives, arrival.directives.category
        if directives.no_cache and candidate.stream and self._ignores_no_cache(arrival):
            directives = without_no_cache(directives)
        if directives.category and self._categories is not None:  # bounded here, before it is stored
            directives = replace(directives, category=self._categories.of(directives.category))
        question = await self._lookup.pose(candidate, arrival.request, body, directives, category)
        if question is None:
            spent = self._clock.monotonic() - begun
            return Bypass(detail=Detail.NO_DIGEST, model=candidate.model, spent=spent)
        if self._templates is not None and self._may_hold_date(candidate, question.identity, self._templates):
            spent = self._clock.monotonic() - begun
            return Bypass(detail=Detail.DATED_TEMPLATE, model=candidate.model, spent=spent)
        on_question(question)
        question, reuse = await self._lookup.find(question)
        if isinstance(reuse, Hit):
            return Found(question=question, reuse=reuse)
        for identity in question.identity.others:
            if self._templates is not None and self._may_hold_date(candidate, identity, self._templates):
                continue
            posed = await self._lookup.posed(candidate, arrival.request, body, directives, category, identity)
            other, found = await self._lookup.find(posed)
            if isinstance(found, Hit):
                on_question(other)
                return Found(question=other, reuse=found)
        return Found(question=question, reuse=reuse)

    def _may_hold_date(self, candidate: Candidate, identity: Identity, templates: Templates) -> bool:
        """Return whether the prompt of a candidate may hold the date, or whether that is not known yet."""
        if not template_dates.renders(candidate):
            return False
        return template_dates.request_writes_date(candidate) or templates.writes_date(identity) is not False

    def _ignores_no_cache(self, arrival: Arrival) -> bool:
        return self._rules.ignore_no_cache.include(arrival.endpoint, arrival.request.fields)
