"""One request from top to bottom. This file alone decides what happens in which order; policy/ decides what.

    admit -> classify -> pose -> find -+- Hit ------> respond (finder.py: identity, key, lookup, reuse)
                 |                     +- Forward --> flight (fetch.py, lists.py, streams.py) -> respond, store
                 +- Bypass --> relayed chunk by chunk

Each exchange ends in one `Exchange`, which metrics, log and statistics observe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, assert_never

from ollama_cache_proxy.core.errors import ClientLeft, ProxyError, Source
from ollama_cache_proxy.core.fast_path import Shortcuts
from ollama_cache_proxy.core.fetch import Fetched, Flowing, Neighbours, Question, Whole, worked
from ollama_cache_proxy.core.flights import Flight, Flights, Seat
from ollama_cache_proxy.core.lists import ListFetcher
from ollama_cache_proxy.core.lookup import Finder
from ollama_cache_proxy.core.ports import NOTHING, Answer, Client, Exchange, Saved
from ollama_cache_proxy.core.streams import StreamFetcher
from ollama_cache_proxy.policy import classify, document, endpoints, fields, usage
from ollama_cache_proxy.policy.buffers import Buffers, Hold
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.messages import Request, ResponseHead, StoredResponse, unpacked
from ollama_cache_proxy.policy.replies import reply
from ollama_cache_proxy.policy.reuse import Directives, Forward, Hit, Refuse, directives
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass
from ollama_cache_proxy.policy.trace import trace_id
from ollama_cache_proxy.policy.usage import Passing

_SERVER_ERROR: Final = 500
_UNAVAILABLE: Final = 503
_MAX_NAME: Final = 80
_MAX_CATEGORIES: Final = 32


@dataclass(slots=True, kw_only=True)
class Course:
    """How an exchange goes, noted as it becomes known: whoever leaves in the middle leaves a true account.

    `cache` is None until it is decided, `hit` is what was found where a shortcut may lead to it, `hold` counts what the
    exchange holds in memory, `spent` are the seconds for which Ollama was waited for in vain before it was asked.
    `silent` says of a stream that the model has said nothing yet, `spoke_at` is the monotonic time at which it did. See
    `ports.Exchange`.
    """

    endpoint: Endpoint
    client: Client
    hold: Hold
    cache: CacheStatus | None = None
    status: int = 0
    model: str = ""
    category: str = ""
    key: str = ""
    spent: float = 0.0
    silent: bool = False
    spoke_at: float | None = None
    upstream_seconds: float | None = None
    items: int = 0
    items_known: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    saved: Saved = NOTHING
    error: Source | None = None
    hit: tuple[Question, Hit] | None = None

    def concerns(self, question: Question) -> None:
        """Note what is asked."""
        self.key, self.model, self.category = question.key, question.candidate.model, question.wishes.category


class Exchanges:
    """Serves requests; one instance a process. With `each`, every hit is told by itself (see shortcuts.py)."""

    def __init__(self, neighbours: Neighbours, *, each: bool = True) -> None:
        self.shortcuts = Shortcuts(neighbours, each=each)
        self.serving = 0
        self._rules = neighbours.rules
        self._upstream = neighbours.upstream
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._observe = neighbours.observe
        self._finder = Finder(neighbours)
        self._lists = ListFetcher(neighbours)
        self._streams = StreamFetcher(neighbours)
        self._flights: Flights[Fetched] = Flights(neighbours.tasks)
        self._categories = Labels(_MAX_CATEGORIES)
        self._buffers = Buffers(neighbours.rules.max_buffered_bytes * 7 // 8)  # the rest is what only passes through

    async def serve(self, request: Request, client: Client) -> None:
        """Answer one request, and observe how that went, however it ends."""
        begun = self._clock.monotonic()
        endpoint, exact = endpoints.find(request.method, request.target)
        course, ended = Course(endpoint=endpoint, client=client, hold=self._buffers.hold()), False
        self.serving += 1
        try:
            with course.hold:
                await self._answer(endpoint, request, course, exact=exact)
            ended = True
        except ClientLeft:
            client.abort()
        finally:
            self.serving -= 1
            span = (begun, self._clock.monotonic())
            exchange = _told(request, course, span, ended=ended)
            self._observe(exchange)
        if course.hit is not None:
            self.shortcuts.note(client.raw, *course.hit, exchange)

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

    async def _answer(self, endpoint: Endpoint, request: Request, course: Course, *, exact: bool) -> None:
        if not self.admits(request):
            await self._refuse(course, 403, None, bypass(Detail.HOST))
            return
        if fields.looped(request.fields):
            text = "the request came back to the proxy: its upstream is the proxy itself"
            await self._refuse(course, 508, text, bypass(Detail.LOOP))
            return
        rules, policy = self._rules, self._rules.policy(endpoint)
        wishes = directives(request.fields, max_ttl=rules.max_ttl)
        forwarded = Request(
            method=request.method, target=request.target, fields=fields.forwarded_request(request.fields)
        )
        body: bytes | None = None
        found: Bypass | Candidate | None = classify.by_head(endpoint, request, wishes, policy=policy, exact=exact)
        if endpoint is not endpoints.OTHER:  # what we do not know, uploads among it, is never held in memory
            try:
                body = await course.client.body(rules.max_request_bytes, course.hold.grow)
            except ProxyError as error:
                await self._apologise(error, course, bypass(Detail.BODY_TIMEOUT))
                return
        if found is None:
            found = (
                Bypass(detail=Detail.BUFFERS_FULL if course.hold.refused else Detail.TOO_LARGE)
                if body is None or not course.hold.grow(document.weight(body))
                else classify.by_body(endpoint, body, policy=policy, streams=rules.streams)
            )
        course.model = found.model
        match found:
            case Bypass() if endpoint.changes:
                await self._change(endpoint, forwarded, body, found, course)
            case Bypass() if wishes.only_if_cached and policy is not None:
                await self._only_if_cached(course)
            case Bypass():
                repeatable = endpoint is not endpoints.OTHER
                await self._relay(forwarded, body, found, course, repeatable=repeatable)
            case Candidate():
                await self._reuse(found, forwarded, body or b"", wishes, course)
            case never:
                assert_never(never)

    async def _reuse(
        self,
        candidate: Candidate,
        request: Request,
        body: bytes,
        wishes: Directives,
        course: Course,
    ) -> None:
        if wishes.category:  # bounded here, where it comes to be kept
            wishes = replace(wishes, category=self._categories.of(wishes.category))
        begun = self._clock.monotonic()
        question = await self._finder.pose(candidate, request, body, wishes)
        if question is None and wishes.only_if_cached:
            await self._only_if_cached(course)
            return
        if question is None:
            course.spent = self._clock.monotonic() - begun
            bypassed = Bypass(detail=Detail.NO_DIGEST, model=candidate.model)
            await self._relay(request, body, bypassed, course, repeatable=True)
            return
        course.concerns(question)
        question, found = await self._finder.find(question)
        match found:
            case Hit(entry=entry) if not (course.hold.grow(len(entry.body)) or wishes.only_if_cached):
                full = Bypass(detail=Detail.BUFFERS_FULL, model=candidate.model)
                await self._relay(request, body, full, course, repeatable=True)
            case Hit():
                await self._hit(question, found, course)
            case Forward(reason=reason):
                await self._forward(question, reason, course)
            case Refuse():
                await self._only_if_cached(course)
            case never:
                assert_never(never)

    async def _only_if_cached(self, course: Course) -> None:
        text = "nothing fresh is stored, and only-if-cached was asked for"
        cache = CacheStatus(result=Result.BYPASS, detail=Detail.ONLY_IF_CACHED)
        await self._refuse(course, 504, text, cache)

    async def _hit(self, question: Question, hit: Hit, course: Course) -> None:
        entry = hit.entry
        detail = Detail.ESTIMATED_USAGE if hit.estimated else _remark(question)
        cache = CacheStatus(result=Result.HIT, ttl=hit.ttl, detail=detail)
        length = None if entry.pieces else len(entry.body)
        lines = fields.hit_fields(entry.fields, length, hit.age, cache)
        head = ResponseHead(status=entry.status, reason=entry.reason, fields=lines)
        course.cache, course.status = cache, head.status
        course.items = course.items_known = question.texts
        course.saved = _saved(entry.took, entry.prompt_tokens, entry.output_tokens)
        if entry.pieces:
            await self._replay(course, head, entry)
        else:
            await course.client.send(head, entry.body)
            course.hit = (question, hit)

    async def _replay(self, course: Course, head: ResponseHead, entry: StoredResponse) -> None:
        """Send a stream chunk for chunk, at once or at the pace that it had."""
        begun, client = self._clock.monotonic(), course.client
        course.silent = usage.speaks(course.endpoint, head)
        await client.begin(head, None)
        sent = 0
        for at, size in unpacked(entry.pieces):
            if self._rules.paced:
                await self._clock.sleep(begun + at / 1000 - self._clock.monotonic())
            chunk = entry.body[sent : sent + size]
            sent += size
            if course.silent:
                self._hear(course, chunk)
            await (client.write(chunk) if sent < len(entry.body) else client.finish(chunk))

    async def _forward(self, question: Question, reason: FwdReason, course: Course) -> None:
        """Wait for the flight of this key where there is one, else start it.

        After a failure those who only waited ask for themselves, as do those for whose copy there is no room. What a
        clear or a purge has ended is not joined.
        """
        name = f"{question.generation}:{question.purges}:{question.key}"
        joined = self._flights.join(name) if _joins(question) else None
        if joined is not None and joined.complete and reason is FwdReason.REQUEST:
            joined = None  # its answer is what is known, which would not do
        if joined is not None:
            joined_at = self._clock.monotonic()
            with joined.seat() as seat:
                answer = await _usable(joined)
                if answer is not None and _fits(answer, course.hold):
                    cache = CacheStatus(result=Result.HIT, fwd=reason, collapsed=True, detail=_remark(question))
                    await self._deliver(question, answer, seat, course, cache)
                    return
            question = replace(question, spent=self._clock.monotonic() - joined_at)
        model = question.identity.model
        if self._rules.max_misses is not None and self._flights.under_way(model) >= self._rules.max_misses:
            text = f"{self._rules.max_misses} requests for this model are under way (max_misses)"
            await self._refuse(course, 503, text, CacheStatus(result=Result.BYPASS, detail=Detail.BUSY))
            return
        begun = self._clock.monotonic()
        course.cache = cache = CacheStatus(result=Result.MISS, fwd=reason)
        flight = self._flights.launch(
            name,
            lambda flight: self._work(question, flight),
            group=model,
            hold=course.hold,
            linger=self._rules.lingers(question.candidate.endpoint),
            alone=joined is not None,
        )
        with flight.seat() as seat:
            try:
                answer = await flight.answer()
            except ProxyError as error:
                await self._apologise(error, course, cache)
                return
            await self._deliver(question, answer, seat, course, _asked(question, answer, reason))
            if isinstance(answer, Flowing):
                course.upstream_seconds = self._clock.monotonic() - begun

    async def _work(self, question: Question, flight: Flight[Fetched]) -> None:
        """Do what a flight is for."""
        if question.listing is not None:
            await self._lists.fetch_list(question, question.listing, flight)
        elif question.candidate.stream:
            await self._streams.fetch_stream(question, flight)
        else:
            await self._lists.fetch(question, flight)

    async def _deliver(
        self, question: Question, answer: Fetched, seat: Seat, course: Course, cache: CacheStatus
    ) -> None:
        head = fields.forwarded_head(answer.head, cache)
        course.cache, course.status = cache, head.status
        course.items = question.texts
        course.items_known = question.texts if cache.collapsed else cache.known
        match answer:
            case Whole(length=None):
                await course.client.begin(head, None)
                for chunk in answer.chunks:
                    await course.client.write(chunk)
                await course.client.finish()
            case Whole():
                await course.client.send(head, b"".join(answer.chunks))
            case Flowing():
                await self._flow(head, answer, seat, course, cache)
                return
            case never:
                assert_never(never)
        known = question.listing.saved if question.listing is not None else NOTHING
        if cache.collapsed:
            course.saved = _sum(_saved(answer.seconds, answer.prompt_tokens, answer.output_tokens), known)
            return
        course.upstream_seconds = answer.seconds
        course.prompt_tokens, course.output_tokens = answer.prompt_tokens, answer.output_tokens
        course.saved = known if answer.known else NOTHING

    async def _flow(self, head: ResponseHead, answer: Flowing, seat: Seat, course: Course, cache: CacheStatus) -> None:
        """Hand on an answer that is still coming. One that breaks off was no hit, whoever had asked for it."""
        course.silent = usage.speaks(course.endpoint, head)
        await course.client.begin(head, answer.length)
        try:
            async for chunk in answer.tail.read(seat):
                if course.silent:
                    self._hear(course, chunk)
                await course.client.write(chunk)
        except ProxyError as error:
            await self._apologise(error, course, replace(cache, result=Result.MISS))
            return
        await course.client.finish()

    async def _change(
        self, endpoint: Endpoint, request: Request, body: bytes | None, found: Bypass, course: Course
    ) -> None:
        """Pass on what changes a model; until its new digest is known, no answer of that model is reused or kept."""
        change = self._models.change_begins(classify.changed_model(endpoint, body))
        try:
            await self._models.change_known(change)
            await self._relay(request, body, found, course)
        finally:
            self._models.change_ends(change)

    async def _relay(
        self,
        request: Request,
        body: bytes | None,
        found: Bypass,
        course: Course,
        *,
        repeatable: bool = False,
    ) -> None:
        """Pass a request on as it came, and the answer as it comes; its fields are those for Ollama."""
        begun = self._clock.monotonic()
        course.cache = cache = bypass(found.detail)
        source = course.client.stream() if body is None else body or None
        try:
            async with self._upstream.ask(request, source, repeatable=repeatable, spent=course.spent) as answer:
                head = fields.forwarded_head(answer.head, cache)
                course.status = head.status
                whole, passing = answer.arrived(), Passing()
                try:
                    if whole is not None:
                        passing.add(whole)
                        await course.client.send(head, whole)
                    else:
                        await self._pass(answer, head, course, passing)
                finally:  # also where the client left when it had read all
                    self._worked(course, answer.head, passing)
        except ProxyError as error:
            await self._apologise(error, course, cache)
            return
        if whole is None:
            await course.client.finish()
        course.upstream_seconds = self._clock.monotonic() - begun

    async def _pass(self, answer: Answer, head: ResponseHead, course: Course, passing: Passing) -> None:
        """Hand an answer on chunk by chunk; it is not ended yet."""
        course.silent = usage.speaks(course.endpoint, head)
        client = course.client
        await client.begin(head, answer.length)

        def hand_on(chunk: bytes, framed: bytes | None) -> bool:
            more = client.put(chunk, framed)
            passing.add(chunk)
            if course.silent:
                self._hear(course, chunk)
            return more

        while not await answer.pour(hand_on):
            await client.flush()

    def _worked(self, course: Course, head: ResponseHead, passing: Passing) -> None:
        """Tell of what Ollama did for an answer that has passed."""
        told = worked(course.endpoint, course.model, head, passing) if usage.generates(course.endpoint) else None
        if told is not None:
            self._observe(told)

    def _hear(self, course: Course, chunk: bytes) -> None:
        """Look whether the model says something now."""
        if usage.says(chunk):
            course.silent, course.spoke_at = False, self._clock.monotonic()

    async def _apologise(self, error: ProxyError, course: Course, cache: CacheStatus) -> None:
        """Tell the client what went wrong, or reset its connection where a head has already gone out."""
        course.error = error.source
        if course.client.first_byte_at is None:
            await self._refuse(course, error.status, error.message, cache)
            return
        course.client.abort()
        course.cache, course.status = cache, error.status

    async def _refuse(self, course: Course, status: int, message: str | None, cache: CacheStatus) -> None:
        """Send an answer of the proxy's own."""
        course.cache, course.status = cache, status
        later = ((b"Retry-After", b"1"),) if status == _UNAVAILABLE else ()
        body = b"" if message is None else course.endpoint.dialect.error(status, message)
        await course.client.send(*reply(status, body, cache, self._clock.now(), later))


def _told(request: Request, course: Course, span: tuple[float, float], *, ended: bool) -> Exchange:
    """Give the one fact that an exchange ends in; `span` is from when to when it went."""
    begun, end = span
    at = course.client.first_byte_at
    return Exchange(
        method=request.method,
        operation=course.endpoint.operation,
        model=course.model[:_MAX_NAME],
        category=course.category,
        cache=course.cache or bypass(Detail.CLIENT_LEFT),
        status=0 if at is None else course.status,
        key=course.key,
        seconds=end - begun,
        first_byte=None if at is None else at - begun,
        first_token=None if course.spoke_at is None else course.spoke_at - begun,
        upstream_seconds=course.upstream_seconds,
        items=course.items,
        items_known=course.items_known,
        bytes_sent=course.client.sent,
        prompt_tokens=course.prompt_tokens,
        output_tokens=course.output_tokens,
        saved=course.saved,
        error=course.error if ended else Source.CLIENT,
        trace=trace_id(request.fields),
    )


async def _usable(flight: Flight[Fetched]) -> Fetched | None:
    """Give another's answer; None after a failure, since that may have been of its making alone."""
    try:
        answer = await flight.answer()
    except ProxyError:
        return None
    return answer if answer.head.status < _SERVER_ERROR else None


def _fits(answer: Fetched, hold: Hold) -> bool:
    """Whether there is room for another's answer beside it: a slow client keeps it for long."""
    return isinstance(answer, Flowing) or hold.grow(sum(map(len, answer.chunks)))


def _joins(question: Question) -> bool:
    """Whether another's answer will do.

    `no-cache` joins nothing that began before it, nor does a list whose texts must be young: the other may have known
    some for long; a stream may have begun long ago. What is never answered from the cache is not answered from a
    flight either.
    """
    wishes = question.wishes
    choosy = wishes.max_age is not None or wishes.min_fresh > 0
    barred = wishes.no_cache or question.policy is Policy.WRITE_ONLY
    return not barred and not (choosy and (question.listing is not None or question.candidate.stream))


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
