"""The work of a flight: ask Ollama for a response on behalf of all who wait for it, then store the response.

No client gets a byte before the response is complete, so that a broken upstream is a 502 and not a truncated response.
A response over the size limit is relayed from that point on, and not stored. A stream is relayed from its first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, TypeAlias, TypeVar

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.facts import NotStored, Stored, Worked
from ollama_cache_proxy.core.flights import Flight, Tail
from ollama_cache_proxy.core.lanes import waited
from ollama_cache_proxy.core.ports import UpstreamResponse
from ollama_cache_proxy.core.prompt_watch import Answered
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.core.store_ports import Entries
from ollama_cache_proxy.policy import context_lengths, fields, freshness, reuse, scope_marks, storing, usage
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.freshness import Freshness
from ollama_cache_proxy.policy.messages import Request, ResponseHead, StoredResponse
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps, finish, joined
from ollama_cache_proxy.policy.usage import Excerpt

T = TypeVar("T")

_WITHDRAWALS: Final = 1000
_WITHDRAW_AFTER: Final = 5.0
"""How often a deletion is tried that the store does not do, and seconds between two tries."""


@record
class Whole:
    """A complete response."""

    head: ResponseHead
    length: int | None
    """Its Content-Length in bytes; None where Ollama did not announce one."""
    chunks: tuple[bytes, ...]
    """Its body, in the chunks in which it arrived."""
    seconds: float
    """How long Ollama took."""
    fresh: Freshness
    """How long it may be stored for."""
    ttl: int | None = None
    """For how many seconds it is fresh in the store; None where it is not stored."""
    detail: Detail | None = None
    """Why it is not stored."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    estimated: bool = False
    """Whether the token count of a joined list is partly apportioned."""
    known: int = 0
    """How many texts of a list were served from the store."""

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return sum(map(len, self.chunks))


@record
class Flowing:
    """A response that is still arriving: a stream, or one over the size limit."""

    head: ResponseHead
    length: int | None
    """Its Content-Length in bytes; None where Ollama did not announce one."""
    tail: Tail
    """All of its body."""
    detail: Detail
    """Why it will not be stored, or that it is being recorded."""


Fetched: TypeAlias = Whole | Flowing


def failed(found: Fetched | ProxyError) -> bool:
    """Return whether this is a failure, of which the next request may know nothing."""
    return isinstance(found, ProxyError) or found.head.status >= HTTPStatus.INTERNAL_SERVER_ERROR


_LARGE: Final = 1 << 18
"""Bytes of a response; a larger one is dealt with in turns of the event loop."""


class Fetcher:
    """The work of flights for single responses; lists and streams derive from it."""

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
        self._turns = neighbours.turns
        self._prompts = neighbours.prompts

    async def computed(self, steps: Steps[T], size: int) -> T:
        """Return the result of a computation about so many bytes, in turns of the event loop where they are many."""
        return finish(steps) if size <= _LARGE else await self._turns.run(steps)

    async def fetch(self, question: Question, flight: Flight[Fetched]) -> None:
        """Ask Ollama, publish the response and store it. Raises ProxyError, which the flight hands to all who wait."""
        whole = await self.ask(question, flight)
        if whole is None:
            return
        chunks = whole.chunks
        body = chunks[0] if len(chunks) == 1 else await self.computed(joined(chunks), whole.size)
        verdict = await self.judge(question, whole.head, body, whole.fresh)
        if isinstance(verdict, Detail):
            await self.publish_and_store(question, flight, replace(whole, detail=verdict))
            return
        tokens = (verdict.prompt_tokens, verdict.output_tokens)
        stored = Whole(  # `replace` takes three times as long
            head=whole.head,
            length=whole.length,
            chunks=whole.chunks,
            seconds=whole.seconds,
            fresh=whole.fresh,
            ttl=whole.fresh.ttl,
            prompt_tokens=tokens[0],
            output_tokens=tokens[1],
        )

        async def entries() -> Entries:
            entry = self.entry(question, stored.head, body, fresh=stored.fresh, took=stored.seconds, tokens=tokens)
            return ((question.key, entry),)

        await self.publish_and_store(question, flight, stored, entries)

    async def ask(self, question: Question, flight: Flight[Fetched]) -> Whole | None:
        """Return the complete response, for `publish_and_store`; None for one over the limit: that has been relayed."""
        begun = self._clock.monotonic()
        limit = self._rules.max_response_bytes(question.candidate.endpoint)
        asking = self._upstream.ask(question.request, question.body, repeatable=True, spent=question.spent)
        async with asking as response:
            begun += waited(question.request)
            chunks, excess, rest = await _collected(response, limit, flight.hold)
            if excess is not None:
                tail = flight.overflow(sum(map(len, chunks)))
                flight.publish(Flowing(head=response.head, length=response.length, tail=tail, detail=excess))
                excerpt = Excerpt()
                await tail.feed(_resumed(chunks, rest, excerpt))
                self._report_work(question, response.head, excerpt, self._clock.monotonic() - begun)
                return None
        return self._whole(question, response, chunks, self._clock.monotonic() - begun)

    async def publish_and_store(
        self,
        question: Question,
        flight: Flight[Fetched],
        whole: Whole,
        entries: Callable[[], Awaitable[Entries]] | None = None,
    ) -> None:
        """Hand the response to all who wait and let them go on; then store it, and report Ollama's work."""
        flight.publish(whole)
        await asyncio.sleep(0)
        try:
            if entries is not None:
                flight.stored = await self.store_unless_changed(question, whole.fresh, await entries())
        finally:
            self._report_work(question, whole.head, _excerpt(whole.chunks), whole.seconds)

    async def ask_bounded(
        self, question: Question, request: Request, body: bytes, flight: Flight[Fetched]
    ) -> Whole | Detail:
        """Return the response to a request other than the client's; the reason where it is over a limit."""
        begun = self._clock.monotonic()
        limit = self._rules.max_response_bytes(question.candidate.endpoint)
        async with self._upstream.ask(request, body, repeatable=True, spent=question.spent) as response:
            begun += waited(request)
            chunks, excess, _ = await _collected(response, limit, flight.hold)
        if excess is not None:
            return excess
        seconds = self._clock.monotonic() - begun
        self._report_work(question, response.head, _excerpt(chunks), seconds)
        return self._whole(question, response, chunks, seconds)

    def _whole(
        self, question: Question, response: UpstreamResponse, chunks: tuple[bytes, ...], seconds: float
    ) -> Whole:
        """Return a response that took `seconds` and has just ended."""
        fresh = self.freshness(question, response.head, seconds)
        return Whole(head=response.head, length=response.length, chunks=chunks, seconds=seconds, fresh=fresh)

    def freshness(self, question: Question, head: ResponseHead, seconds: float) -> Freshness:
        """Return the freshness of a response to this question that has just arrived, `seconds` after its request."""
        limit, now = question.lifetime, self._clock.now()
        return freshness.freshness(head.fields, limit=limit, delay=seconds, now=now)

    def _report_work(self, question: Question, head: ResponseHead, excerpt: Excerpt, seconds: float) -> None:
        """Report the work that Ollama did for this response in so many seconds, and have its prompt looked at."""
        endpoint, request = question.candidate.endpoint, question.request
        fact = worked(endpoint, question.candidate.model, head, excerpt)
        if fact is not None:
            self._observe(fact)
        if self._prompts is None or head.status != storing.OK:
            return
        host = "" if request.hosts is None else request.hosts.answered
        if not self._prompts.wants(endpoint, question.candidate.model, host, question.body):
            return
        answered = Answered(
            endpoint=endpoint,
            model=question.candidate.model,
            host=host,
            fields=request.fields,
            category=question.directives.category,
            body=question.body,
            usage=None if fact is None else fact.usage,
            begun=self._clock.monotonic() - seconds,
        )
        self._prompts.answered(answered, self._rules.prompt_slots)

    async def judge(self, question: Question, head: ResponseHead, body: bytes, fresh: Freshness) -> Storable | Detail:
        """Return that this complete response may be stored, or why not. A large one is read in turns of the loop."""
        candidate = question.candidate
        if len(body) > _LARGE:
            verdict = await self._turns.run(storing.storable_in_steps(candidate, head, body))
        else:
            verdict = storing.storable(candidate, head, body)
        if isinstance(verdict, NotStorable):
            return verdict.detail
        return self.reason_not_to_store(question, fresh) or verdict

    def reason_not_to_store(self, question: Question, fresh: Freshness) -> Detail | None:
        """Return why no response of this freshness to this question may be stored at the moment, or None."""
        if question.policy is Policy.READ_ONLY:
            return Detail.READ_ONLY
        if question.generation is None or not self._store.writable:
            return Detail.STORE_UNAVAILABLE
        if not question.identity.stability.unchanged():
            return Detail.MODEL_CHANGED
        if question.lifetime.seconds <= 0:
            return Detail.NO_STORE
        if fresh.ttl <= 0:
            return Detail.EXPIRED
        return Detail.PURGED if self._is_purged(question) else None

    def report_not_stored(self, question: Question, detail: Detail) -> None:
        """Report that a response was not stored whose head said that it is, or may be."""
        candidate = question.candidate
        self._observe(
            NotStored(key=question.key, operation=candidate.endpoint.operation, model=candidate.model, detail=detail)
        )

    def _is_purged(self, question: Question) -> bool:
        """Return whether a purge that began after the lookup matches what would be stored."""
        purges = self._purges.since(question.purges)
        if not purges:
            return False
        keys = question.keys()
        about = (question.identity.model, question.candidate.endpoint.operation)
        directives = question.directives
        return any(purge.matches_any(keys, *about, directives.category, directives.namespace) for purge in purges)

    def entry(  # noqa: PLR0913 - all that is in an entry beside its question
        self,
        question: Question,
        head: ResponseHead,
        body: bytes,
        *,
        fresh: Freshness,
        took: float,
        tokens: tuple[int | None, int | None],
        pieces: bytes = b"",
        mark: str = "",
    ) -> StoredResponse:
        """Return the entry for a response. `took` is in seconds; `tokens` are those of the prompt and of the output.

        `mark` is that of the question's scope, where it is made for many entries at once.
        """
        return StoredResponse(
            status=head.status,
            reason=head.reason,
            fields=fields.replayed(head.fields),
            body=body,
            stored_at=self._clock.now() - fresh.age,
            lifetime=fresh.lifetime,
            idle=fresh.idle,
            took=took,
            operation=question.candidate.endpoint.operation,
            model=question.identity.model,
            category=question.directives.category,
            namespace=question.directives.namespace,
            prompt_tokens=tokens[0],
            output_tokens=tokens[1],
            pieces=pieces,
            scope=mark or scope_marks.marked(question.scope, question.request.fields),
        )

    async def _with_fingerprints(self, question: Question, entries: Entries) -> Entries:
        """Return the entries with the fingerprints of the request's fields, where those are to be stored."""
        if not self._fingerprinting.on:
            return entries
        candidate, texts, about = question.candidate, question.keys(), (question.scope, question.request.fields)
        return [
            (key, replace(entry, fingerprints=await self._fingerprinting.of(candidate, texts.get(key), *about)))
            for key, entry in entries
        ]

    async def store_unless_changed(self, question: Question, fresh: Freshness, entries: Entries) -> bool:
        """Store entries, unless something that forbids it has happened meanwhile; return whether they are stored."""
        detail = self.reason_not_to_store(question, fresh)
        if detail is None:
            return await self.store(question, entries)
        self.report_not_stored(question, detail)
        return False

    async def store(self, question: Question, entries: Entries) -> bool:
        """Put entries into the store, and delete them again if the model turns out to have changed.

        Return whether they are stored.
        """
        if not entries:
            return False
        generation = question.generation or ""
        written = _Written(self, tuple([key for key, _ in entries]), generation)
        plain = context_lengths.leaves_loading_to_ollama(question.candidate.document)
        self._models.confirm(question.identity, written, keys=len(entries), plain=plain)
        entries = await self._with_fingerprints(question, entries)
        stored = await self._store.put(entries, generation)
        if written.withdrawn or self._is_purged(question):  # meanwhile: the entries were not there yet to be deleted
            if await self._store.delete(written.keys, generation) is None:
                written()
            return False
        if stored:
            self._observe(
                Stored(
                    key=question.key,
                    operation=question.candidate.endpoint.operation,
                    model=question.candidate.model,
                    ttl=reuse.ttl(entries[0][1], self._clock.now()),
                    size=sum(len(entry.body) for _, entry in entries),
                    entries=len(entries),
                ),
            )
        else:
            self.report_not_stored(question, Detail.STORE_UNAVAILABLE)
        return stored

    def withdraw(self, keys: Sequence[str], generation: str) -> None:
        """Delete what must not be served, in a task of its own."""
        self._tasks.spawn(self._withdraw(keys, generation), f"withdraw {keys[0][:8]}")

    async def _withdraw(self, keys: Sequence[str], generation: str) -> None:
        """Delete what must not be served, and try again while the store does not."""
        for _ in range(_WITHDRAWALS):
            if await self._store.delete(keys, generation) is not None:
                return
            await self._clock.sleep(_WITHDRAW_AFTER)


@dataclass(slots=True, eq=False)
class _Written:
    """Entries that may have to be withdrawn, which a call does. Thousands of them are held, and for long."""

    fetcher: Fetcher
    keys: tuple[str, ...]
    generation: str
    withdrawn: bool = False

    def __call__(self) -> None:
        self.withdrawn = True
        self.fetcher.withdraw(self.keys, self.generation)


async def _collected(
    response: UpstreamResponse, limit: int, hold: Hold
) -> tuple[tuple[bytes, ...], Detail | None, AsyncIterator[bytes]]:
    """Return the chunks, why they stop before the end (over `limit` bytes, or no room; else None), and the rest."""
    whole, rest = response.whole_body(), response.chunks()
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
    return None if hold.grow(2 * more) else Detail.BUFFERS_FULL  # the chunks, and the body that is joined from them


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
    """Return the fact that Ollama has worked; None where the response does not tell. `model` is as requested."""
    found = endpoint.dialect.usage(excerpt.tail) if head.status == storing.OK else None
    if found is None:
        return None
    return Worked(operation=endpoint.operation, model=model or usage.model(excerpt), usage=found)
