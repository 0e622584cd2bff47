"""Lists of texts, embedded item by item: only the texts that are not known are asked of Ollama, in one request.

The response is joined from items in the client's order. No list is asked for twice, unless the model changed meanwhile,
the response to a part outgrew a limit, or it came in a form that cannot be joined with what was known: after that, the
lists of this source are asked as a whole. Numbers in Ollama's own form are checked after the client has the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.fetch import Fetched, Fetcher, Whole
from ollama_cache_proxy.core.flights import Flight
from ollama_cache_proxy.core.questions import Listing, Neighbours, Question
from ollama_cache_proxy.core.store_ports import Entries
from ollama_cache_proxy.policy import fields, scope_marks, storing
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable
from ollama_cache_proxy.policy.embeddings import (
    may_be_clipped,
    missing,
    other_keys_in_steps,
    upstream_body,
    upstream_body_in_steps,
)
from ollama_cache_proxy.policy.listing import list_reading
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import encode, sound_in_steps
from ollama_cache_proxy.policy.listing.joining import Part, joinable, joined_in_steps, joined_size, same_length
from ollama_cache_proxy.policy.listing.list_plan import Plan, in_parts, plan
from ollama_cache_proxy.policy.listing.list_reading import Reading
from ollama_cache_proxy.policy.listing.own_form import as_numbers
from ollama_cache_proxy.policy.listing.token_shares import AddedTokens
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.policy.outline import quick
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps, joined
from ollama_cache_proxy.policy.storing import OK

_TURNS_TO_SEND: Final = 3
"""Turns of the event loop that pass until a probe is sent."""


class ListFetcher(Fetcher):
    """The work of flights for lists."""

    def __init__(self, neighbours: Neighbours) -> None:
        super().__init__(neighbours)
        self._forms = neighbours.forms
        self._added = AddedTokens()
        self._lanes = neighbours.lanes

    async def fetch_list(self, question: Question, listing: Listing, flight: Flight[Fetched]) -> None:
        """Ask for what is missing, join, publish, store. Raises ProxyError, which the flight hands to all who wait."""
        texts = missing(listing.text_list, listing.known, estimates=self._rules.estimated_counts)
        forms = self._forms.of(question.source)
        self._forms.count_list(question.source)
        planned = plan(listing.text_list, listing.known, texts, forms, self._rules.max_list_bytes)
        if question.request.ticket is not None:
            question.request.ticket.texts = len(listing.text_list.texts if planned is None else planned.texts)
        parted = in_parts(listing.text_list, listing.known, planned, texts, forms)
        if await self._fetched_in_parts(question, listing, flight, parted):
            return
        if planned is not None:
            await self._fetch_part(question, listing, flight, planned)
        elif texts:
            await self._fetch_all(question, listing, flight)
        else:  # all are known, but the response would be over the limit
            await self._fetch_unstored(question, flight, Detail.ANSWER_TOO_LARGE)

    async def _fetch_all(self, question: Question, listing: Listing, flight: Flight[Fetched]) -> None:
        """Ask what the client asked, and publish the response as it came."""
        whole = await self.ask(question, flight)
        if whole is None:
            return
        texts, as_base64 = listing.text_list.texts, listing.text_list.base64
        reading: Reading | None = storing.by_head(question.candidate, whole.head)
        if reading is None:
            reading = await self._read(question, listing, whole, texts, as_base64=as_base64)
        detail = self.reason_not_to_store(question, whole.fresh)
        if isinstance(reading, Detail) or detail is not None:
            detail = reading if isinstance(reading, Detail) else detail
            await self.publish_and_store(question, flight, replace(whole, detail=detail))
            return
        tokens = reading.prompt_tokens if isinstance(reading, Storable) else reading.tokens
        whole = replace(whole, ttl=whole.fresh.ttl, prompt_tokens=tokens)

        if isinstance(reading, Cut):
            part = Part(texts=texts, cut=reading)
            await self.publish_and_store(question, flight, whole, lambda: self._entries(question, listing, whole, part))
            return

        async def entries() -> Entries:
            body = b"".join(whole.chunks)
            took, counts = whole.seconds, (tokens, None)
            entry = self.entry(question, whole.head, body, fresh=whole.fresh, took=took, tokens=counts)
            return ((question.key, entry),)

        await self.publish_and_store(question, flight, whole, entries)

    async def _fetch_part(self, question: Question, listing: Listing, flight: Flight[Fetched], planned: Plan) -> None:
        """Ask for some texts, and join their vectors with the items that are known."""
        texts, numbers = planned.texts, planned.numbers
        request = replace(question.request, fields=fields.without_body_fields(question.request.fields))
        if quick(question.body) is not None:
            body = upstream_body(listing.text_list, question.body, texts, numbers=numbers)
        else:
            steps = upstream_body_in_steps(listing.text_list, question.body, texts, numbers=numbers)
            body = await self._turns.run(steps)
        response = await self.ask_bounded(question, request, body, flight)
        if isinstance(response, Detail):
            await self._fetch_unstored(question, flight, response)
            return
        if not _may_have_vectors(response):  # one bad text fails a list with the words of the single failure
            flight.publish(replace(response, detail=Detail.STATUS))
            return
        probe = self._start_probe(question) if listing.known else None
        await _turns(_TURNS_TO_SEND)  # its result arrives while the response is read
        coded = listing.text_list.base64
        reading: Reading = Detail.STATUS
        if response.head.status == OK:
            reading = await self._read(question, listing, response, texts, as_base64=coded and not numbers, check=coded)
        if reading is Detail.ANSWER_ERROR and not list_reading.has_vectors(listing.text_list, response.chunks):
            flight.publish(replace(response, detail=reading))
            return
        if not isinstance(reading, Cut) or not joinable(listing.known, reading, own=numbers):
            self._forms.note_not_joined(question.source)
            await self._fetch_all(question, listing, flight)
            return
        await self._join(
            question, listing, flight, response, texts, reading, probe, checked=coded or bool(reading.frame)
        )

    async def _join(  # noqa: PLR0913, PLR0917 - what is joined, and how far it was looked at
        self,
        question: Question,
        listing: Listing,
        flight: Flight[Fetched],
        response: Whole,
        texts: tuple[str, ...],
        cut: Cut,
        probe: asyncio.Task[bool] | None,
        *,
        checked: bool,
    ) -> None:
        """Join the vectors of these texts with the items that are known; publish, and store.

        `checked` tells that the numbers are known to be sound.
        """
        part = Part(texts=texts, cut=cut, added=self._added.of(question.scope.digest))
        detail = await self._unjoinable(question, listing, part, probe)
        if detail is not None:
            await self._fetch_unstored(question, flight, detail)
            return
        made = await self.computed(joined_in_steps(listing.text_list, listing.known, part), response.size)
        detail = storing.by_head(question.candidate, response.head) or self.reason_not_to_store(
            question, response.fresh
        )
        whole = Whole(
            head=replace(response.head, fields=fields.joined(response.head.fields, len(made.body), listing.age)),
            length=len(made.body),
            chunks=(made.body,),
            seconds=response.seconds,
            fresh=response.fresh,
            ttl=None if detail else response.fresh.ttl,
            detail=detail,
            prompt_tokens=cut.tokens,
            estimated=made.estimated,
            known=listing.known_texts,
        )
        flight.publish(whole)
        await asyncio.sleep(0)
        if detail is not None:
            return
        if checked or await self.computed(sound_in_steps(cut.vectors, cut.numbers), response.size):
            entries = await self._entries(question, listing, response, part)  # the client did not wait for this
            flight.stored = await self.store_unless_changed(question, response.fresh, entries)
        else:
            self.report_not_stored(question, self._reason_unsound(question, response, texts))

    async def _fetched_in_parts(
        self, question: Question, listing: Listing, flight: Flight[Fetched], texts: tuple[str, ...]
    ) -> bool:
        """Ask for these texts part by part, so that others can be served between, and publish the joined response.

        Return False, and publish nothing, where the list is to be asked for as a whole: it is short enough, a part has
        failed, or its vectors cannot be joined with the others.
        """
        ticket, lanes = question.request.ticket, self._lanes
        if ticket is None or lanes is None:
            return False
        if not texts or lanes.texts_in_part(ticket, len(texts)) == len(texts):
            return False
        parts: list[tuple[Whole, Cut]] = []
        asked = 0
        while asked < len(texts):
            some = texts[asked : asked + lanes.texts_in_part(ticket, len(texts) - asked)]
            asked += len(some)
            ticket.texts = len(some)
            found = await self._ask_for_part(question, listing, flight, some)
            if found is None or found[1].numbers != (parts or [found])[0][1].numbers:
                ticket.texts = len(texts)
                return False
            parts.append(found)
        response, cut = _together(parts)
        probe = self._start_probe(question)
        await self._join(question, listing, flight, response, texts, cut, probe, checked=True)
        return True

    async def _ask_for_part(
        self, question: Question, listing: Listing, flight: Flight[Fetched], texts: tuple[str, ...]
    ) -> tuple[Whole, Cut] | None:
        """Return the response to a part of a list, and its vectors; None where it is not to be joined with others."""
        request = replace(question.request, fields=fields.without_body_fields(question.request.fields))
        steps = upstream_body_in_steps(listing.text_list, question.body, texts, numbers=True)
        body = await self.computed(steps, len(question.body))
        try:
            response = await self.ask_bounded(question, request, body, flight)
        except ProxyError as error:
            if error.detail is not None:
                raise
            return None
        if isinstance(response, Detail) or storing.by_head(question.candidate, response.head) is not None:
            return None
        reading = await self._read(question, listing, response, texts, as_base64=False)
        if not isinstance(reading, Cut) or not joinable(listing.known, reading, own=True):
            self._forms.note_not_joined(question.source)
            return None
        return (response, reading) if question.identity.stability.unchanged() else None

    async def _read(  # noqa: PLR0913 - what list_reading.read takes, and the question
        self,
        question: Question,
        listing: Listing,
        whole: Whole,
        texts: tuple[str, ...],
        *,
        as_base64: bool,
        check: bool = True,
    ) -> Reading:
        """Return what a response to a request for `texts` is good for, and learn from it which forms the source writes.

        `check` means to check the numbers of Ollama's own form now.
        """

        def read() -> Steps[Reading]:
            body = yield from joined(whole.chunks)
            about = listing.text_list, len(texts), whole.head, body
            return (yield from list_reading.read_in_steps(*about, as_base64=as_base64, check=check))

        reading = await self.computed(read(), whole.size)
        if not isinstance(reading, Cut) or reading.frame:
            if not isinstance(reading, Detail):
                self._forms.note(question.source, own=False)
            return reading
        self._forms.note(question.source, own=True)
        measured = round(whole.seconds * 1e9)  # /v1 tells no durations, and /api/embed needs one
        total, load = reading.total_duration or measured, reading.load_duration or 1
        return replace(reading, total_duration=total, load_duration=load)

    def _start_probe(self, question: Question) -> asyncio.Task[bool]:
        """Start to probe whether the model is still the same; return the task.

        Ollama makes all vectors of one response with one model; between the known ones and the new ones the model may
        have changed unnoticed.
        """
        return self._tasks.spawn(self._models.is_current(question.identity), "probe whether a model is the same")

    async def _unjoinable(
        self, question: Question, listing: Listing, part: Part, probe: asyncio.Task[bool] | None
    ) -> Detail | None:
        """Return why the part must not be joined with what is known, or None."""
        known = {text: item.vector for text, item in listing.known.items()}
        vectors = known | dict(zip(part.texts, part.cut.vectors, strict=True))
        if joined_size(listing.text_list, vectors) > 2 * self._rules.max_list_bytes:  # planned to be within the limit
            return Detail.ANSWER_TOO_LARGE
        same = same_length(listing.known, part.cut) and question.identity.stability.unchanged()
        same = same and (probe is None or await probe)
        return None if same else Detail.MODEL_CHANGED

    async def _fetch_unstored(self, question: Question, flight: Flight[Fetched], detail: Detail) -> None:
        """Ask what the client asked, and store nothing, for this reason: the part could not be joined."""
        whole = await self.ask(question, flight)
        if whole is not None:
            await self.publish_and_store(question, flight, replace(whole, detail=detail))

    def _reason_unsound(self, question: Question, whole: Whole, texts: tuple[str, ...]) -> Detail:
        """Return why no item may be stored of a response to a request for `texts` whose numbers are not sound."""
        verdict = storing.by_body(question.candidate, b"".join(whole.chunks), items=len(texts))
        return verdict.detail if isinstance(verdict, NotStorable) else Detail.ANSWER_COUNT

    async def _entries(self, question: Question, listing: Listing, whole: Whole, part: Part) -> Entries:
        """Return the entry of each item; odd texts have none."""
        size = whole.size + len(question.body)  # the texts are looked at, too
        return await self.computed(self._entries_in_steps(question, listing, whole, part), size)

    def _entries_in_steps(self, question: Question, listing: Listing, whole: Whole, part: Part) -> Steps[Entries]:
        digest = question.scope.digest
        items = yield from replace(part, cut=as_numbers(part.cut), added=self._added.of(digest)).items_in_steps()
        if part.cut.tokens is not None:
            yield from self._added.learn_in_steps(digest, part.texts, part.cut.tokens)
        keys: Mapping[str, str] = listing.keys
        if part.cut.frame:
            about = listing.text_list, question.scope, question.request.fields
            keys = listing.others if listing.others is not None else (yield from other_keys_in_steps(*about))
        took, fresh = whole.seconds / len(part.texts), whole.fresh
        if not part.cut.frame and may_be_clipped(question.candidate, part.cut.numbers, question.scope):
            items = {text: replace(item, clipped=True) for text, item in items.items()}
        mark = scope_marks.marked(question.scope, question.request.fields)
        entries: list[tuple[str, StoredResponse]] = []
        size = 0
        for text, key in keys.items():
            if (item := items.get(text)) is not None:
                body, tokens = encode(item), (item.tokens, None)
                entry = self.entry(question, whole.head, body, fresh=fresh, took=took, tokens=tokens, mark=mark)
                entries.append((key, entry))
                size += len(body) + _ENTRY
                if size >= _IN_ONE_STEP:
                    size = 0
                    yield
        return entries


_IN_ONE_STEP: Final = 1 << 20
"""Bytes of entries that are made in one step."""
_ENTRY: Final = 4096
"""Bytes that take as long to copy as it takes to make one entry."""


def _together(parts: Sequence[tuple[Whole, Cut]]) -> tuple[Whole, Cut]:
    """Return the responses to the parts of a list as one, and the vectors of all of them; a model is loaded once."""
    responses, cuts = [response for response, _ in parts], [cut for _, cut in parts]
    tokens = [cut.tokens for cut in cuts]
    cut = Cut(
        vectors=tuple(vector for cut in cuts for vector in cut.vectors),
        numbers=cuts[0].numbers,
        tokens=None if None in tokens else sum(count or 0 for count in tokens),
        total_duration=sum(cut.total_duration for cut in cuts),
        load_duration=max(cut.load_duration for cut in cuts),
    )
    chunks = tuple(chunk for response in responses for chunk in response.chunks)
    seconds = sum(response.seconds for response in responses)
    return replace(responses[-1], chunks=chunks, seconds=seconds, fresh=responses[0].fresh), cut


def _may_have_vectors(response: Whole) -> bool:
    """Return whether a response is a success of any kind; one but 200 is not stored, and so cannot be joined."""
    return HTTPStatus.OK <= response.head.status < HTTPStatus.MULTIPLE_CHOICES


async def _turns(count: int) -> None:
    """Let the event loop take so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)
