"""Asking Ollama on behalf of all who wait for one answer, and keeping it. This is the work of a flight.

Nobody is answered before the whole answer is there, so that a broken upstream is a 502 and not a torn answer; one that
is over the limit is relayed from there on, and never kept. A stream is relayed from its first byte on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TypeAlias

from ollama_cache_proxy.core.facts import NotStored, Stored, Worked
from ollama_cache_proxy.core.flights import Flight, Tail
from ollama_cache_proxy.core.ports import UpstreamResponse
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.core.store_ports import Entries
from ollama_cache_proxy.policy import fields, storing, usage
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.messages import Request, ResponseHead, StoredResponse
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.usage import Excerpt


@record
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


@record
class Flowing:
    """An answer that is still coming, a stream or one over the limit; `tail` gives all of its body.

    `detail` says why it will not be kept, or that it is being recorded.
    """

    head: ResponseHead
    length: int | None
    tail: Tail
    detail: Detail


Fetched: TypeAlias = Whole | Flowing


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
        self._purges = neighbours.purges
        self._fingerprinting = neighbours.fingerprinting

    async def fetch(self, question: Question, flight: Flight[Fetched]) -> None:
        """Ask, publish, keep. Raises ProxyError, which the flight hands to those who wait."""
        whole = await self.ask(question, flight)
        if whole is None:
            return
        body = b"".join(whole.chunks)
        verdict = self.judge(question, whole.head, body)
        if isinstance(verdict, Detail):
            await self.publish_and_store(question, flight, replace(whole, detail=verdict))
            return
        tokens = (verdict.prompt_tokens, verdict.output_tokens)
        kept = Whole(  # `replace` takes three times as long
            head=whole.head,
            length=whole.length,
            chunks=whole.chunks,
            seconds=whole.seconds,
            ttl=self.lifetime(question),
            prompt_tokens=tokens[0],
            output_tokens=tokens[1],
        )

        def entries() -> Entries:
            return ((question.key, self.entry(question, kept.head, body, took=kept.seconds, tokens=tokens)),)

        await self.publish_and_store(question, flight, kept, entries)

    async def ask(self, question: Question, flight: Flight[Fetched]) -> Whole | None:
        """Ask for all of it, to be handed to `answer`; None where it was over the limit, and has been relayed."""
        begun = self._clock.monotonic()
        limit = self._rules.max_response_bytes(question.candidate.endpoint)
        async with self._upstream.ask(question.request, question.body, repeatable=True, spent=question.spent) as answer:
            chunks, excess, rest = await _collected(answer, limit, flight.hold)
            if excess is not None:
                tail = flight.overflow(sum(map(len, chunks)))
                flight.publish(Flowing(head=answer.head, length=answer.length, tail=tail, detail=excess))
                excerpt = Excerpt()
                await tail.feed(_resumed(chunks, rest, excerpt))
                self._report_work(question, answer.head, excerpt)
                return None
        seconds = self._clock.monotonic() - begun
        return Whole(head=answer.head, length=answer.length, chunks=chunks, seconds=seconds)

    async def publish_and_store(
        self, question: Question, flight: Flight[Fetched], whole: Whole, entries: Callable[[], Entries] = tuple
    ) -> None:
        """Give all who wait what was asked, and let them go on; then keep it, and tell of what Ollama did for it."""
        flight.publish(whole)
        await asyncio.sleep(0)
        try:
            await self.store(question, entries())
        finally:
            self._report_work(question, whole.head, _excerpt(whole.chunks))

    async def ask_bounded(
        self, question: Question, request: Request, body: bytes, flight: Flight[Fetched]
    ) -> Whole | Detail:
        """Ask for something else than the caller did; gives the reason where the answer is over a limit."""
        begun = self._clock.monotonic()
        limit = self._rules.max_response_bytes(question.candidate.endpoint)
        async with self._upstream.ask(request, body, repeatable=True, spent=question.spent) as answer:
            chunks, excess, _ = await _collected(answer, limit, flight.hold)
        seconds = self._clock.monotonic() - begun
        if excess is None:
            self._report_work(question, answer.head, _excerpt(chunks))
        return excess or Whole(head=answer.head, length=answer.length, chunks=chunks, seconds=seconds)

    def _report_work(self, question: Question, head: ResponseHead, excerpt: Excerpt) -> None:
        """Tell of what Ollama did for this answer."""
        told = worked(question.candidate.endpoint, question.candidate.model, head, excerpt)
        if told is not None:
            self._observe(told)

    def judge(self, question: Question, head: ResponseHead, body: bytes) -> Storable | Detail:
        """Say whether this complete answer may be kept, or why not."""
        verdict = storing.storable(question.candidate, head, body)
        return verdict.detail if isinstance(verdict, NotStorable) else self.reason_not_to_store(question) or verdict

    def reason_not_to_store(self, question: Question) -> Detail | None:
        """Say why no answer to this question may be kept now, whatever it is, or None."""
        if question.policy is Policy.READ_ONLY:
            return Detail.READ_ONLY
        if question.generation is None:
            return Detail.STORE_UNAVAILABLE
        if not question.identity.stability.unchanged():
            return Detail.MODEL_CHANGED
        if self.lifetime(question) <= 0:
            return Detail.NO_STORE
        return Detail.PURGED if self._is_purged(question) else None

    def report_not_stored(self, question: Question, detail: Detail) -> None:
        """Tell of an answer whose head says that it is kept, or may be, that it was not."""
        candidate = question.candidate
        self._observe(
            NotStored(key=question.key, operation=candidate.endpoint.operation, model=candidate.model, detail=detail)
        )

    def _is_purged(self, question: Question) -> bool:
        """Whether a purge that began after this question means what would be kept of it."""
        purges = self._purges.since(question.purges)
        if not purges:
            return False
        keys = (question.key,) if question.listing is None else tuple(question.listing.keys.values())
        about = (question.identity.model, question.candidate.endpoint.operation)
        directives = question.directives
        return any(purge.matches_any(keys, *about, directives.category, directives.namespace) for purge in purges)

    def lifetime(self, question: Question) -> int:
        """Give the lifetime of what is kept for this question, in seconds."""
        ttl = question.directives.ttl
        return self._rules.lifetime(question.candidate.endpoint) if ttl is None else ttl

    def entry(  # noqa: PLR0913 - what an entry is made of beside its question
        self,
        question: Question,
        head: ResponseHead,
        body: bytes,
        *,
        took: float,
        tokens: tuple[int | None, int | None],
        pieces: bytes = b"",
    ) -> StoredResponse:
        """Give what is kept of an answer; `tokens` are those of the prompt and of the output."""
        return StoredResponse(
            status=head.status,
            reason=head.reason,
            fields=fields.replayed(head.fields),
            body=body,
            stored_at=self._clock.now(),
            lifetime=self.lifetime(question),
            took=took,
            operation=question.candidate.endpoint.operation,
            model=question.identity.model,
            category=question.directives.category,
            namespace=question.directives.namespace,
            prompt_tokens=tokens[0],
            output_tokens=tokens[1],
            pieces=pieces,
        )

    async def _with_fingerprints(self, question: Question, entries: Entries) -> Entries:
        """Return the entries with the fingerprints of the request's fields, where those are to be stored."""
        if not self._fingerprinting.on:
            return entries
        candidate, listing, about = question.candidate, question.listing, (question.scope, question.request.fields)
        texts = {} if listing is None else {key: text for text, key in listing.keys.items()}
        return [
            (key, replace(entry, fingerprints=await self._fingerprinting.of(candidate, texts.get(key), *about)))
            for key, entry in entries
        ]

    async def store(self, question: Question, entries: Entries) -> None:
        """Put entries into the store, and take them out again should the model turn out to be another."""
        if not entries:
            return
        generation = question.generation or ""
        entries = await self._with_fingerprints(question, entries)
        keys, name = [key for key, _ in entries], f"withdraw {question.key[:8]}"
        withdrawn = False

        def withdraw() -> None:
            nonlocal withdrawn
            withdrawn = True
            self._tasks.spawn(self._store.delete(keys, generation), name)  # not the question: this may wait for long

        self._models.confirm(question.identity, withdraw)
        kept = await self._store.put(entries, generation)
        if withdrawn or self._is_purged(question):  # while they were on their way: what was deleted was not yet there
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


async def _collected(
    answer: UpstreamResponse, limit: int, hold: Hold
) -> tuple[tuple[bytes, ...], Detail | None, AsyncIterator[bytes]]:
    """Give what came until the end, or until it was over `limit` bytes or found no room, which of both, the rest."""
    whole, rest = answer.whole_body(), answer.chunks()
    if whole is not None:
        return (whole,), _excess(len(whole), len(whole), limit, hold), rest
    chunks: list[bytes] = []
    size = 0
    async for chunk in rest:
        chunks.append(chunk)
        size += len(chunk)
        excess = _excess(size, len(chunk), limit, hold)
        if excess is not None:
            return tuple(chunks), excess, rest
    return tuple(chunks), None, rest


def _excess(size: int, more: int, limit: int, hold: Hold) -> Detail | None:
    if size > limit:
        return Detail.ANSWER_TOO_LARGE
    return None if hold.grow(2 * more) else Detail.BUFFERS_FULL  # the chunks, and the whole that is made of them


async def _resumed(chunks: tuple[bytes, ...], rest: AsyncIterator[bytes], excerpt: Excerpt) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    async for chunk in rest:
        excerpt.add(chunk)
        yield chunk


def _excerpt(chunks: tuple[bytes, ...]) -> Excerpt:
    excerpt = Excerpt()
    for chunk in chunks:
        excerpt.add(chunk)
    return excerpt


def worked(endpoint: Endpoint, model: str, head: ResponseHead, excerpt: Excerpt) -> Worked | None:
    """Give the fact that Ollama has worked, where the end of an answer says so; `model` as the request named it."""
    told = endpoint.dialect.usage(excerpt.tail) if head.status == storing.OK else None
    if told is None:
        return None
    return Worked(operation=endpoint.operation, model=model or usage.model(excerpt), usage=told)
