"""Asking Ollama on behalf of all who wait for one answer, and keeping it. This is the work of a flight.

Nobody is answered before the whole answer is there, so that a broken upstream is a 502 and not a torn answer; one that
is over the limit is relayed from there on, and never kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from proxy.flights import Flight, Tail
from proxy.policy import fields, storing
from proxy.policy.classify import Candidate
from proxy.policy.embeddings import Batch, Item
from proxy.policy.messages import Request, ResponseHead, StoredResponse
from proxy.policy.reuse import Directives
from proxy.policy.rules import Rules
from proxy.policy.status import Detail
from proxy.policy.storing import NotStorable
from proxy.ports import Clock, Entries, Identity, Models, Observer, Store, Stored, Upstream
from proxy.tasks import Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What serving takes, joined once by the composition root."""

    rules: Rules
    store: Store
    upstream: Upstream
    models: Models
    clock: Clock
    observe: Observer
    tasks: Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A question that is a list of texts. `keys` are the item keys by text, `known` the items that may be used."""

    batch: Batch
    keys: Mapping[str, str]
    known: Mapping[str, Item]

    @property
    def known_texts(self) -> int:
        """How many of the caller's texts are known, duplicates counted."""
        return sum(text in self.known for text in self.batch.texts)


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
    generation: str | None = None
    listing: Listing | None = None

    @property
    def texts(self) -> int:
        """How many texts a list has; 0 for what is no list."""
        return 0 if self.listing is None else len(self.listing.batch.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A complete answer, in the chunks that it came in.

    `seconds` is how long Ollama took. `ttl` is the lifetime of what is being stored, in seconds, or None with `detail`.
    `estimated` says that the token count of a joined list is a sum with apportioned parts, `known` how many of its
    texts were not asked for.
    """

    head: ResponseHead
    length: int | None
    chunks: tuple[bytes, ...]
    seconds: float
    ttl: int | None = None
    detail: Detail | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    estimated: bool = False
    known: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overflow:
    """An answer over the limit; `tail` gives all of its body."""

    head: ResponseHead
    length: int | None
    tail: Tail


Fetched: TypeAlias = Whole | Overflow


class Fetcher:
    """Does the work of flights."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._store = neighbours.store
        self._upstream = neighbours.upstream
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._observe = neighbours.observe
        self._tasks = neighbours.tasks

    async def fetch(self, question: Question, flight: Flight[Fetched]) -> None:
        """Ask, publish, keep. Raises ProxyError, which the flight hands to those who wait."""
        whole = await self.ask(question, flight)
        if whole is None:
            return
        body = b"".join(whole.chunks)
        verdict = storing.storable(question.candidate, whole.head, body)
        detail = verdict.detail if isinstance(verdict, NotStorable) else self.bar(question)
        if isinstance(verdict, NotStorable) or detail is not None:
            flight.publish(replace(whole, detail=detail))
            return
        entry = self.entry(
            question,
            whole,
            body=body,
            took=whole.seconds,
            prompt_tokens=verdict.prompt_tokens,
            output_tokens=verdict.output_tokens,
        )
        flight.publish(
            replace(
                whole,
                ttl=entry.lifetime,
                prompt_tokens=entry.prompt_tokens,
                output_tokens=entry.output_tokens,
            ),
        )
        await self.keep(question, ((question.key, entry),))

    async def ask(self, question: Question, flight: Flight[Fetched]) -> Whole | None:
        """Ask for all of it; None where the answer was over the limit, and has been relayed."""
        begun = self._clock.monotonic()
        limit = self._rules.max_answer(question.candidate.endpoint)
        async with self._upstream.ask(question.request, question.body, repeatable=True) as answer:
            arriving = answer.chunks()
            chunks, complete = await _collected(arriving, limit)
            if not complete:
                tail = flight.overflow(limit)
                flight.publish(Overflow(head=answer.head, length=answer.length, tail=tail))
                await tail.feed(_resumed(chunks, arriving))
                return None
        seconds = self._clock.monotonic() - begun
        return Whole(head=answer.head, length=answer.length, chunks=chunks, seconds=seconds)

    async def ask_bounded(self, question: Question, request: Request, body: bytes) -> Whole | None:
        """Ask for something else than the caller did; None where the answer is over the limit."""
        begun = self._clock.monotonic()
        limit = self._rules.max_answer(question.candidate.endpoint)
        async with self._upstream.ask(request, body, repeatable=True) as answer:
            chunks, complete = await _collected(answer.chunks(), limit)
        seconds = self._clock.monotonic() - begun
        return Whole(head=answer.head, length=answer.length, chunks=chunks, seconds=seconds) if complete else None

    def bar(self, question: Question) -> Detail | None:
        """Say why no answer to this question may be kept now, whatever it is, or None."""
        if question.generation is None:
            return Detail.STORE_UNAVAILABLE
        if not question.identity.stability.unchanged():
            return Detail.MODEL_CHANGED
        return Detail.NO_STORE if self.lifetime(question) <= 0 else None

    def lifetime(self, question: Question) -> int:
        """Give the lifetime of what is kept for this question, in seconds."""
        ttl = question.wishes.ttl
        return self._rules.lifetime(question.candidate.endpoint) if ttl is None else ttl

    def entry(  # noqa: PLR0913 - what an entry is made of beside its question
        self,
        question: Question,
        whole: Whole,
        *,
        body: bytes,
        took: float,
        prompt_tokens: int | None,
        output_tokens: int | None,
    ) -> StoredResponse:
        """Give what is kept of an answer."""
        return StoredResponse(
            status=whole.head.status,
            reason=whole.head.reason,
            fields=fields.replayed(whole.head.fields),
            body=body,
            stored_at=self._clock.now(),
            lifetime=self.lifetime(question),
            took=took,
            operation=question.candidate.endpoint.operation,
            model=question.identity.model,
            category=question.wishes.category,
            namespace=question.wishes.namespace,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )

    async def keep(self, question: Question, entries: Entries) -> None:
        """Put entries into the store, and take them out again should the model turn out to be another."""
        generation = question.generation or ""
        keys = [key for key, _ in entries]
        withdrawn = False

        def withdraw() -> None:
            nonlocal withdrawn
            withdrawn = True
            self._tasks.spawn(self._store.delete(keys, generation), f"withdraw {question.key[:8]}")

        self._models.confirm(question.identity, withdraw)
        kept = await self._store.put(entries, generation)
        if withdrawn:  # while the entries were on their way: what was deleted then was not yet there
            await self._store.delete(keys, generation)
        elif kept:
            self._observe(
                Stored(
                    key=question.key,
                    operation=question.candidate.endpoint.operation,
                    model=question.candidate.model,
                    ttl=self.lifetime(question),
                    size=sum(len(entry.body) for _, entry in entries),
                    entries=len(entries),
                ),
            )


async def _collected(arriving: AsyncIterator[bytes], limit: int) -> tuple[tuple[bytes, ...], bool]:
    """Give what came until the end or until it was over `limit` bytes, and whether that was the end."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in arriving:
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            return tuple(chunks), False
    return tuple(chunks), True


async def _resumed(chunks: tuple[bytes, ...], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    async for chunk in rest:
        yield chunk
