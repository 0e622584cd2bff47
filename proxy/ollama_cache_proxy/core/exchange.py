"""One request from top to bottom. This file alone decides the order of the steps; policy/ decides each step.

    admit -> arrival -> classify -> look up -+- Hit ------> deliver
               |  (intake.py, lookup.py)     +- Forward --> flight (collapsing.py) -> deliver, store
               +- Bypass --> relay, chunk by chunk (relay.py)

Each step returns an `Outcome`; each exchange ends in one `Exchange`, which metrics, log and statistics observe.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final, assert_never

from ollama_cache_proxy.core.collapsing import Collapsing
from ollama_cache_proxy.core.delivery import Delivery
from ollama_cache_proxy.core.errors import ClientLeft, ProxyError
from ollama_cache_proxy.core.fast_path import Each, FastHits
from ollama_cache_proxy.core.intake import Arrival, Intake
from ollama_cache_proxy.core.known_questions import KnownQuestions
from ollama_cache_proxy.core.outcome import Outcome, Visit, exchange_fact
from ollama_cache_proxy.core.ports import Client
from ollama_cache_proxy.core.questions import Bypassed, Neighbours, Question, Recorder, sampled
from ollama_cache_proxy.core.relay import Relay
from ollama_cache_proxy.policy import endpoints, fields
from ollama_cache_proxy.policy.buffers import Buffers
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import changed
from ollama_cache_proxy.policy.recordable import recordable
from ollama_cache_proxy.policy.reuse import Forward, Hit, Refuse
from ollama_cache_proxy.policy.status import LET_IN, CacheStatus, Detail, Result, bypass

_MAX_CATEGORIES: Final = 32
_LOOPED: Final = "the request came back to the proxy: its upstream is the proxy itself"
_NOTHING_STORED: Final = "nothing fresh is stored, and the request says only-if-cached"


class Exchanges:
    """Serves requests; one instance a process. `each` is that of fast_path.py.

    `before` is the one whose place it takes: both count against the same buffers, and know the same categories.
    """

    def __init__(self, neighbours: Neighbours, *, each: Each | None = None, before: Exchanges | None = None) -> None:
        questions: KnownQuestions[Any] = KnownQuestions(neighbours)
        self.fast_path = FastHits(neighbours, each=each, questions=questions)
        self.serving = 0
        self._rules = neighbours.rules
        self._clock = neighbours.clock
        self._observe = neighbours.observe
        self._audit = neighbours.audit
        self._recorder = neighbours.recorder
        self._store = neighbours.store
        self._forecaster = neighbours.forecaster
        self._lanes = neighbours.lanes
        self.categories: Labels = Labels(_MAX_CATEGORIES) if before is None else before.categories
        self._intake = Intake(neighbours, categories=self.categories, classified=questions.take)
        self._delivery = Delivery(neighbours)
        self._relay = Relay(neighbours, self._delivery)
        self._collapsing = Collapsing(neighbours, self._delivery)
        room = neighbours.rules.max_buffered_bytes * 7 // 8  # the rest is for what is only relayed
        self.buffers: Buffers = Buffers(room) if before is None else before.buffers
        self.admits = self._intake.admits

    @property
    def waiting(self) -> int:
        """How many clients wait for a response that others can join."""
        return self._collapsing.waiting

    async def serve(self, request: Request, client: Client) -> None:
        """Answer one request, and report how it went, however it ends."""
        begun, ended = self._clock.monotonic(), False
        arrival = self._intake.arrival(request)
        visit = Visit(endpoint=arrival.endpoint, client=client, hold=self.buffers.hold(), begun=begun)
        self.serving += 1
        try:
            with visit.hold:
                visit.outcome = await self._answer(visit, request, arrival)
            ended = True
        except ClientLeft:
            client.abort()
        finally:
            self.serving -= 1
            exchange = exchange_fact(visit, request, self._clock.monotonic(), ended=ended)
            self._observe(exchange)
            if self._forecaster is not None and visit.bypassed is not None:
                sampled(self._forecaster.passed, visit.bypassed, exchange)
            elif self._forecaster is not None and visit.question is not None:
                sampled(self._forecaster.asked, visit.question, self._rules, exchange)
        if ended and visit.question is not None:
            if self._recorder is not None and visit.outcome.status == HTTPStatus.OK:
                self._record(self._recorder, request, visit.question)
            if visit.outcome.hit is not None:
                self.fast_path.note(client.raw, visit.question, visit.outcome.hit, exchange)

    def _record(self, recorder: Recorder, request: Request, question: Question) -> None:
        endpoint = question.candidate.endpoint
        headers = recordable(endpoint, request.fields, self._rules.credentials)
        if headers is not None:
            recorder.record(question.key, endpoint.path, headers, question.body)

    async def _answer(self, visit: Visit, request: Request, arrival: Arrival) -> Outcome:
        """Admit the request, read it, and relay or answer it."""
        if not self.admits(request):
            return await self._delivery.refuse_host(visit, request)
        if fields.looped(request.fields, self._rules.pseudonym):
            return await self._delivery.refuse(visit, HTTPStatus.LOOP_DETECTED, _LOOPED, bypass(Detail.LOOP))
        body: bytes | None = None
        if not endpoints.is_other(arrival.endpoint):  # unknown endpoints, uploads among them, are never held in memory
            try:
                body = await visit.client.body(self._rules.max_request_bytes, visit.hold.grow)
            except ProxyError as error:
                return await self._delivery.failure(visit, error, bypass(Detail.BODY_TIMEOUT))
        classified = self._intake.classified(arrival, body, visit.hold)
        if not isinstance(classified, Bypass | Candidate):
            classified = await classified
        visit.model = classified.model
        arrival = self._with_ticket(visit, request, arrival, body, classified)
        match classified:
            case Bypass(detail=detail):
                if body and self._forecaster is not None and detail in LET_IN:
                    visit.bypassed = self._bypassed(arrival, body)
                if classified.stabilised is not None:
                    visit.rule, body = classified.stabilised.rule, classified.stabilised.body
                return await self._pass_on(visit, arrival, body, classified)
            case Candidate():
                return await self._reuse(visit, arrival, body or b"", classified)
            case never:
                assert_never(never)

    def _with_ticket(
        self, visit: Visit, request: Request, arrival: Arrival, body: bytes | None, classified: Bypass | Candidate
    ) -> Arrival:
        """Return the arrival with what its request waits with, where there are lanes."""
        if self._lanes is None:
            return arrival
        ticket = self._lanes.ticket(
            arrival.endpoint,
            request.fields,
            body,
            classified,
            category=arrival.directives.category,
            address=visit.client.address,
            credentials=self._rules.credentials,
        )
        return changed(arrival, request=changed(arrival.request, ticket=ticket))

    async def _reuse(self, visit: Visit, arrival: Arrival, body: bytes, candidate: Candidate) -> Outcome:
        """Answer a candidate from the store, or have Ollama asked for it."""
        found = await self._intake.looked_up(arrival, candidate, body, visit.note_question)
        if isinstance(found, Bypass):
            return await self._pass_on(visit, arrival, body, found)
        question = visit.question = found.question
        match found.reuse:
            case Hit(entry=entry) if not (visit.hold.grow(len(entry.body)) or arrival.directives.only_if_cached):
                full = Bypass(detail=Detail.BUFFERS_FULL, model=candidate.model)
                return await self._relay.pass_on(visit, arrival, body, full, repeatable=True)
            case Hit() as hit:
                outcome = await self._delivery.hit(visit, question, hit)
                self._renew(question.renewals(hit))
                if self._audit is not None:
                    self._audit.hit(question, hit)
                return outcome
            case Forward(reason=reason):
                outcome = await self._collapsing.forward(visit, question, reason)
                if outcome.cache.known:
                    self._renew(question.renewals(None))
                    if self._audit is not None:
                        self._audit.items(question)
                return outcome
            case Refuse():
                return await self._refuse_to_ask(visit)
            case never:
                assert_never(never)

    def _renew(self, renewals: Mapping[str, Renewal]) -> None:
        """Have the store renew what was served."""
        if renewals:
            self._store.renew(renewals)

    def _bypassed(self, arrival: Arrival, body: bytes) -> Bypassed:
        return Bypassed(
            endpoint=arrival.endpoint,
            policy=arrival.policy,
            request=arrival.request,
            body=body,
            namespace=arrival.directives.namespace,
            rules=self._rules,
        )

    def _pass_on(
        self, visit: Visit, arrival: Arrival, body: bytes | None, found: Bypass
    ) -> Coroutine[Any, Any, Outcome]:
        """Relay a bypass, unless its client does not want Ollama asked."""
        if arrival.endpoint.changes:
            return self._relay.change(visit, arrival, body, found)
        if arrival.directives.only_if_cached and arrival.policy is not None:
            return self._refuse_to_ask(visit, found.detail)
        repeatable = not endpoints.is_other(arrival.endpoint)
        return self._relay.pass_on(visit, arrival, body, found, repeatable=repeatable)

    def _refuse_to_ask(self, visit: Visit, detail: Detail = Detail.ONLY_IF_CACHED) -> Coroutine[Any, Any, Outcome]:
        cache = CacheStatus(result=Result.BYPASS, detail=detail)
        return self._delivery.refuse(visit, HTTPStatus.GATEWAY_TIMEOUT, _NOTHING_STORED, cache)
