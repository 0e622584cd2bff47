"""From a request to a decision: pass it on, or look for it, and what of it is known.

An exchange and an explanation of it take the same steps, and take them here: find the endpoint, read the directives,
judge by the head, by the size and by the body, pose the question, look it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ollama_cache_proxy.core.lookup import StoreLookup
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.policy import classify, document, endpoints, fields
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import Directives, Reuse, read_directives
from ollama_cache_proxy.policy.status import Detail


@record
class Arrival:
    """What the head of a request says."""

    endpoint: Endpoint
    policy: Policy | None
    directives: Directives
    request: Request
    """Its fields are those for Ollama."""
    bypass: Bypass | None
    """Why it is passed on, where its head says so."""


@record
class Found:
    """A question, with what the store knows of it, and whether that answers it."""

    question: Question
    reuse: Reuse


class Intake:
    """Decides; nothing here reaches a client, and nothing asks Ollama for a response.

    `categories` bounds those that entries can have, None where nothing is going to be stored.
    """

    def __init__(self, neighbours: Neighbours, *, categories: Labels | None = None) -> None:
        self._rules = neighbours.rules
        self._clock = neighbours.clock
        self._lookup = StoreLookup(neighbours)
        self._categories = categories

    def admits(self, request: Request) -> bool:
        """Apply Ollama's Host rule, where the listener is on loopback; it holds for the proxy's own routes too."""
        rules = self._rules
        return not rules.guard_host or fields.allowed_host(
            request.fields,
            hostname=rules.hostname,
            local_addresses=rules.local_addresses,
        )

    def arrival(self, request: Request) -> Arrival:
        """Read the head of a request."""
        endpoint, exact = endpoints.find(request.method, request.target)
        policy = self._rules.policy(endpoint)
        directives = read_directives(request.fields, max_ttl=self._rules.max_ttl)
        return Arrival(
            endpoint=endpoint,
            policy=policy,
            directives=directives,
            request=Request(
                method=request.method, target=request.target, fields=fields.forwarded_request(request.fields)
            ),
            bypass=classify.by_head(endpoint, request, directives, policy=policy, exact=exact),
        )

    def classified(self, arrival: Arrival, body: bytes | None, hold: Hold) -> Bypass | Candidate:
        """Judge a request whose body is there; None is one that is over its limit, or that `hold` has no room for."""
        if arrival.bypass is not None:
            return arrival.bypass
        if body is None:
            return Bypass(detail=Detail.BUFFERS_FULL if hold.refused else Detail.TOO_LARGE)
        if not hold.grow(document.weight(body)):
            return Bypass(detail=Detail.BUFFERS_FULL)
        return classify.by_body(arrival.endpoint, body, policy=arrival.policy, streams=self._rules.streams)

    async def looked_up(
        self, arrival: Arrival, candidate: Candidate, body: bytes, on_question: Callable[[Question], object]
    ) -> Bypass | Found:
        """Pose a question and look it up; `on_question` is told the question before the store is asked.

        A candidate whose model stands for nothing that is known is passed on after all.
        """
        begun = self._clock.monotonic()
        directives = arrival.directives
        if directives.category and self._categories is not None:  # bounded here, where it comes to be stored
            directives = replace(directives, category=self._categories.of(directives.category))
        question = await self._lookup.pose(candidate, arrival.request, body, directives)
        if question is None:
            spent = self._clock.monotonic() - begun
            return Bypass(detail=Detail.NO_DIGEST, model=candidate.model, spent=spent)
        on_question(question)
        question, reuse = await self._lookup.find(question)
        return Found(question=question, reuse=reuse)
