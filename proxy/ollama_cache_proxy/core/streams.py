"""Streams, relayed from the first byte on and recorded meanwhile; stored only if they are complete at their end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from ollama_cache_proxy.core.fetch import Fetched, Fetcher, Flowing
from ollama_cache_proxy.core.flights import Flight
from ollama_cache_proxy.core.lanes import waited
from ollama_cache_proxy.core.questions import Question
from ollama_cache_proxy.policy import storing
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.messages import ResponseHead, packed
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import joined
from ollama_cache_proxy.policy.usage import Excerpt

_TO_THE_END: Final = 5.0
"""Seconds to wait for a stream's end after its last chunk, when the clients have all left."""


_LEAST: Final = 64
"""Bytes that a chunk counts for at least where there are more than `_FEW`: Ollama writes no smaller ones."""
_FEW: Final = 1024


@dataclass(slots=True)
class _Recording:
    """The chunks of a stream so far."""

    limit: int
    """How many bytes may be recorded."""
    hold: Hold
    """The bytes in memory that the recording counts against."""
    held: int = 0
    """Bytes of the chunks that were recorded."""
    excess: Detail | None = None
    """Which limit ended the recording."""
    chunks: list[bytes] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    """When each chunk arrived: milliseconds since the request."""
    size: int = 0
    """Bytes of the stream so far, recorded or not."""

    def add(self, chunk: bytes, at: int) -> None:
        """Record a chunk; one that goes over a limit ends the recording."""
        self.size += len(chunk)
        if self.excess is not None:
            return
        if self.size > self.limit or len(self.chunks) >= max(self.limit // _LEAST, _FEW):
            self.excess = Detail.ANSWER_TOO_LARGE
        elif not self.hold.grow(2 * len(chunk)):  # the chunks, and the body that is joined from them
            self.excess = Detail.BUFFERS_FULL
        else:
            self.held += len(chunk)
            self.chunks.append(chunk)
            self.at.append(at)
            return
        self.chunks.clear()
        self.at.clear()


class StreamFetcher(Fetcher):
    """The work of flights for streams."""

    async def fetch_stream(self, question: Question, flight: Flight[Fetched]) -> None:
        """Ask, publish, relay, store. Raises ProxyError where there is no head; the flight hands it to all who wait."""
        begun = self._clock.monotonic()
        recording = _Recording(self._rules.max_response_bytes(question.candidate.endpoint), flight.hold)
        excerpt = Excerpt()
        asking = self._upstream.ask(question.request, question.body, repeatable=True, spent=question.spent)
        async with asking as response:
            begun += waited(question.request)
            head = response.head
            tail = flight.stream(recording.limit)
            fresh = self.freshness(question, head, self._clock.monotonic() - begun)
            detail = storing.by_head(question.candidate, head) or self.reason_not_to_store(question, fresh)
            flight.publish(Flowing(head=head, length=response.length, tail=tail, detail=detail or Detail.RECORDING))

            async def recorded() -> AsyncIterator[bytes]:
                async for chunk in response.chunks():
                    excerpt.add(chunk)
                    recording.add(chunk, round((self._clock.monotonic() - begun) * 1000))
                    if recording.excess is not None and flight.joinable:
                        flight.close(tail, recording.held)
                    elif question.candidate.endpoint.dialect.ends(chunk):
                        flight.linger(_TO_THE_END)
                    if flight.on_chunk is not None and chunk:
                        flight.on_chunk(chunk)
                    yield chunk

            complete = await tail.feed(recorded())
            if complete and flight.on_chunk is not None:
                flight.on_chunk(b"")
            self._report_work(question, head, excerpt, self._clock.monotonic() - begun)
            if not complete:
                flight.close(tail)
        if detail is None:
            took = self._clock.monotonic() - begun
            flight.stored = await self._store_stream(question, head, recording, took, complete=complete)

    async def _store_stream(
        self, question: Question, head: ResponseHead, recording: _Recording, took: float, *, complete: bool
    ) -> bool:
        """Store a complete recording, else report why it is not stored; return whether it is."""
        if recording.excess is not None:
            self.report_not_stored(question, recording.excess)
            return False
        if not complete:
            self.report_not_stored(question, Detail.INCOMPLETE)
            return False
        body = await self.computed(joined(recording.chunks), recording.held)
        fresh = self.freshness(question, head, took)
        verdict = await self.judge(question, head, body, fresh)
        if isinstance(verdict, Detail):
            self.report_not_stored(question, verdict)
            return False
        entry = self.entry(
            question,
            head,
            body,
            fresh=fresh,
            took=took,
            tokens=(verdict.prompt_tokens, verdict.output_tokens),
            pieces=packed(zip(recording.at, map(len, recording.chunks), strict=True)),
        )
        return await self.store(question, ((question.key, entry),))
