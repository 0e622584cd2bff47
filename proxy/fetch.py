"""Asking Ollama on behalf of all who wait for one answer, and keeping it. This is the work of a flight.

Nobody is answered before the whole answer is there, so that a broken upstream is a 502 and not a torn answer; one that
is over the limit is relayed from there on, and never kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from proxy.flights import Flight, Tail
from proxy.policy import fields, storing
from proxy.policy.classify import Candidate
from proxy.policy.messages import Request, ResponseHead, StoredResponse
from proxy.policy.reuse import Directives
from proxy.policy.rules import Rules
from proxy.policy.status import Detail
from proxy.policy.storing import NotStorable
from proxy.ports import Clock, Identity, Models, Observer, Store, Stored, Upstream
from proxy.tasks import Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A candidate with all that is needed to ask Ollama for it and to keep the answer.

    The fields of `request` are those for Ollama, so that the key sees what Ollama sees. `generation` is that of the
    store when it was asked, None where it did not answer.
    """

    request: Request
    body: bytes
    wishes: Directives
    candidate: Candidate
    identity: Identity
    key: str
    generation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A complete answer, in the chunks that it came in.

    `seconds` is how long Ollama took. `ttl` is the lifetime of what is being stored, in seconds, or None with `detail`.
    """

    head: ResponseHead
    length: int | None
    chunks: tuple[bytes, ...]
    seconds: float
    ttl: int | None = None
    detail: Detail | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overflow:
    """An answer over the limit; `tail` gives all of its body."""

    head: ResponseHead
    length: int | None
    tail: Tail


Fetched: TypeAlias = Whole | Overflow


class Fetcher:
    """Does the work of flights."""

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        *,
        rules: Rules,
        store: Store,
        upstream: Upstream,
        models: Models,
        clock: Clock,
        observe: Observer,
        tasks: Tasks,
    ) -> None:
        self._rules = rules
        self._store = store
        self._upstream = upstream
        self._models = models
        self._clock = clock
        self._observe = observe
        self._tasks = tasks

    async def fetch(self, question: Question, flight: Flight[Fetched]) -> None:
        """Ask, publish, keep. Raises ProxyError, which the flight hands to those who wait."""
        begun = self._clock.monotonic()
        limit = self._rules.max_answer(question.candidate.endpoint)
        async with self._upstream.ask(question.request, question.body, repeatable=True) as answer:
            chunks: list[bytes] = []
            size = 0
            arriving = answer.chunks()
            async for chunk in arriving:
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    tail = flight.overflow(limit)
                    flight.publish(Overflow(head=answer.head, length=answer.length, tail=tail))
                    await tail.feed(_resumed(chunks, arriving))
                    return
        seconds = self._clock.monotonic() - begun
        whole = Whole(head=answer.head, length=answer.length, chunks=tuple(chunks), seconds=seconds)
        entry = self._entry(question, whole)
        if isinstance(entry, Detail):
            flight.publish(replace(whole, detail=entry))
            return
        flight.publish(
            replace(
                whole,
                ttl=entry.lifetime,
                prompt_tokens=entry.prompt_tokens,
                output_tokens=entry.output_tokens,
            ),
        )
        await self._keep(question, entry)

    def _entry(self, question: Question, whole: Whole) -> StoredResponse | Detail:
        """Give what is to be kept, or why nothing is."""
        body = b"".join(whole.chunks)
        verdict = storing.storable(question.candidate, whole.head, body)
        if isinstance(verdict, NotStorable):
            return verdict.detail
        if question.generation is None:
            return Detail.STORE_UNAVAILABLE
        if not question.identity.stability.unchanged():
            return Detail.MODEL_CHANGED
        endpoint, wishes = question.candidate.endpoint, question.wishes
        lifetime = self._rules.lifetime(endpoint) if wishes.ttl is None else wishes.ttl
        if lifetime <= 0:
            return Detail.NO_STORE
        return StoredResponse(
            status=whole.head.status,
            reason=whole.head.reason,
            fields=fields.replayed(whole.head.fields),
            body=body,
            stored_at=self._clock.now(),
            lifetime=lifetime,
            took=whole.seconds,
            operation=endpoint.operation,
            model=question.identity.model,
            category=wishes.category,
            namespace=wishes.namespace,
            prompt_tokens=verdict.prompt_tokens,
            output_tokens=verdict.output_tokens,
        )

    async def _keep(self, question: Question, entry: StoredResponse) -> None:
        key, generation = question.key, question.generation or ""
        withdrawn = False

        def withdraw() -> None:
            nonlocal withdrawn
            withdrawn = True
            self._tasks.spawn(self._store.delete(key, generation), f"withdraw {key[:8]}")

        self._models.confirm(question.identity, withdraw)
        kept = await self._store.put(key, entry, generation)
        if withdrawn:  # while the entry was on its way: what was deleted then was not yet there
            await self._store.delete(key, generation)
        elif kept:
            self._observe(
                Stored(
                    key=key,
                    operation=entry.operation,
                    model=question.candidate.model,
                    ttl=entry.lifetime,
                    size=len(entry.body),
                ),
            )


async def _resumed(chunks: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    async for chunk in rest:
        yield chunk
