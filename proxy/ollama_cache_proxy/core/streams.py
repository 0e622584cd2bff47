"""Streams, recorded while they pass: relayed from the first byte on, kept only where they ended as they should."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from ollama_cache_proxy.core.fetch import Fetched, Fetcher, Flowing
from ollama_cache_proxy.core.flights import Flight
from ollama_cache_proxy.core.questions import Question
from ollama_cache_proxy.policy import storing
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.messages import ResponseHead, packed
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.usage import Excerpt

_TO_THE_END: Final = 5.0
"""Seconds between a stream's last chunk and its end, which nobody may be left to wait for."""


@dataclass(slots=True)
class _Recording:
    """The chunks so far, up to `limit` bytes in all, and the milliseconds after the request that each one came at.

    `excess` says over which limit they have gone, `hold` whether there is room for them.
    """

    limit: int
    hold: Hold
    held: int = 0
    excess: Detail | None = None
    chunks: list[bytes] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, chunk: bytes, at: int) -> None:
        """Take a chunk in; one that goes over a limit ends the recording."""
        self.size += len(chunk)
        if self.excess is not None:
            return
        if self.size > self.limit:
            self.excess = Detail.ANSWER_TOO_LARGE
        elif not self.hold.grow(2 * len(chunk)):  # the chunks, and the whole that is made of them
            self.excess = Detail.BUFFERS_FULL
        else:
            self.held += len(chunk)
            self.chunks.append(chunk)
            self.at.append(at)
            return
        self.chunks.clear()
        self.at.clear()


class StreamFetcher(Fetcher):
    """Does the work of flights for streams."""

    async def fetch_stream(self, question: Question, flight: Flight[Fetched]) -> None:
        """Ask, publish, relay, keep. Raises ProxyError where there is no head, which the flight hands on."""
        begun = self._clock.monotonic()
        recording = _Recording(self._rules.max_response_bytes(question.candidate.endpoint), flight.hold)
        excerpt = Excerpt()
        asking = self._upstream.ask(question.request, question.body, repeatable=True, spent=question.spent)
        async with asking as answer:
            head = answer.head
            tail = flight.stream(recording.limit)
            detail = storing.by_head(question.candidate, head) or self.reason_not_to_store(question)
            flight.publish(Flowing(head=head, length=answer.length, tail=tail, detail=detail or Detail.RECORDING))

            async def recorded() -> AsyncIterator[bytes]:
                async for chunk in answer.chunks():
                    excerpt.add(chunk)
                    recording.add(chunk, round((self._clock.monotonic() - begun) * 1000))
                    if recording.excess is not None and flight.joinable:
                        flight.close(tail, recording.held)
                    elif question.candidate.endpoint.dialect.ends(chunk):
                        flight.linger(_TO_THE_END)
                    yield chunk

            complete = await tail.feed(recorded())
            self._report_work(question, head, excerpt)
            if not complete:
                flight.close(tail)
        if detail is None:
            await self._store_stream(question, head, recording, self._clock.monotonic() - begun, complete=complete)

    async def _store_stream(
        self, question: Question, head: ResponseHead, recording: _Recording, took: float, *, complete: bool
    ) -> None:
        """Keep a recording that has everything; else say why not."""
        if recording.excess is not None:
            self.report_not_stored(question, recording.excess)
            return
        if not complete:
            self.report_not_stored(question, Detail.INCOMPLETE)
            return
        body = b"".join(recording.chunks)
        verdict = self.judge(question, head, body)
        if isinstance(verdict, Detail):
            self.report_not_stored(question, verdict)
            return
        entry = self.entry(
            question,
            head,
            body,
            took=took,
            tokens=(verdict.prompt_tokens, verdict.output_tokens),
            pieces=packed(zip(recording.at, map(len, recording.chunks), strict=True)),
        )
        await self.store(question, ((question.key, entry),))
