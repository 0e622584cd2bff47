"""Writing responses to clients. Each method notes its outcome in the visit before it waits, and returns it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import Final, assert_never

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.facts import NOTHING, Saved
from ollama_cache_proxy.core.fetch import Fetched, Flowing, Whole
from ollama_cache_proxy.core.flights import Seat
from ollama_cache_proxy.core.outcome import Outcome, Visit
from ollama_cache_proxy.core.ports import UpstreamResponse
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.policy import endpoints, fields, usage
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.messages import Request, ResponseHead, StoredResponse, unpacked
from ollama_cache_proxy.policy.replay_pace import Pace, lines
from ollama_cache_proxy.policy.replies import reply
from ollama_cache_proxy.policy.reuse import Hit
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.policy.status import CacheStatus, Detail, Result, bypass
from ollama_cache_proxy.policy.usage import Excerpt

LINE_PAUSE: Final = 0.002
"""Seconds between two lines: after a mere turn of the event loop, a client mostly reads all of them at once."""


_IN_A_ROW: Final = 256
"""Chunks of a stored stream that are sent in one turn of the event loop."""
_JOIN_UP_TO: Final = 1 << 20
"""Bytes: the chunks of a larger response are sent one by one."""


class Delivery:
    """Writes responses; one instance a process."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._clock = neighbours.clock

    async def hit(self, visit: Visit, question: Question, hit: Hit) -> Outcome:
        """Send a stored response."""
        entry = hit.entry
        visit.outcome = hit_outcome(question, hit)
        head = hit_head(self._rules, entry, hit.age, visit.outcome.cache)
        if entry.pieces:
            await self._replay(visit, head, entry, self._rules.pace_for(visit.endpoint, question.request.fields))
        else:
            await visit.client.send(head, entry.body)
        return visit.outcome

    async def _replay(self, visit: Visit, head: ResponseHead, entry: StoredResponse, pace: Pace) -> None:
        """Send a stored stream at this pace."""
        begun, client = self._clock.monotonic(), visit.client
        awaiting_token = usage.streams_text(visit.endpoint, head)
        await client.begin(head, None)
        sent = 0
        for number, (at, chunk) in enumerate(_pieces(visit, entry, pace), 1):
            if not number % _IN_A_ROW:
                await asyncio.sleep(0)
            if pace is Pace.RECORDED:
                await self._clock.sleep(begun + at / 1000 - self._clock.monotonic())
            elif pace is Pace.LINE and sent:
                await self._clock.sleep(LINE_PAUSE)
            sent += len(chunk)
            awaiting_token = awaiting_token and self._note_first_token(visit, chunk)
            await (client.write(chunk) if sent < len(entry.body) else client.finish(chunk))

    async def fetched(
        self, visit: Visit, question: Question, response: Fetched, seat: Seat, cache: CacheStatus
    ) -> Outcome:
        """Send the response of a flight, to the client that began it and to those that joined.

        For those it is a hit, but for a failure, which is a miss and saves nothing.
        """
        head = streamed(self._rules, fields.forwarded_head(response.head, cache))
        items_known = question.texts if cache.result is Result.HIT else cache.known
        visit.outcome = Outcome(cache=cache, status=head.status, items=question.texts, items_known=items_known)
        match response:
            case Whole(length=length) if length is None or (length > _JOIN_UP_TO and len(response.chunks) > 1):
                await visit.client.begin(head, length)
                for chunk in response.chunks:
                    await visit.client.write(chunk)
                await visit.client.finish()
            case Whole():
                await visit.client.send(head, b"".join(response.chunks))
            case Flowing():
                pace = self._rules.pace_for(visit.endpoint, question.request.fields)
                return await self._flow(visit, head, response, seat, pace)
            case never:
                assert_never(never)
        if cache.collapsed and cache.result is Result.MISS:
            return visit.outcome
        known = question.listing.saved if question.listing is not None else NOTHING
        if cache.collapsed:
            total = _sum(saved(response.seconds, response.prompt_tokens, response.output_tokens), known)
            return replace(visit.outcome, saved=total)
        return Outcome(
            cache=cache,
            status=head.status,
            items=question.texts,
            items_known=items_known,
            upstream_seconds=response.seconds,
            prompt_tokens=response.prompt_tokens,
            output_tokens=response.output_tokens,
            saved=known if response.known else NOTHING,
        )

    async def _flow(self, visit: Visit, head: ResponseHead, response: Flowing, seat: Seat, pace: Pace) -> Outcome:
        """Send a response that is still arriving. One that breaks off is a miss, also for those that joined.

        Who joins late gets what has arrived at once, unless the pace is that of lines.
        """
        awaiting_token = usage.streams_text(visit.endpoint, head)
        await visit.client.begin(head, response.length)
        try:
            async for chunk in response.tail.read(seat):
                awaiting_token = awaiting_token and self._note_first_token(visit, chunk)
                if pace is Pace.LINE:
                    await self._write_lines(visit, chunk)
                else:
                    await visit.client.write(chunk)
        except ProxyError as error:
            return await self.failure(visit, error, replace(visit.outcome.cache, result=Result.MISS))
        await visit.client.finish()
        return visit.outcome

    async def _write_lines(self, visit: Visit, chunk: bytes) -> None:
        for line in lines(chunk, visit.endpoint.dialect.STREAM_TYPE):
            await visit.client.write(line)
            await self._clock.sleep(LINE_PAUSE)

    async def relayed(self, visit: Visit, response: UpstreamResponse, excerpt: Excerpt, prefix: str) -> bool:
        """Relay a response as it arrives; return whether its end is sent, which it is if all of it had arrived.

        `prefix` is that of the request's target.
        """
        cache = visit.outcome.cache
        head = streamed(self._rules, fields.forwarded_head(response.head, cache))
        if prefix:
            head = fields.under_prefix(head, prefix)
        visit.outcome = Outcome(cache=cache, status=head.status)
        whole = response.whole_body()
        if whole is not None:
            excerpt.add(whole)
            await visit.client.send(head, whole)
            return True
        awaiting_token, client = usage.streams_text(visit.endpoint, head), visit.client
        await client.begin(head, response.length)

        def hand_on(chunk: bytes, framed: bytes | None) -> bool:
            nonlocal awaiting_token
            more = client.put(chunk, framed)
            excerpt.add(chunk)
            if awaiting_token:
                awaiting_token = self._note_first_token(visit, chunk)
            return more

        while not await response.relay(hand_on):
            await client.flush()
        return False

    def _note_first_token(self, visit: Visit, chunk: bytes) -> bool:
        """Note the time if the chunk holds the first output of the model; return whether that is still to come."""
        if usage.has_output(chunk):
            visit.first_token_at = self._clock.monotonic()
            return False
        return True

    async def failure(self, visit: Visit, error: ProxyError, cache: CacheStatus) -> Outcome:
        """Send the error, or reset the connection where a head has already been sent."""
        if error.detail is not None and visit.client.first_byte_at is None:
            refused = CacheStatus(result=Result.BYPASS, detail=error.detail)
            return await self.refuse(visit, error.status, error.message, refused)
        visit.outcome = failed = replace(visit.outcome, cache=cache, status=error.status, error=error.source, hit=None)
        if visit.client.first_byte_at is None:
            await self._send_error(visit, error.status, error.message)
        else:
            visit.client.abort()
        return failed

    async def refuse(self, visit: Visit, status: int, message: str | None, cache: CacheStatus) -> Outcome:
        """Send an error of the proxy's own; without a message, it has no body."""
        visit.outcome = refused = Outcome(cache=cache, status=status)
        await self._send_error(visit, status, message)
        return refused

    async def refuse_host(self, visit: Visit, request: Request) -> Outcome:
        """Send the 403 of Ollama for a Host that is not allowed, with the fields that Ollama gives with it."""
        visit.outcome = refused = Outcome(cache=bypass(Detail.HOST), status=HTTPStatus.FORBIDDEN)
        allowed = endpoints.allow(request.method, request.target)
        lines = (((b"Allow", allowed.encode()),) if allowed else ()) + fields.beside_foreign_host(request.fields)
        await visit.client.send(*reply(refused.status, b"", refused.cache, self._clock.now(), lines))
        return refused

    async def _send_error(self, visit: Visit, status: int, message: str | None) -> None:
        body = b"" if message is None else visit.endpoint.dialect.error(status, message)
        later = ((b"Retry-After", b"1"),) if status == HTTPStatus.SERVICE_UNAVAILABLE else ()
        await visit.client.send(*reply(status, body, visit.outcome.cache, self._clock.now(), later))


def hit_outcome(question: Question, hit: Hit) -> Outcome:
    """Return what comes of a hit."""
    entry = hit.entry
    return Outcome(
        cache=CacheStatus(result=Result.HIT, ttl=hit.ttl, detail=_hit_detail(question, hit)),
        status=entry.status,
        items=question.texts,
        items_known=question.texts,
        saved=saved(entry.took, entry.prompt_tokens, entry.output_tokens),
        hit=hit,
    )


def hit_head(rules: Rules, entry: StoredResponse, age: int, cache: CacheStatus) -> ResponseHead:
    """Return the head of a hit that is so many seconds old."""
    lines = fields.hit_fields(entry.fields, None if entry.pieces else len(entry.body), age, cache)
    return streamed(rules, ResponseHead(status=entry.status, reason=entry.reason, fields=lines))


def streamed(rules: Rules, head: ResponseHead) -> ResponseHead:
    """Return a head that tells nginx not to hold the response back, if it is a stream and the setting is on."""
    return fields.unbuffered(head) if rules.unbuffered_streams else head


def tells_first_token(endpoint: Endpoint, head: ResponseHead, entry: StoredResponse) -> bool:
    """Return whether a stored stream has a first output of the model, whose time is reported."""
    return usage.streams_text(endpoint, head) and any(usage.has_output(chunk) for _, chunk in recorded_chunks(entry))


def recorded_chunks(entry: StoredResponse) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks of a stored stream, and when each was recorded: milliseconds after the request."""
    begin = 0
    for at, size in unpacked(entry.pieces):
        yield at, entry.body[begin : begin + size]
        begin += size


def _hit_detail(question: Question, hit: Hit) -> Detail | None:
    """Return the detail of a hit, or None. Where it came from counts more than anything else that could be said."""
    if hit.entry.imported:
        return Detail.IMPORTED
    return Detail.ESTIMATED_USAGE if hit.estimated else standing_detail(question)


def standing_detail(question: Question) -> Detail | None:
    """Return the detail that holds for a question whatever its result, or None."""
    if question.policy is Policy.WRITE_ONLY:
        return Detail.WRITE_ONLY
    if question.directives.ttl_ignored:
        return Detail.TTL_IGNORED
    return Detail.DIRECTIVES_IGNORED if question.directives.no_cache_ignored else None


def _pieces(visit: Visit, entry: StoredResponse, pace: Pace) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of a stored stream, and when each was recorded: milliseconds after the request."""
    if pace is Pace.LINE:
        for line in lines(entry.body, visit.endpoint.dialect.STREAM_TYPE):
            yield 0, line
        return
    yield from recorded_chunks(entry)


def saved(seconds: float, prompt_tokens: int | None, output_tokens: int | None) -> Saved:
    """Return what serving a response saves Ollama; an unknown count is 0."""
    return Saved(seconds=seconds, prompt_tokens=prompt_tokens or 0, output_tokens=output_tokens or 0)


def _sum(one: Saved, other: Saved) -> Saved:
    return Saved(
        seconds=one.seconds + other.seconds,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
    )
