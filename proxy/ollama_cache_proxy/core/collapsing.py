"""Collapsed forwarding: joins the request that is in flight for the same key, or starts one (RFC 9111, section 4).

What a flight does is in fetch.py, lists.py and streams.py; how it is shared is in flights.py, and how between processes
in sharing.py.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Final

from ollama_cache_proxy.core.delivery import Delivery, standing_detail
from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.fetch import Fetched, Flowing, failed
from ollama_cache_proxy.core.flights import MOST_ASKS, Flight, Flights, Seat
from ollama_cache_proxy.core.lanes import waited
from ollama_cache_proxy.core.lists import ListFetcher
from ollama_cache_proxy.core.outcome import Outcome, Visit
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.core.sharing import Sharing
from ollama_cache_proxy.core.streams import StreamFetcher
from ollama_cache_proxy.policy import fields, storing
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.endpoints import Policy
from ollama_cache_proxy.policy.record import changed
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result

_ASKED: Final = {reason: Outcome(cache=CacheStatus(result=Result.MISS, fwd=reason)) for reason in FwdReason}


class Collapsing:
    """Asks Ollama once for all requests with the same key; one instance a process."""

    def __init__(self, neighbours: Neighbours, delivery: Delivery) -> None:
        self._rules = neighbours.rules
        self._clock = neighbours.clock
        self._delivery = delivery
        self._lists = ListFetcher(neighbours)
        self._streams = StreamFetcher(neighbours)
        self._flights: Flights[Fetched] = Flights(neighbours.tasks)
        shared = neighbours.shared_flights
        self._sharing = None if shared is None else Sharing(neighbours, shared, self._fetch, self._lists.withdraw)

    @property
    def waiting(self) -> int:
        """How many clients wait for a response that others can join."""
        return self._flights.waiting

    async def forward(self, visit: Visit, question: Question, reason: FwdReason) -> Outcome:
        """Wait for the flight of this key where there is one, else start one.

        When a flight fails, one of the clients that only waited starts the next, and the others wait for that; the
        failure of the last goes to all of them. Where the response is not for them, or there is no room for their copy,
        they ask for themselves. A flight from before a clear or a purge is not joined.
        """
        name = f"{question.generation}:{question.purges}:{question.key}"
        joined, failures, alone = self._joinable(name, question, reason), 0, False
        begun = self._clock.monotonic()
        while joined is not None:
            with joined.seat() as seat:
                joined.raise_for(question.request.ticket)
                found = await _found(joined)
                asks = found.asks if isinstance(found, ProxyError) else 1
                failures = max(failures, joined.attempt - 1) + asks if failed(found) else 0
                if not 0 < failures < MOST_ASKS:
                    shared = await self._share(visit, question, reason, seat, found)
                    if shared is not None:
                        return shared
            question = replace(question, spent=max(0.0, self._clock.monotonic() - begun - joined.waited))
            alone = not 0 < failures < MOST_ASKS
            following = None if alone else self._flights.join(name)
            joined = None if following is joined else following
        if (
            self._rules.max_misses is not None
            and self._flights.in_flight(question.identity.model) >= self._rules.max_misses
        ):
            text = f"{self._rules.max_misses} requests for this model are in flight (max_misses)"
            busy = CacheStatus(result=Result.BYPASS, detail=Detail.BUSY)
            return await self._delivery.refuse(visit, HTTPStatus.SERVICE_UNAVAILABLE, text, busy)
        return await self._ask(visit, question, reason, name, attempt=failures + 1, alone=alone)

    def _joinable(self, name: str, question: Question, reason: FwdReason) -> Flight[Fetched] | None:
        """Return the flight that the question may join, or None."""
        flight = self._flights.join(name) if _joins(question) else None
        if flight is not None and flight.complete and reason is FwdReason.REQUEST:
            return None  # its response is the stored one, which would not do
        return flight

    async def _share(
        self, visit: Visit, question: Question, reason: FwdReason, seat: Seat, found: Fetched | ProxyError
    ) -> Outcome | None:
        """Send what a flight has come to, to a client that only waited; return None where it is not for that client."""
        if isinstance(found, ProxyError):
            return await self._delivery.failure(visit, found, _shared(question, reason, Result.MISS))
        is_failure = failed(found)
        if storing.for_one_client(question.candidate, found.head):
            return None
        if not ((is_failure or _suits(found, question)) and _fits(found, visit.hold)):
            return None
        result = Result.MISS if is_failure else Result.HIT
        return await self._delivery.fetched(visit, question, found, seat, _shared(question, reason, result))

    async def _ask(  # noqa: PLR0913 - what `forward` has found
        self, visit: Visit, question: Question, reason: FwdReason, name: str, *, attempt: int, alone: bool
    ) -> Outcome:
        """Start a flight and wait for it."""
        begun = self._clock.monotonic()
        visit.outcome = _ASKED[reason]
        question = changed(question, request=fields.for_storing(question.request))
        work = self._fetch
        if self._sharing is not None and not alone and _joins(question):
            work = self._sharing.work
        flight = self._flights.launch(
            name,
            lambda flight: work(question, flight),
            group=question.identity.model,
            hold=visit.hold,
            linger=self._rules.linger_seconds(question.candidate.endpoint),
            alone=alone,
            attempt=attempt,
            ticket=question.request.ticket,
        )
        with flight.seat() as seat:
            try:
                response = await flight.response()
            except ProxyError as error:
                return await self._delivery.failure(visit, error, _ASKED[reason].cache)
            if flight.followed:
                cache = _shared(question, reason, Result.HIT)
                return await self._delivery.fetched(visit, question, response, seat, cache)
            outcome = await self._delivery.fetched(visit, question, response, seat, _missed(question, response, reason))
            if isinstance(response, Flowing):
                seconds = self._clock.monotonic() - begun - waited(question.request)
                return replace(outcome, upstream_seconds=seconds)
            return outcome

    async def _fetch(self, question: Question, flight: Flight[Fetched]) -> None:
        """Do the work of a flight, by the kind of its question."""
        if question.listing is not None:
            await self._lists.fetch_list(question, question.listing, flight)
        elif question.candidate.stream:
            await self._streams.fetch_stream(question, flight)
        else:
            await self._lists.fetch(question, flight)


async def _found(flight: Flight[Fetched]) -> Fetched | ProxyError:
    """Return the flight's response, or the error with which it failed."""
    try:
        return await flight.response()
    except ProxyError as error:
        return error


def _shared(question: Question, reason: FwdReason, result: Result) -> CacheStatus:
    return CacheStatus(result=result, fwd=reason, collapsed=True, detail=standing_detail(question))


def _suits(response: Fetched, question: Question) -> bool:
    """Return whether the response is as fresh as a request asks for (RFC 9111, sections 5.2.1.1 and 5.2.1.3).

    It may have been made before the flight began, where another cache had it.
    """
    directives = question.directives
    if directives.max_age is None and directives.min_fresh == 0:
        return True
    if isinstance(response, Flowing):
        return False
    fresh = response.fresh
    young = directives.max_age is None or fresh.age <= directives.max_age
    return young and fresh.ttl >= directives.min_fresh


def _fits(response: Fetched, hold: Hold) -> bool:
    """Return whether there is room for one more copy of the response: a slow client holds it for long."""
    return isinstance(response, Flowing) or hold.grow(sum(map(len, response.chunks)))


def _joins(question: Question) -> bool:
    """Return whether the question may join a flight that another request began.

    `no-cache` joins nothing that began before it. With `max-age` or `min-fresh`, a list joins nothing, since the flight
    may have served some texts from the store, nor does a stream, which may have begun long ago. An endpoint that is
    never looked up is not collapsed either.
    """
    directives = question.directives
    choosy = directives.max_age is not None or directives.min_fresh > 0
    barred = directives.no_cache or question.policy is Policy.WRITE_ONLY
    return not barred and not (choosy and (question.listing is not None or question.candidate.stream))


def _missed(question: Question, response: Fetched, reason: FwdReason) -> CacheStatus:
    """Return the status of a response for which Ollama was asked: whether it is stored, how many items were known."""
    if isinstance(response, Flowing):
        return CacheStatus(result=Result.MISS, fwd=reason, detail=response.detail)
    detail = Detail.ITEMS if response.known else standing_detail(question)
    return CacheStatus(
        result=Result.MISS,
        fwd=reason,
        stored=response.ttl is not None,
        ttl=response.ttl,
        detail=response.detail or (Detail.ESTIMATED_USAGE if response.estimated else detail),
        known=response.known,
        of=question.texts,
    )
