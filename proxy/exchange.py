"""One request from top to bottom. This file alone decides what happens in which order; policy/ decides what.

    admit -> classify -> pose -> find -+- Hit ------> respond (finder.py: identity, key, lookup, reuse)
                 |                     +- Forward --> flight (fetch.py, lists.py, streams.py) -> respond, store
                 +- Bypass --> relayed chunk by chunk

Each exchange ends in one frozen `Exchange`, which metrics, log and statistics observe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, assert_never

from proxy.errors import ClientLeft, ProxyError, Source
from proxy.fetch import Fetched, Flowing, Neighbours, Question, Whole
from proxy.finder import Finder
from proxy.flights import Flight, Flights, Seat
from proxy.lists import ListFetcher
from proxy.policy import classify, endpoints, fields
from proxy.policy.classify import Bypass, Candidate
from proxy.policy.endpoints import Endpoint, Policy
from proxy.policy.labels import Labels
from proxy.policy.messages import Request, ResponseHead, StoredResponse
from proxy.policy.replies import reply
from proxy.policy.reuse import Directives, Forward, Hit, Refuse, directives
from proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass
from proxy.ports import NOTHING, Client, Exchange, Saved
from proxy.streams import StreamFetcher

_SERVER_ERROR: Final = 500
_MAX_NAME: Final = 80
_MAX_CATEGORIES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an exchange went, without what `serve` measures. See `ports.Exchange`."""

    cache: CacheStatus
    status: int = 0
    model: str = ""
    key: str = ""
    upstream_seconds: float | None = None
    items: int = 0
    items_known: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    saved: Saved = NOTHING
    error: Source | None = None


_CUT_OFF = Outcome(cache=bypass(Detail.CLIENT_LEFT), error=Source.CLIENT)


class Exchanges:
    """Serves requests; one instance a process."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._upstream = neighbours.upstream
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._observe = neighbours.observe
        self._purges = neighbours.purges
        self._finder = Finder(neighbours)
        self._lists = ListFetcher(neighbours)
        self._streams = StreamFetcher(neighbours)
        self._flights: Flights[Fetched] = Flights(neighbours.tasks)
        self._categories = Labels(_MAX_CATEGORIES)

    async def serve(self, request: Request, client: Client) -> None:
        """Answer one request, and observe how that went, however it ends."""
        begun = self._clock.monotonic()
        endpoint, exact = endpoints.find(request.method, request.target)
        wishes = self._wishes(request)
        outcome = _CUT_OFF
        try:
            outcome = await self._answer(endpoint, request, client, wishes, exact=exact)
        except ClientLeft:
            client.abort()
        finally:
            at = client.first_byte_at
            self._observe(
                Exchange(
                    method=request.method,
                    operation=endpoint.operation,
                    model=outcome.model[:_MAX_NAME],
                    category=wishes.category,
                    cache=outcome.cache,
                    status=outcome.status,
                    key=outcome.key,
                    seconds=self._clock.monotonic() - begun,
                    first_byte=None if at is None else at - begun,
                    upstream_seconds=outcome.upstream_seconds,
                    items=outcome.items,
                    items_known=outcome.items_known,
                    bytes_sent=client.sent,
                    prompt_tokens=outcome.prompt_tokens,
                    output_tokens=outcome.output_tokens,
                    saved=outcome.saved,
                    error=outcome.error,
                ),
            )

    @property
    def waiting(self) -> int:
        """How many clients wait for an answer that others can join."""
        return self._flights.waiting

    def admits(self, request: Request) -> bool:
        """Apply Ollama's Host rule, where the listener is on loopback; it holds for the admin routes too."""
        rules = self._rules
        return not rules.guard_host or fields.allowed_host(
            request.fields,
            hostname=rules.hostname,
            local_addresses=rules.local_addresses,
        )

    def _wishes(self, request: Request) -> Directives:
        wishes = directives(request.fields, max_ttl=self._rules.max_ttl)
        return replace(wishes, category=self._categories.of(wishes.category)) if wishes.category else wishes

    async def _answer(
        self, endpoint: Endpoint, request: Request, client: Client, wishes: Directives, *, exact: bool
    ) -> Outcome:
        if not self.admits(request):
            return await self._refuse(client, 403, None, Outcome(cache=bypass(Detail.HOST)))
        if fields.looped(request.fields):
            text = "the request came back to the proxy: its upstream is the proxy itself"
            return await self._refuse(client, 508, text, Outcome(cache=bypass(Detail.LOOP)))
        rules, policy = self._rules, self._rules.policy(endpoint)
        forwarded = replace(request, fields=fields.forwarded_request(request.fields))
        body: bytes | None = None
        found: Bypass | Candidate | None = classify.by_head(endpoint, request, wishes, policy=policy, exact=exact)
        if endpoint is not endpoints.OTHER:  # what we do not know, uploads among it, is never held in memory
            body = await client.body(rules.max_request_bytes)
        if found is None:
            found = (
                Bypass(detail=Detail.TOO_LARGE)
                if body is None
                else classify.by_body(endpoint, body, policy=policy, streams=rules.streams)
            )
        match found:
            case Bypass() if endpoint.changes:
                return await self._change(endpoint, forwarded, client, body, found)
            case Bypass() if wishes.only_if_cached and policy is not None:
                return await self._only_if_cached(client, found.model)
            case Bypass():
                repeatable = endpoint is not endpoints.OTHER
                return await self._relay(forwarded, client, body, found, repeatable=repeatable)
            case Candidate():
                return await self._reuse(found, forwarded, client, body or b"", wishes)
            case never:
                assert_never(never)

    async def _reuse(
        self,
        candidate: Candidate,
        request: Request,
        client: Client,
        body: bytes,
        wishes: Directives,
    ) -> Outcome:
        question = await self._finder.pose(candidate, request, body, wishes)
        if question is None and wishes.only_if_cached:
            return await self._only_if_cached(client, candidate.model)
        if question is None:
            bypassed = Bypass(detail=Detail.NO_DIGEST, model=candidate.model)
            return await self._relay(request, client, body, bypassed, repeatable=True)
        question, found = await self._finder.find(question)
        match found:
            case Hit():
                return await self._hit(question, client, found)
            case Forward(reason=reason):
                return await self._forward(question, client, reason)
            case Refuse():
                return await self._only_if_cached(client, candidate.model, question.key)
            case never:
                assert_never(never)

    async def _only_if_cached(self, client: Client, model: str, key: str = "") -> Outcome:
        text = "nothing fresh is stored, and only-if-cached was asked for"
        cache = CacheStatus(result=Result.BYPASS, detail=Detail.ONLY_IF_CACHED)
        return await self._refuse(client, 504, text, Outcome(cache=cache, model=model, key=key))

    async def _hit(self, question: Question, client: Client, hit: Hit) -> Outcome:
        entry = hit.entry
        detail = Detail.ESTIMATED_USAGE if hit.estimated else _remark(question)
        cache = CacheStatus(result=Result.HIT, ttl=hit.ttl, detail=detail)
        length = None if entry.pieces else len(entry.body)
        lines = fields.hit_fields(entry.fields, length, hit.age, cache)
        head = ResponseHead(status=entry.status, reason=entry.reason, fields=lines)
        if entry.pieces:
            await self._replay(client, head, entry)
        else:
            await client.send(head, entry.body)
        return Outcome(
            cache=cache,
            status=entry.status,
            model=question.candidate.model,
            key=question.key,
            items=question.texts,
            items_known=question.texts,
            saved=_saved(entry.took, entry.prompt_tokens, entry.output_tokens),
        )

    async def _replay(self, client: Client, head: ResponseHead, entry: StoredResponse) -> None:
        """Send a stream chunk for chunk, at once or at the pace that it had."""
        begun = self._clock.monotonic()
        await client.begin(head, None)
        sent = 0
        for at, size in entry.pieces:
            if self._rules.paced:
                await self._clock.sleep(begun + at / 1000 - self._clock.monotonic())
            chunk = entry.body[sent : sent + size]
            sent += size
            await (client.write(chunk) if sent < len(entry.body) else client.finish(chunk))

    async def _forward(self, question: Question, client: Client, reason: FwdReason) -> Outcome:
        """Wait for the flight of this key where there is one, else start it.

        After a failure those who only waited ask for themselves.
        """
        name = (
            f"{question.generation}:{question.purges}:{question.key}"  # what a clear has ended is not joined after it
        )
        joined = self._flights.join(name) if _joins(question) else None
        if joined is not None:
            with joined.seat() as seat:
                answer = await _usable(joined)
                if answer is not None:
                    cache = CacheStatus(result=Result.HIT, fwd=reason, collapsed=True, detail=_remark(question))
                    return await self._deliver(question, client, answer, seat, cache)
        flight = self._flights.launch(
            name,
            lambda flight: self._work(question, flight),
            linger=self._rules.lingers(question.candidate.endpoint),
            alone=joined is not None,
        )
        with flight.seat() as seat:
            try:
                answer = await flight.answer()
            except ProxyError as error:
                cache = CacheStatus(result=Result.MISS, fwd=reason)
                outcome = Outcome(cache=cache, model=question.candidate.model, key=question.key)
                return await self._apologise(error, client, outcome)
            return await self._deliver(question, client, answer, seat, _asked(question, answer, reason))

    async def _work(self, question: Question, flight: Flight[Fetched]) -> None:
        """Do what a flight is for."""
        if question.listing is not None:
            await self._lists.fetch_list(question, question.listing, flight)
        elif question.candidate.stream:
            await self._streams.fetch_stream(question, flight)
        else:
            await self._lists.fetch(question, flight)

    async def _deliver(
        self, question: Question, client: Client, answer: Fetched, seat: Seat, cache: CacheStatus
    ) -> Outcome:
        head = replace(answer.head, fields=fields.forwarded_response(answer.head, cache))
        outcome = Outcome(
            cache=cache,
            status=head.status,
            model=question.candidate.model,
            key=question.key,
            items=question.texts,
            items_known=question.texts if cache.collapsed else cache.known,
        )
        match answer:
            case Whole(length=None):
                await client.begin(head, None)
                for chunk in answer.chunks:
                    await client.write(chunk)
                await client.finish()
            case Whole():
                await client.send(head, b"".join(answer.chunks))
            case Flowing():
                await client.begin(head, answer.length)
                try:
                    async for chunk in answer.tail.read(seat):
                        await client.write(chunk)
                except ProxyError as error:
                    return await self._apologise(error, client, outcome)
                await client.finish()
                return outcome
            case never:
                assert_never(never)
        known = question.listing.saved if question.listing is not None else NOTHING
        if cache.collapsed:
            spared = _saved(answer.seconds, answer.prompt_tokens, answer.output_tokens)
            return replace(outcome, saved=_sum(spared, known))
        return replace(
            outcome,
            upstream_seconds=answer.seconds,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            saved=known if answer.known else NOTHING,
        )

    async def _change(
        self, endpoint: Endpoint, request: Request, client: Client, body: bytes | None, found: Bypass
    ) -> Outcome:
        """Pass on what changes a model; until its new digest is known, no answer of that model is reused or kept."""
        change = self._models.change_begins(classify.changed_model(endpoint, body))
        try:
            return await self._relay(request, client, body, found)
        finally:
            self._models.change_ends(change)

    async def _relay(
        self, request: Request, client: Client, body: bytes | None, found: Bypass, *, repeatable: bool = False
    ) -> Outcome:
        """Pass a request on as it came, and the answer as it comes; its fields are those for Ollama."""
        begun = self._clock.monotonic()
        outcome = Outcome(cache=bypass(found.detail), model=found.model)
        source = client.stream() if body is None else body or None
        try:
            async with self._upstream.ask(request, source, repeatable=repeatable) as answer:
                head = replace(answer.head, fields=fields.forwarded_response(answer.head, outcome.cache))
                await client.begin(head, answer.length)
                async for chunk in answer.chunks():
                    await client.write(chunk)
        except ProxyError as error:
            return await self._apologise(error, client, outcome)
        await client.finish()
        return replace(outcome, status=head.status, upstream_seconds=self._clock.monotonic() - begun)

    async def _apologise(self, error: ProxyError, client: Client, outcome: Outcome) -> Outcome:
        """Tell the client what went wrong, or reset its connection where a head has already gone out."""
        outcome = replace(outcome, error=error.source)
        if client.first_byte_at is None:
            return await self._refuse(client, error.status, error.message, outcome)
        client.abort()
        return replace(outcome, status=error.status)

    async def _refuse(self, client: Client, status: int, message: str | None, outcome: Outcome) -> Outcome:
        """Send an answer of the proxy's own."""
        await client.send(*reply(status, message, outcome.cache, self._clock.now()))
        return replace(outcome, status=status)


async def _usable(flight: Flight[Fetched]) -> Fetched | None:
    """Give another's answer; None after a failure, since that may have been of its making alone."""
    try:
        answer = await flight.answer()
    except ProxyError:
        return None
    return answer if answer.head.status < _SERVER_ERROR else None


def _joins(question: Question) -> bool:
    """Whether another's answer will do.

    `no-cache` joins nothing that began before it, nor does a list whose texts must be young: the other may have known
    some for long. What is never answered from the cache is not answered from a flight either.
    """
    wishes = question.wishes
    choosy = wishes.max_age is not None or wishes.min_fresh > 0
    barred = wishes.no_cache or question.policy is Policy.WRITE_ONLY
    return not barred and not (choosy and question.listing is not None)


def _asked(question: Question, answer: Fetched, reason: FwdReason) -> CacheStatus:
    """Say of an answer that Ollama was asked for whether it is kept, and whether all of it was asked for."""
    if isinstance(answer, Flowing):
        return CacheStatus(result=Result.MISS, fwd=reason, detail=answer.detail)
    remark = Detail.ITEMS if answer.known else _remark(question)
    return CacheStatus(
        result=Result.MISS,
        fwd=reason,
        stored=answer.ttl is not None,
        ttl=answer.ttl,
        detail=answer.detail or (Detail.ESTIMATED_USAGE if answer.estimated else remark),
        known=answer.known,
        of=question.texts,
    )


def _remark(question: Question) -> Detail | None:
    if question.policy is Policy.WRITE_ONLY:
        return Detail.WRITE_ONLY
    return Detail.TTL_IGNORED if question.wishes.ttl_ignored else None


def _saved(seconds: float, prompt_tokens: int | None, output_tokens: int | None) -> Saved:
    return Saved(seconds=seconds, prompt_tokens=prompt_tokens or 0, output_tokens=output_tokens or 0)


def _sum(one: Saved, other: Saved) -> Saved:
    return Saved(
        seconds=one.seconds + other.seconds,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
    )
