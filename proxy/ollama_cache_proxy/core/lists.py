"""Lists of texts, embedded item by item: only the texts that are not known are asked of Ollama, in one request.

The response is joined from items in the client's order. What cannot be joined with certainty is asked anew as a whole,
and not stored. Whether each vector consists of numbers is checked after the client has the response, and decides only
about storing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ollama_cache_proxy.core.fetch import Fetched, Fetcher, Whole
from ollama_cache_proxy.core.flights import Flight
from ollama_cache_proxy.core.questions import Listing, Question
from ollama_cache_proxy.core.store_ports import Entries
from ollama_cache_proxy.policy import fields, storing
from ollama_cache_proxy.policy.dialects.dialect import NotStorable
from ollama_cache_proxy.policy.embeddings import (
    Item,
    encode,
    is_wider_than_told,
    join,
    joined_size,
    missing,
    same_length,
    sound,
    split,
    upstream_body,
)
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.storing import OK

_TURNS_TO_SEND: Final = 3
"""Turns of the event loop that pass until a probe is sent."""


class ListFetcher(Fetcher):
    """The work of flights for lists."""

    async def fetch_list(self, question: Question, listing: Listing, flight: Flight[Fetched]) -> None:
        """Ask for what is missing, join, publish, store. Raises ProxyError, which the flight hands to all who wait."""
        texts = missing(listing.text_list, listing.known)
        if not texts:  # all are known, but the response would be over the limit
            await self._fetch_unstored(question, flight, Detail.ANSWER_TOO_LARGE)
        elif texts == listing.text_list.texts and not listing.text_list.base64:
            await self._fetch_all(question, listing, flight)
        else:
            await self._fetch_part(question, listing, flight, texts)

    async def _fetch_all(self, question: Question, listing: Listing, flight: Flight[Fetched]) -> None:
        """Ask what the client asked, and publish the response as it came."""
        whole = await self.ask(question, flight)
        if whole is None:
            return
        texts = listing.text_list.texts
        items = self._cut(question, listing, whole, texts, check_numbers=True)
        detail = items if isinstance(items, Detail) else self.reason_not_to_store(question, whole.fresh)
        if isinstance(items, Detail) or detail is not None:
            await self.publish_and_store(question, flight, replace(whole, detail=detail))
            return
        tokens = sum(item.tokens for item in items)
        whole = replace(whole, ttl=whole.fresh.ttl, prompt_tokens=tokens)
        found = dict(zip(texts, items, strict=True))
        await self.publish_and_store(question, flight, whole, lambda: self._entries(question, listing, whole, found))

    async def _fetch_part(
        self, question: Question, listing: Listing, flight: Flight[Fetched], texts: tuple[str, ...]
    ) -> None:
        """Ask for some texts, and join their items with those that are known."""
        request = replace(question.request, fields=fields.without_body_fields(question.request.fields))
        part = await self.ask_bounded(question, request, upstream_body(listing.text_list, texts), flight)
        if isinstance(part, Detail):
            await self._fetch_unstored(question, flight, part)
            return
        if part.head.status != OK:  # one bad text fails the list, and the error must be about what the client sent
            await self._fetch_unstored(question, flight, Detail.STATUS)
            return
        probe = self._start_probe(question) if listing.known else None
        await _turns(_TURNS_TO_SEND)  # its result arrives while the response is split
        items = self._cut(question, listing, part, texts, check_numbers=listing.text_list.base64)
        if isinstance(items, Detail):
            await self._fetch_unstored(question, flight, items)
            return
        asked = dict(zip(texts, items, strict=True))
        together = {**listing.known, **asked}
        detail = await self._unjoinable(question, listing, together, probe)
        if detail is not None:
            await self._fetch_unstored(question, flight, detail)
            return
        durations = (items[0].total_duration, items[0].load_duration)
        joined = join(listing.text_list, together, durations=durations)
        head = replace(part.head, fields=fields.joined(part.head.fields, len(joined.body), listing.age))
        detail = self.reason_not_to_store(question, part.fresh)
        whole = Whole(
            head=head,
            length=len(joined.body),
            chunks=(joined.body,),
            seconds=part.seconds,
            fresh=part.fresh,
            ttl=None if detail else part.fresh.ttl,
            detail=detail,
            prompt_tokens=sum(item.tokens for item in items),
            estimated=joined.estimated,
            known=listing.known_texts,
        )
        flight.publish(whole)
        await asyncio.sleep(0)
        if detail is not None:
            return
        if sound(items):  # the client has the response by now, and did not wait for this
            await self.store(question, self._entries(question, listing, part, asked))
        else:
            self.report_not_stored(question, self._reason_unusable(question, part, texts))

    def _start_probe(self, question: Question) -> asyncio.Task[bool]:
        """Start to probe whether the model is still the same; return the task.

        Ollama makes all vectors of one response with one model; between the known ones and the new ones the model may
        have changed unnoticed.
        """
        return self._tasks.spawn(self._models.is_current(question.identity), "probe whether a model is the same")

    async def _unjoinable(
        self, question: Question, listing: Listing, items: Mapping[str, Item], probe: asyncio.Task[bool] | None
    ) -> Detail | None:
        """Return why these items must not be joined, or None."""
        if joined_size(listing.text_list, items) > self._rules.max_list_bytes:
            return Detail.ANSWER_TOO_LARGE
        if not same_length(items.values()):
            return Detail.MODEL_CHANGED
        same = question.identity.stability.unchanged() and (probe is None or await probe)
        return None if same else Detail.MODEL_CHANGED

    async def _fetch_unstored(self, question: Question, flight: Flight[Fetched], detail: Detail) -> None:
        """Ask what the client asked, and store nothing, for this reason: the part could not be joined."""
        whole = await self.ask(question, flight)
        if whole is not None:
            await self.publish_and_store(question, flight, replace(whole, detail=detail))

    def _cut(
        self, question: Question, listing: Listing, whole: Whole, texts: tuple[str, ...], *, check_numbers: bool
    ) -> tuple[Item, ...] | Detail:
        """Return the items of a response to a request for `texts`, or why it has none to rely on.

        `check_numbers` means to check now that they are `sound`.
        """
        barred = storing.by_head(question.candidate, whole.head)
        items = None if barred else split(listing.text_list, texts, b"".join(whole.chunks))
        if items is None or is_wider_than_told(question.candidate, items, question.scope):
            return self._reason_unusable(question, whole, texts)
        if check_numbers and not sound(items):
            return self._reason_unusable(question, whole, texts)
        if all(item.total_duration and item.load_duration for item in items):
            return items
        measured = round(whole.seconds * 1e9)  # /v1 tells no durations, and /api/embed needs one
        return tuple(
            replace(item, total_duration=item.total_duration or measured, load_duration=item.load_duration or 1)
            for item in items
        )

    def _reason_unusable(self, question: Question, whole: Whole, texts: tuple[str, ...]) -> Detail:
        """Return why a response to a request for `texts` has no items, or none that may be stored."""
        candidate = replace(question.candidate, items=len(texts))
        verdict = storing.storable(candidate, whole.head, b"".join(whole.chunks))
        return verdict.detail if isinstance(verdict, NotStorable) else Detail.ANSWER_COUNT

    def _entries(self, question: Question, listing: Listing, whole: Whole, items: Mapping[str, Item]) -> Entries:
        """Return the entry of each item."""
        took = whole.seconds / len(items)
        return [
            (
                listing.keys[text],
                self.entry(
                    question, whole.head, encode(item), fresh=whole.fresh, took=took, tokens=(item.tokens, None)
                ),
            )
            for text, item in items.items()
        ]


async def _turns(count: int) -> None:
    """Let the event loop take so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)
