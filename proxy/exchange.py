"""One request from top to bottom. This file alone decides what happens in which order; policy/ decides what.

    admit -> classify -> identify -> key -> lookup -> reuse -+- Hit ------> respond
                 |                                           +- Forward --> flight (fetch.py) -> respond, store
                 +- Bypass --> relayed chunk by chunk

Each exchange ends in one frozen `Exchange`, which metrics, log and statistics observe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from proxy.errors import ClientLeft, ProxyError, Source
from proxy.fetch import Fetched, Listing, Neighbours, Overflow, Question, Whole
from proxy.flights import Flight, Flights, Seat
from proxy.lists import ListFetcher
from proxy.policy import classify, embeddings, endpoints, fields
from proxy.policy.classify import Bypass, Candidate
from proxy.policy.embeddings import Batch
from proxy.policy.endpoints import Endpoint
from proxy.policy.key import Scope, cache_key
from proxy.policy.messages import Request, ResponseHead
from proxy.policy.replies import reply
from proxy.policy.reuse import Directives, Forward, Hit, Refuse, directives, reuse
from proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass
from proxy.ports import Client, Exchange

_SERVER_ERROR = 500
_MAX_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an exchange went, without what `serve` measures. See `ports.Exchange`."""

    cache: CacheStatus
    status: int = 0
    model: str = ""
    key: str = ""
    upstream_seconds: float | None = None
    saved_seconds: float = 0.0
    items: int = 0
    items_known: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: Source | None = None


_CUT_OFF = Outcome(cache=bypass(Detail.CLIENT_LEFT), error=Source.CLIENT)


class Exchanges:
    """Serves requests; one instance a process."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._store = neighbours.store
        self._upstream = neighbours.upstream
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._observe = neighbours.observe
        self._fetcher = ListFetcher(neighbours)
        self._flights: Flights[Fetched] = Flights(neighbours.tasks)

    async def serve(self, request: Request, client: Client) -> None:
        """Answer one request, and observe how that went, however it ends."""
        begun = self._clock.monotonic()
        endpoint, exact = endpoints.find(request.method, request.target)
        outcome = _CUT_OFF
        try:
            outcome = await self._answer(endpoint, request, client, exact=exact)
        except ClientLeft:
            client.abort()
        finally:
            at = client.first_byte_at
            self._observe(
                Exchange(
                    method=request.method,
                    operation=endpoint.operation,
                    model=outcome.model[:_MAX_NAME],
                    cache=outcome.cache,
                    status=outcome.status,
                    key=outcome.key,
                    seconds=self._clock.monotonic() - begun,
                    first_byte=None if at is None else at - begun,
                    upstream_seconds=outcome.upstream_seconds,
                    saved_seconds=outcome.saved_seconds,
                    items=outcome.items,
                    items_known=outcome.items_known,
                    bytes_sent=client.sent,
                    prompt_tokens=outcome.prompt_tokens,
                    output_tokens=outcome.output_tokens,
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

    async def _answer(self, endpoint: Endpoint, request: Request, client: Client, *, exact: bool) -> Outcome:
        if not self.admits(request):
            return await self._refuse(client, 403, None, Outcome(cache=bypass(Detail.HOST)))
        if fields.looped(request.fields):
            text = "the request came back to the proxy: its upstream is the proxy itself"
            return await self._refuse(client, 508, text, Outcome(cache=bypass(Detail.LOOP)))
        wishes = directives(request.fields, max_ttl=self._rules.max_ttl)
        forwarded = replace(request, fields=fields.forwarded_request(request.fields))
        body: bytes | None = None
        found: Bypass | Candidate | None = classify.by_head(endpoint, request, wishes, exact=exact)
        if endpoint is not endpoints.OTHER:  # what we do not know, uploads among it, is never held in memory
            body = await client.body(self._rules.max_request_bytes)
        if found is None:
            found = Bypass(detail=Detail.TOO_LARGE) if body is None else classify.by_body(endpoint, body)
        match found:
            case Bypass() if endpoint.changes:
                return await self._change(endpoint, forwarded, client, body, found)
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
        identity = await self._models.identify(candidate.model)
        if identity is None and wishes.only_if_cached:
            return await self._only_if_cached(candidate, client)
        if identity is None:
            found = Bypass(detail=Detail.NO_DIGEST, model=candidate.model)
            return await self._relay(request, client, body, found, repeatable=True)
        scope = Scope(
            digest=identity.digest,
            version=identity.version,
            epoch=self._rules.epoch,
            namespace=wishes.namespace,
        )
        key = cache_key(candidate, scope, request.fields)
        question = Question(request=request, body=body, wishes=wishes, candidate=candidate, identity=identity, key=key)
        batch = embeddings.batch(candidate)
        if batch is not None:
            return await self._reuse_list(question, batch, scope, client)
        lookup = await self._store.get(key)
        question = replace(question, generation=lookup.generation)
        match reuse(lookup.entry, wishes, self._clock.now()):
            case Hit() as hit:
                return await self._hit(question, client, hit)
            case Forward(reason=reason):
                return await self._forward(question, client, reason)
            case Refuse():
                return await self._only_if_cached(candidate, client, key)
            case never:
                assert_never(never)

    async def _reuse_list(self, question: Question, batch: Batch, scope: Scope, client: Client) -> Outcome:
        """Answer a list from its items, or forward what is missing of it."""
        keys = {text: embeddings.item_key(batch, text, scope, question.request.fields) for text in batch.unique}
        found = await self._store.get_many(tuple(keys.values()))
        wishes, now = replace(question.wishes, only_if_cached=False), self._clock.now()
        outcomes = dict(zip(keys, (reuse(entry, wishes, now) for entry in found.entries), strict=True))
        hits = {text: outcome for text, outcome in outcomes.items() if isinstance(outcome, Hit)}
        items = {text: item for text, hit in hits.items() if (item := embeddings.decode(hit.entry.body)) is not None}
        if not embeddings.alike(item.vector for item in items.values()):
            items = {}  # of two models: one was replaced behind our back a moment ago
        missing = frozenset(embeddings.missing(batch, items))
        known = {text: item for text, item in items.items() if text not in missing}
        listing = Listing(batch=batch, keys=keys, known=known)
        question = replace(question, generation=found.generation, listing=listing)
        if not missing and embeddings.joined_size(batch, items) <= self._rules.max_list_bytes:
            return await self._list_hit(question, listing, client, hits)
        if question.wishes.only_if_cached:
            return await self._only_if_cached(question.candidate, client, question.key)
        refused = (outcomes[text] for text in keys if text in missing)
        reason = next((outcome.reason for outcome in refused if isinstance(outcome, Forward)), FwdReason.MISS)
        return await self._forward(question, client, reason)

    async def _list_hit(self, question: Question, listing: Listing, client: Client, hits: dict[str, Hit]) -> Outcome:
        """Join a list of which every text is known; its age is that of the oldest item."""
        batch = listing.batch
        joined = embeddings.join(batch, listing.known)
        entries = [hits[text].entry for text in batch.unique]
        ttl = min(hit.ttl for hit in hits.values())
        age = max(hit.age for hit in hits.values())
        detail = Detail.ESTIMATED_USAGE if joined.estimated else _remark(question)
        cache = CacheStatus(result=Result.HIT, ttl=ttl, detail=detail)
        kind = (b"Content-Type", embeddings.content_type(batch))
        stored = tuple(kind if line[0].lower() == b"content-type" else line for line in entries[0].fields)
        head = ResponseHead(status=200, reason="OK", fields=fields.hit_fields(stored, len(joined.body), age, cache))
        await client.send(head, joined.body)
        return Outcome(
            cache=cache,
            status=200,
            model=question.candidate.model,
            key=question.key,
            saved_seconds=sum(entry.took for entry in entries),
            prompt_tokens=sum(listing.known[text].tokens for text in batch.texts),
            items=len(batch.texts),
            items_known=len(batch.texts),
        )

    async def _only_if_cached(self, candidate: Candidate, client: Client, key: str = "") -> Outcome:
        text = "nothing fresh is stored, and only-if-cached was asked for"
        cache = CacheStatus(result=Result.BYPASS, detail=Detail.ONLY_IF_CACHED)
        return await self._refuse(client, 504, text, Outcome(cache=cache, model=candidate.model, key=key))

    async def _hit(self, question: Question, client: Client, hit: Hit) -> Outcome:
        entry = hit.entry
        cache = CacheStatus(result=Result.HIT, ttl=hit.ttl, detail=_remark(question))
        lines = fields.hit_fields(entry.fields, len(entry.body), hit.age, cache)
        await client.send(ResponseHead(status=entry.status, reason=entry.reason, fields=lines), entry.body)
        return Outcome(
            cache=cache,
            status=entry.status,
            model=question.candidate.model,
            key=question.key,
            saved_seconds=entry.took,
            prompt_tokens=entry.prompt_tokens,
            output_tokens=entry.output_tokens,
        )

    async def _forward(self, question: Question, client: Client, reason: FwdReason) -> Outcome:
        """Wait for the flight of this key where there is one, else start it.

        After a failure those who only waited ask for themselves.
        """
        name = f"{question.generation}:{question.key}"  # what a clear has ended is not joined after it
        joined = self._flights.join(name) if _joins(question) else None
        if joined is not None:
            with joined.seat() as seat:
                answer = await _usable(joined)
                if answer is not None:
                    cache = CacheStatus(result=Result.HIT, fwd=reason, collapsed=True, detail=_remark(question))
                    return await self._deliver(question, client, answer, seat, cache)
        flight = self._flights.launch(
            name,
            lambda flight: self._fetcher.work(question, flight),
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

    async def _deliver(
        self, question: Question, client: Client, answer: Fetched, seat: Seat, cache: CacheStatus
    ) -> Outcome:
        head = replace(answer.head, fields=fields.forwarded_response(answer.head, cache))
        known = answer.known if isinstance(answer, Whole) else 0
        outcome = Outcome(
            cache=cache,
            status=head.status,
            model=question.candidate.model,
            key=question.key,
            items=question.texts,
            items_known=question.texts if cache.collapsed else known,
        )
        match answer:
            case Whole(length=None):
                await client.begin(head, None)
                for chunk in answer.chunks:
                    await client.write(chunk)
                await client.finish()
            case Whole():
                await client.send(head, b"".join(answer.chunks))
            case Overflow():
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
        return replace(
            outcome,
            upstream_seconds=None if cache.collapsed else answer.seconds,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
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
    some for long.
    """
    wishes = question.wishes
    choosy = wishes.max_age is not None or wishes.min_fresh > 0
    return not wishes.no_cache and not (choosy and question.listing is not None)


def _asked(question: Question, answer: Fetched, reason: FwdReason) -> CacheStatus:
    """Say of an answer that Ollama was asked for whether it is kept, and whether all of it was asked for."""
    if isinstance(answer, Overflow):
        return CacheStatus(result=Result.MISS, fwd=reason, detail=Detail.ANSWER_TOO_LARGE)
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
    return Detail.TTL_IGNORED if question.wishes.ttl_ignored else None
