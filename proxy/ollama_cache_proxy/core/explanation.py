"""Why a request is or is not answered from the cache, found without asking Ollama for a response.

An explanation takes the same steps as an exchange (intake.py), and for a miss searches for the nearest entry.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Final

from ollama_cache_proxy.core.fingerprint_key import Fingerprinting
from ollama_cache_proxy.core.intake import Intake
from ollama_cache_proxy.core.questions import Listing, Neighbours, Question
from ollama_cache_proxy.policy import embeddings, model_names
from ollama_cache_proxy.policy.buffers import Buffers
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.context_lengths import Contexts, part
from ollama_cache_proxy.policy.fingerprints import differing
from ollama_cache_proxy.policy.lifetimes import kind_of
from ollama_cache_proxy.policy.messages import Description, Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import Forward, Hit
from ollama_cache_proxy.policy.status import Detail

_SEARCH_SECONDS: Final = 2.0
"""How long a search may take."""
_PAGE_ENTRIES: Final = 500
"""How many entries are read at a time."""


@record
class _Nearest:
    """The result of a search; `complete` if it went through every entry before its time was over."""

    entry: Description | None
    differs: tuple[str, ...]
    searched: int
    complete: bool


class Explainer:
    """Explains requests. Searching needs fingerprints."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._store = neighbours.store
        self._clock = neighbours.clock
        self._fingerprinting: Fingerprinting = neighbours.fingerprinting
        self._intake = Intake(neighbours)

    async def explain(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return the content of the response to `POST /api/cache/explain`."""
        arrival = self._intake.arrival(request)
        about: dict[str, Any] = {
            "operation": arrival.endpoint.operation,
            "policy": arrival.policy.value if arrival.policy else None,
        }
        fits = len(body) <= self._rules.max_request_bytes
        unbounded = Buffers(sys.maxsize).hold()
        classified = self._intake.classified(arrival, body if fits else None, unbounded)
        if not isinstance(classified, Bypass | Candidate):
            classified = await classified
        if isinstance(classified, Bypass):
            return about | {"candidate": False, "detail": classified.detail.value}
        asking = replace(arrival, directives=replace(arrival.directives, only_if_cached=False))
        found = await self._intake.looked_up(asking, classified, body, _ignore)
        if isinstance(found, Bypass):
            return about | {"candidate": False, "detail": found.detail.value}
        question = found.question
        about |= {"candidate": True, "model": model_names.short(question.identity.model), "key": question.key}
        about["policy"] = question.policy.value if question.policy else None
        about["lifetime"] = kind_of(question.lifetime.seconds, question.lifetime.idle).value
        if question.identity.contexts.now is not None:
            about["context"] = _told(question.identity.contexts)
        if question.listing is not None:
            whole = isinstance(found.reuse, Hit)  # of all texts, also where the response was stored as a whole
            known = question.texts if whole else question.listing.known_texts
            about["items"] = {"known": known, "of": question.texts}
        if question.generation is None:
            about["detail"] = Detail.STORE_UNAVAILABLE.value
        match found.reuse:
            case Hit() as hit:
                about["lifetime"] = kind_of(hit.entry.lifetime, hit.entry.idle).value
                return about | {"result": "hit", "age": hit.age, "ttl": hit.ttl}
            case Forward(reason=reason):
                about |= {"result": "miss", "fwd": reason.value}
        return about | await self._nearest(question)

    async def _nearest(self, question: Question) -> dict[str, Any]:
        """Return which entry is nearest, where fingerprints are stored."""
        if not self._fingerprinting.on:
            return {"nearest": None, "note": "set OCP_EXPLAIN=true to have the fields of entries compared"}
        found = await self._search(question)
        about: dict[str, Any] = {"nearest": None, "searched": found.searched, "complete": found.complete}
        if found.entry is not None:
            about["nearest"] = {
                "key": found.entry.key,
                "model": model_names.short(found.entry.model),
                "operation": found.entry.operation,
                "age": max(0, int(self._clock.now() - found.entry.stored_at)),
                "differs": list(found.differs),
            }
        return about

    def _first_missing(self, listing: Listing) -> str:
        """Return the first text that is not known, odd ones aside."""
        texts = embeddings.missing(listing.text_list, listing.known, estimates=self._rules.estimated_counts)
        return next((text for text in texts if text not in listing.text_list.odd), listing.text_list.ordinary[0])

    async def _search(self, question: Question) -> _Nearest:
        """Return the entry with the fewest differing fields, the newest of several; search until the time is over."""
        await self._fingerprinting.renew()
        text = None if question.listing is None else self._first_missing(question.listing)
        wanted = await self._fingerprinting.of(question.candidate, text, question.scope, question.request.fields)
        best: tuple[int, float, Description, tuple[str, ...]] | None = None
        searched, cursor, ends = 0, "", self._clock.monotonic() + _SEARCH_SECONDS
        complete = False
        while not complete and self._clock.monotonic() < ends:
            page = await self._store.page(cursor, _PAGE_ENTRIES)
            if page is None:
                break
            for entry in page.entries:
                differs = differing(wanted, entry.fingerprints)
                if differs is not None and (best is None or (len(differs), -entry.stored_at) < best[:2]):
                    best = (len(differs), -entry.stored_at, entry, differs)
            searched += len(page.entries)
            complete, cursor = page.cursor is None, page.cursor or ""
        return _Nearest(
            entry=best[2] if best else None, differs=best[3] if best else (), searched=searched, complete=complete
        )


def _told(contexts: Contexts) -> dict[str, Any]:
    """Return what is known of the context length with which Ollama loads a model."""
    return {
        "length": contexts.now,
        "first": contexts.first,
        "before": contexts.before,
        "since": int(contexts.since),
        "epoch": part(contexts),
    }


def _ignore(_question: Question) -> None:
    """Do nothing."""
