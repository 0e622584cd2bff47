"""Collapsed forwarding between processes: one of those with one store asks Ollama, the others wait for its entry.

A flight of this process leads, holding the lease of its question in the store, or follows the process that holds it.
Whoever does not join a flight here takes no part. Where the store is of no help, each process asks for itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

from ollama_cache_proxy.core.delivery import recorded_chunks
from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.facts import NOTHING
from ollama_cache_proxy.core.fetch import Fetched, Flowing, Whole, failed
from ollama_cache_proxy.core.flights import MOST_ASKS, Flight
from ollama_cache_proxy.core.lookup import StoreLookup
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.core.store_ports import Ended, Ending, Held, Lease, SharedFlights, Streamed
from ollama_cache_proxy.policy.endpoints import Policy
from ollama_cache_proxy.policy.freshness import Freshness
from ollama_cache_proxy.policy.messages import ResponseHead
from ollama_cache_proxy.policy.reuse import Hit
from ollama_cache_proxy.policy.status import Detail

_ROUNDS: Final = 8
"""Leases for whose end one flight waits at most."""
_MOST_LOST: Final = 2
"""Of these, leases of whose end nothing was heard: their holders were killed, or the store does not answer."""

Fetch = Callable[[Question, Flight[Fetched]], Awaitable[None]]
"""Asks Ollama, publishes the response and stores it."""
Withdraw = Callable[[Sequence[str], str], None]
"""Deletes what must not be served: its keys, and their generation."""


class Sharing:
    """The work of flights that processes share; one instance a process."""

    def __init__(self, neighbours: Neighbours, flights: SharedFlights, fetch: Fetch, withdraw: Withdraw) -> None:
        self._rules = neighbours.rules
        self._clock = neighbours.clock
        self._store = neighbours.store
        self._flights = flights
        self._lookup = StoreLookup(neighbours)
        self._fetch = fetch
        self._withdraw = withdraw

    async def work(self, question: Question, flight: Flight[Fetched]) -> None:
        """Lead or follow, and publish a response. Raises ProxyError, which the flight hands to all who wait.

        When the flight of another process fails, one of those that waited for it leads the next. After the last failure
        each process asks for itself: it gets Ollama's own words.
        """
        asked, lost = question, 0
        for _ in range(_ROUNDS):
            if flight.attempt > MOST_ASKS or not self._is_shared(question):
                break
            streamed = question.candidate.stream
            turn = await self._flights.begin(f"{question.generation}:{question.key}", streamed=streamed)
            if turn is None:
                break
            if not isinstance(turn, Held):
                await self._lead(question, flight, turn)
                return
            begun = self._clock.monotonic()
            ended = await _end_of(turn, streamed=streamed)
            if isinstance(ended, Streamed):
                await self._relay(question, flight, ended)
                return
            question = self._noted(question, flight, ended, begun)
            if ended is not None and ended.ending is Ending.UNSHARED:
                break
            question, found = await self._lookup.find(question)
            if isinstance(found, Hit) and self._hand_on(asked, found, flight):
                return
            if isinstance(found, Hit) or (ended is not None and ended.ending is Ending.STORED):
                break  # there is no room for it, it does not suit this request, or was deleted again
            lost += ended is None
            if lost == _MOST_LOST:
                break
        await self._fetch(question, flight)

    def _noted(self, question: Question, flight: Flight[Fetched], ended: Ended | None, begun: float) -> Question:
        """Return the question after the end of another process's flight, if that was heard of.

        Its failures count, and for how long Ollama took to fail; what a store takes that does not answer does not.
        """
        if ended is None:
            return question
        flight.attempt = max(flight.attempt, ended.asks + 1)
        if ended.ending is not Ending.FAILED:
            return question
        return replace(question, spent=question.spent + self._clock.monotonic() - begun)

    def _is_shared(self, question: Question) -> bool:
        """Return whether the response to this question may be in the store, as a whole, when it is complete."""
        listing = question.listing
        return (
            question.generation is not None
            and self._store.writable
            and question.policy is not Policy.READ_ONLY
            and question.lifetime.seconds > 0
            and not (listing is not None and listing.text_list.odd)
        )

    async def _lead(self, question: Question, flight: Flight[Fetched], lease: Lease) -> None:
        """Ask Ollama for all processes, and tell them how that ended."""
        before = flight.attempt - 1
        with _Telling(flight, lease) as telling:
            try:
                await self._fetch(question, flight)
                if flight.stored and not await lease.purged_elsewhere():
                    lease.end(Ended(ending=Ending.STORED, asks=0))
                elif flight.stored:
                    self._withdraw(list(question.keys()), question.generation or "")
                ending = Ending.FAILED if telling.broken_off else Ending.UNSHARED
                lease.end(Ended(ending=ending, asks=before + telling.broken_off))
            except ProxyError as error:
                lease.end(Ended(ending=Ending.FAILED, asks=before + error.asks))
                raise
            finally:
                lease.end(Ended(ending=Ending.LEFT, asks=before))

    async def _relay(self, question: Question, flight: Flight[Fetched], streamed: Streamed) -> None:
        """Publish a response that another process passes on. It is not asked for again: clients have its beginning."""
        limit = self._rules.max_response_bytes(question.candidate.endpoint)
        tail = flight.stream(limit)
        flight.followed = True
        flight.publish(Flowing(head=streamed.head, length=None, tail=tail, detail=Detail.RECORDING))

        async def counted() -> AsyncIterator[bytes]:
            held = 0
            async for chunk in streamed.chunks():
                if flight.joinable and (held + len(chunk) > limit or not flight.hold.grow(len(chunk))):
                    flight.close(tail, held)
                held += len(chunk)
                yield chunk

        try:
            if not await tail.feed(counted()):
                flight.close(tail)
        finally:
            streamed.close()

    @staticmethod
    def _hand_on(question: Question, hit: Hit, flight: Flight[Fetched]) -> bool:
        """Publish the entry that another process has stored; return whether there was room for it in memory.

        What the texts save that were known before it, those who wait add themselves.
        """
        entry = hit.entry
        if not flight.hold.grow(len(entry.body)):
            return False
        length = None if entry.pieces else len(entry.body)
        framing = () if length is None else ((b"Content-Length", b"%d" % length),)
        lines = (*entry.fields, *framing, (b"Age", b"%d" % hit.age))
        known = NOTHING if question.listing is None else question.listing.saved
        flight.followed = True
        flight.publish(
            Whole(
                head=ResponseHead(status=entry.status, reason=entry.reason, fields=lines),
                length=length,
                chunks=tuple(chunk for _, chunk in recorded_chunks(entry)) if entry.pieces else (entry.body,),
                seconds=max(0.0, entry.took - known.seconds),
                fresh=Freshness(lifetime=entry.lifetime, age=hit.age, idle=entry.idle),
                ttl=hit.ttl,
                prompt_tokens=max(0, (entry.prompt_tokens or 0) - known.prompt_tokens),
                output_tokens=entry.output_tokens,
                estimated=hit.estimated,
            )
        )
        return True


async def _end_of(held: Held, *, streamed: bool) -> Streamed | Ended | None:
    """Wait for the end of a flight, or for its first chunk where it is `streamed`."""
    return await (held.streamed() if streamed else held.ended())


class _Telling:
    """Tells the other processes of a flight's response while it goes on: above all what is not for them.

    While one of them follows, it has a seat in the flight.
    """

    def __init__(self, flight: Flight[Fetched], lease: Lease) -> None:
        self._flight = flight
        self._lease = lease
        self._seats = ExitStack()
        self.broken_off = False
        """Whether a stream has begun whose end has not come."""
        flight.on_response = self._tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._seats.close()

    def _tell(self, response: Fetched) -> None:
        if failed(response):
            self._lease.end(Ended(ending=Ending.FAILED, asks=self._flight.attempt))
        elif isinstance(response, Whole):
            if response.ttl is None:
                self._lease.end(Ended(ending=Ending.UNSHARED, asks=0))
        elif response.detail is Detail.RECORDING and response.length is None:
            self.broken_off = True
            self._flight.on_chunk = self._pass_on
            self._lease.show(response.head, self._followed)
        else:
            self._lease.end(Ended(ending=Ending.UNSHARED, asks=0))

    def _followed(self) -> None:
        self._seats.enter_context(self._flight.seat())

    def _pass_on(self, chunk: bytes) -> None:
        self._lease.add(chunk)
        self.broken_off = bool(chunk)
        if not self._flight.joinable:  # its seat would hold up those who read
            self._lease.close_to_new()
            self._seats.close()
