"""How an exchange went: an outcome, which becomes the one fact that observers are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.facts import NOTHING, Exchange, Saved
from ollama_cache_proxy.core.ports import Client
from ollama_cache_proxy.core.questions import Bypassed, Question
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import Hit
from ollama_cache_proxy.policy.status import CacheStatus, Detail, bypass
from ollama_cache_proxy.policy.trace import trace_id

_MAX_NAME: Final = 80
"""Characters of a model's name that are reported; the rest is cut off."""


@record
class Outcome:
    """What came of an exchange. See `facts.Exchange` for what each figure means."""

    cache: CacheStatus
    status: int = 0
    upstream_seconds: float | None = None
    items: int = 0
    items_known: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    saved: Saved = NOTHING
    error: Source | None = None
    hit: Hit | None = None
    """The hit, where the fast path may serve it the next time."""


_UNDECIDED: Final = Outcome(cache=bypass(Detail.CLIENT_LEFT))


@dataclass(slots=True, kw_only=True)
class Visit:
    """The state of one exchange in progress.

    It is all that is known when a client leaves in the middle, so it is updated before each wait: `outcome` is the one
    that holds if the client leaves now.
    """

    endpoint: Endpoint
    client: Client
    hold: Hold
    """The bytes that the exchange has in memory."""
    begun: float
    """Monotonic time, in seconds."""
    model: str = ""
    question: Question | None = None
    outcome: Outcome = _UNDECIDED
    bypassed: Bypassed | None = None
    """What is known of a bypass that a setting would take away."""
    rule: str = ""
    """The rule by which the beginning of the prompt was pinned."""
    first_token_at: float | None = None
    """Monotonic time of the first chunk with output of the model, in seconds."""

    def note_question(self, question: Question) -> None:
        """Note the question, and the model that it is for."""
        self.question, self.model = question, question.candidate.model


def hit_fact(question: Question, outcome: Outcome, *, seconds: float, size: int, trace: str) -> Exchange:
    """Return the fact for a hit that was served in one write: a body of `size` bytes, after so many seconds."""
    candidate = question.candidate
    return Exchange(
        method=question.request.method,
        operation=candidate.endpoint.operation,
        model=candidate.model[:_MAX_NAME],
        category=question.directives.category,
        cache=outcome.cache,
        status=outcome.status,
        key=question.key,
        seconds=seconds,
        first_byte=seconds,
        items=outcome.items,
        items_known=outcome.items_known,
        bytes_sent=size,
        saved=outcome.saved,
        trace=trace,
    )


def exchange_fact(visit: Visit, request: Request, end: float, *, ended: bool) -> Exchange:
    """Return the fact for an exchange that is over at monotonic time `end`; not `ended` means that the client left."""
    outcome, question, at = visit.outcome, visit.question, visit.client.first_byte_at
    return Exchange(
        method=request.method,
        operation=visit.endpoint.operation,
        model=visit.model[:_MAX_NAME],
        category="" if question is None else question.directives.category,
        cache=outcome.cache,
        status=0 if at is None else outcome.status,
        key="" if question is None else question.key,
        seconds=end - visit.begun,
        first_byte=None if at is None else at - visit.begun,
        first_token=None if visit.first_token_at is None else visit.first_token_at - visit.begun,
        upstream_seconds=outcome.upstream_seconds,
        items=outcome.items,
        items_known=outcome.items_known,
        bytes_sent=visit.client.sent,
        prompt_tokens=outcome.prompt_tokens,
        output_tokens=outcome.output_tokens,
        saved=outcome.saved,
        error=outcome.error if ended else Source.CLIENT,
        rule=visit.rule,
        trace=trace_id(request.fields),
    )
