"""Bypassed requests, relayed to Ollama as they came, and their responses as they arrive."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from ollama_cache_proxy.core.delivery import Delivery
from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.facts import Worked
from ollama_cache_proxy.core.fetch import worked
from ollama_cache_proxy.core.intake import Arrival
from ollama_cache_proxy.core.lanes import waited
from ollama_cache_proxy.core.outcome import Outcome, Visit
from ollama_cache_proxy.core.ports import UpstreamResponse
from ollama_cache_proxy.core.prompt_watch import Answered
from ollama_cache_proxy.core.questions import Neighbours
from ollama_cache_proxy.policy import classify, outline, usage
from ollama_cache_proxy.policy.classify import Bypass
from ollama_cache_proxy.policy.endpoints import may_be_silent
from ollama_cache_proxy.policy.status import Detail, bypass
from ollama_cache_proxy.policy.usage import Excerpt

_BYPASSED: Final = {detail: Outcome(cache=bypass(detail)) for detail in Detail}


class Relay:
    """Relays requests; one instance a process."""

    def __init__(self, neighbours: Neighbours, delivery: Delivery) -> None:
        self._upstream = neighbours.upstream
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._observe = neighbours.observe
        self._turns = neighbours.turns
        self._prompts = neighbours.prompts
        self._slots = neighbours.rules.prompt_slots
        self._delivery = delivery

    async def change(self, visit: Visit, arrival: Arrival, body: bytes | None, found: Bypass) -> Outcome:
        """Relay a change of a model; until its new digest is known, no response of that model is reused or stored.

        It is never sent twice, since Ollama may have begun with it.
        """
        if body is None or outline.quick(body) is not None:
            model = classify.changed_model(arrival.endpoint, body)
        else:
            model = await self._turns.run(classify.model_changed_by_large(arrival.endpoint, body))
        change = self._models.begin_change(model)
        try:
            await self._models.change_known(change)
            return await self.pass_on(visit, arrival, body, found, repeatable=False)
        finally:
            self._models.end_change(change)

    async def pass_on(
        self, visit: Visit, arrival: Arrival, body: bytes | None, found: Bypass, *, repeatable: bool
    ) -> Outcome:
        """Relay any other request; one that is `repeatable` may be sent twice."""
        begun = self._clock.monotonic()
        visit.outcome = _BYPASSED[found.detail]
        source = visit.client.stream() if body is None else body or None
        answered: Answered | None = None
        patient = may_be_silent(arrival.endpoint, arrival.request.method, arrival.request.target)
        asking = self._upstream.ask(arrival.request, source, repeatable=repeatable, spent=found.spent, patient=patient)
        try:
            try:
                async with asking as response:
                    begun += waited(arrival.request)
                    excerpt = Excerpt()
                    try:
                        ended = await self._delivery.relayed(visit, response, excerpt, arrival.request.prefix)
                    finally:  # also where the client left after it had read everything
                        work = self._report_work(visit, response, excerpt)
                        if (
                            self._prompts is not None
                            and body
                            and response.head.status == HTTPStatus.OK
                            and self._prompts.wants(visit.endpoint, visit.model, response.host, body)
                        ):
                            answered = _answered(visit, arrival, body, response, work, begun)
            except ProxyError as error:
                return await self._delivery.failure(visit, error, visit.outcome.cache)
            if not ended:
                await visit.client.finish()
        finally:
            if self._prompts is not None and answered is not None:
                self._prompts.answered(answered, self._slots)
        seconds = self._clock.monotonic() - begun
        return Outcome(cache=visit.outcome.cache, status=visit.outcome.status, upstream_seconds=seconds)

    def _report_work(self, visit: Visit, response: UpstreamResponse, excerpt: Excerpt) -> Worked | None:
        """Report the work that Ollama did for a relayed response, and return it."""
        if not usage.uses_model(visit.endpoint):
            return None
        fact = worked(visit.endpoint, visit.model, response.head, excerpt)
        if fact is not None:
            self._observe(fact)
        return fact


def _answered(  # noqa: PLR0913, PLR0917 - what is known of it
    visit: Visit, arrival: Arrival, body: bytes, response: UpstreamResponse, work: Worked | None, begun: float
) -> Answered:
    return Answered(
        endpoint=visit.endpoint,
        model=visit.model,
        host=response.host,
        fields=arrival.request.fields,
        category=arrival.directives.category,
        body=body,
        usage=None if work is None else work.usage,
        begun=begun,
        first_output=None if visit.first_token_at is None else visit.first_token_at - begun,
    )
