"""Collapsed forwarding between processes: one of those with one store asks Ollama, the others wait for its entry.

A flight of this process leads, holding the lease of its question in the store, or follows the process that holds it.
Whoever does not join a flight here takes no part. Where the store is of no help, each process asks for itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.facts import NOTHING
from ollama_cache_proxy.core.fetch import Fetched, Flowing, Whole, failed
from ollama_cache_proxy.core.flights import MOST_ASKS, Flight
from ollama_cache_proxy.core.lookup import StoreLookup
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.core.store_ports import Ended, Ending, Held, Lease, SharedFlights
from ollama_cache_proxy.policy.endpoints import Policy
from ollama_cache_proxy.policy.freshness import Freshness
from ollama_cache_proxy.policy.messages import ResponseHead
from ollama_cache_proxy.policy.reuse import Hit

_ROUNDS: Final = 8
"""Leases for whose end one flight waits at most."""

Fetch = Callable[[Question, Flight[Fetched]], Awaitable[None]]
"""Asks Ollama, publishes the response and stores it."""
Withdraw = Callable[[Sequence[str], str], None]
"""Deletes what must not be served: its keys, and their generation."""


class Sharing:
    """The work of flights that processes share; one instance a process."""

    def __init__(self, neighbours: Neighbours, flights: SharedFlights, fetch: Fetch, withdraw: Withdraw) -> None:
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
        asked, begun = question, self._clock.monotonic()
        for _ in range(_ROUNDS):
            if flight.attempt > MOST_ASKS or not self._is_shared(question):
                break
            turn = await self._flights.begin(f"{question.generation}:{question.key}")
            if turn is None:
                break
            if not isinstance(turn, Held):
                await self._lead(question, flight, turn)
                return
            ended = await turn.ended()
            question = replace(question, spent=asked.spent + self._clock.monotonic() - begun)
            if ended is not None:
                flight.attempt = max(flight.attempt, ended.asks + 1)
                if ended.ending is Ending.UNSHARED:
                    break
            question, found = await self._lookup.find(question)
            if isinstance(found, Hit):
                if self._hand_on(asked, found, flight):
                    return
                break
            if ended is not None and ended.ending is Ending.STORED:
                break  # it does not suit this request, or was deleted again
        await self._fetch(question, flight)

    def _is_shared(self, question: Question) -> bool:
        """Return whether the response to this question may be in the store, as a whole, when it is complete."""
        listing = question.listing
        return (
            question.generation is not None
            and self._store.writable
            and question.policy is not Policy.READ_ONLY
            and question.lifetime.seconds > 0
            and not question.candidate.stream
            and not (listing is not None and listing.text_list.odd)
        )

    async def _lead(self, question: Question, flight: Flight[Fetched], lease: Lease) -> None:
        """Ask Ollama for all processes, and tell them how that ended: what is not for them, as soon as it is known."""
        before = flight.attempt - 1

        def tell(response: Fetched) -> None:
            if failed(response):
                lease.end(Ended(ending=Ending.FAILED, asks=before + 1))
            elif isinstance(response, Flowing) or response.ttl is None:
                lease.end(Ended(ending=Ending.UNSHARED, asks=0))

        flight.on_response = tell
        try:
            await self._fetch(question, flight)
            if flight.stored and not await lease.purged_elsewhere():
                lease.end(Ended(ending=Ending.STORED, asks=0))
            elif flight.stored:
                self._withdraw(list(question.keys()), question.generation or "")
            lease.end(Ended(ending=Ending.UNSHARED, asks=0))
        except ProxyError as error:
            lease.end(Ended(ending=Ending.FAILED, asks=before + error.asks))
            raise
        finally:
            lease.end(Ended(ending=Ending.LEFT, asks=before))

    @staticmethod
    def _hand_on(question: Question, hit: Hit, flight: Flight[Fetched]) -> bool:
        """Publish the entry that another process has stored; return whether there was room for it in memory.

        What the texts save that were known before it, those who wait add themselves.
        """
        entry = hit.entry
        if not flight.hold.grow(len(entry.body)):
            return False
        lines = (*entry.fields, (b"Content-Length", b"%d" % len(entry.body)), (b"Age", b"%d" % hit.age))
        known = NOTHING if question.listing is None else question.listing.saved
        flight.followed = True
        flight.publish(
            Whole(
                head=ResponseHead(status=entry.status, reason=entry.reason, fields=lines),
                length=len(entry.body),
                chunks=(entry.body,),
                seconds=max(0.0, entry.took - known.seconds),
                fresh=Freshness(lifetime=entry.lifetime, age=hit.age, idle=entry.idle),
                ttl=hit.ttl,
                prompt_tokens=max(0, (entry.prompt_tokens or 0) - known.prompt_tokens),
                output_tokens=entry.output_tokens,
                estimated=hit.estimated,
            )
        )
        return True
