"""Packs: entries that leave for another proxy, and those that come from one.

What leaves are the entries that could be hits here now: of the model's digest, of Ollama's version, and under the
settings in keys. What comes is judged entry by entry (policy/pack_admission.py); what is stored already stays as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from ollama_cache_proxy.core.lookup import scope_of
from ollama_cache_proxy.core.questions import Neighbours
from ollama_cache_proxy.core.store_ports import Page
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy import model_names, reuse, scope_marks
from ollama_cache_proxy.policy.messages import Description, StoredResponse
from ollama_cache_proxy.policy.pack_admission import Admission, Refusal, admitted
from ollama_cache_proxy.policy.pack_records import MAX_ENTRY, note, record_of, records
from ollama_cache_proxy.policy.purge import Filter
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.scope_marks import Mark
from ollama_cache_proxy.policy.steps import Steps, batched

Encode: TypeAlias = Callable[[str, StoredResponse], bytes]
Decode: TypeAlias = Callable[[str, bytes], StoredResponse | None]

_PAGE: Final = 500
"""Entries of one page, about."""
_AT_ONCE: Final = 1 << 18
"""Bytes of entries that are looked up and written in one turn of the event loop, unless one has more."""
_SCAN_DIGITS: Final = 16
"""Hexadecimal digits."""
_BESIDE: Final = 1024
"""Bytes of an entry beside its body, at most nearly always."""


@record
class Own:
    """What a model is here."""

    model: str
    """Its canonical name."""
    digest: str
    version: str
    epoch: str
    mark: Mark
    """The mark of what a request without credentials and Origin stores."""
    context: int | None
    """The context length with which Ollama loads it where nothing else is asked, in tokens; None where not known."""

    def about(self) -> dict[str, Any]:
        """Return what is told of it: names and hashes, nothing secret."""
        return {
            "model": model_names.short(self.model),
            "digest": self.digest,
            "version": self.version,
            "epoch": self.epoch,
            "settings": self.mark.settings,
            "context": self.context,
        }


@record
class Found:
    """A page, and where it is in the store."""

    page: Page
    scan: str
    """Tells the store, and what it held before a clear, from others: with these, its cursors have a meaning."""
    goes_on: bool
    """Whether it follows the cursor that was given; else it is the first one."""


@record
class Taken:
    """What became of some entries out of a pack."""

    imported: int
    known: int
    """Those that were stored here already."""
    refused: Counter[str]
    """By the reason (policy/pack_admission.py)."""
    asked_by_few: Counter[str]
    """Those among both that only some requests can be answered with: with the same credentials, Origin, namespace."""


class Packing:
    """Exports and imports entries; `encode` and `decode` are those of the store."""

    def __init__(self, neighbours: Neighbours, *, encode: Encode, decode: Decode) -> None:
        self._rules = neighbours.rules
        self._store = neighbours.store
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._purges = neighbours.purges
        self._turns = Turns()  # beside those of clients, who would wait for all of a request here
        self._encode = encode
        self._decode = decode

    async def own(self, model: str) -> Own | None:
        """Return what a model is here; None where Ollama has none of this name, or does not say."""
        identity = await self._models.identify(model)
        if identity is None:
            return None
        scope = scope_of(identity, self._rules)
        mark = scope_marks.read(scope_marks.marked(scope, ()))
        assert mark is not None  # noqa: S101 - for the type checker
        return Own(
            model=identity.model,
            digest=identity.digest,
            version=identity.version,
            epoch=scope.epoch,
            mark=mark,
            context=identity.contexts.now,
        )

    async def page(self, cursor: str) -> Found | None:
        """Return some entries after `cursor`, the first ones where it is of another store, or from before a clear.

        None where the store failed. Raise ValueError for a bad cursor.
        """
        generation = (await self._store.peek_many(())).generation
        if generation is None:
            return None
        scan = hashlib.sha256(generation.encode()).hexdigest()[:_SCAN_DIGITS]
        of, _, place = cursor.partition(".")
        page = await self._store.page(place if of == scan else "", _PAGE)
        return None if page is None else Found(page=page, scan=scan, goes_on=of == scan)

    async def exported(self, own: Own, wanted: Filter, found: Found) -> AsyncGenerator[bytes, None]:
        """Yield a note of what the model is here, the entries of a page that match, and a note of these.

        Where the store fails meanwhile, the last note is missing.
        """
        page = found.page
        yield note(own.about() | {"goesOn": found.goes_on})
        left_out: Counter[str] = Counter()
        scopes: Counter[tuple[str, str, str]] = Counter()
        chosen: list[Description] = []
        for entry in page.entries:
            if wanted.matches(entry):
                reason = self._not_exported(entry, own)
                if reason is None:
                    chosen.append(entry)
                else:
                    left_out[reason.value] += 1
        for some in _in_parts(chosen):
            await asyncio.sleep(0)
            lookups = await self._store.peek_many([entry.key for entry in some])
            if lookups.generation is None:
                return
            for entry, stored in zip(some, lookups.entries, strict=True):
                value = b"" if stored is None else self._encode(entry.key, replace(stored, fingerprints={}))
                if stored is None:
                    continue  # it has expired, or was evicted, since the page was read
                if len(value) > MAX_ENTRY:
                    left_out[Refusal.TOO_LARGE.value] += 1
                    continue
                mark = scope_marks.read(stored.scope)
                if mark is not None:
                    scopes[stored.namespace, mark.credentials, mark.origin] += 1
                yield record_of(entry.key, value)
        counted = [[*scope, count] for scope, count in scopes.items()]
        cursor = None if page.cursor is None else f"{found.scan}.{page.cursor}"
        yield note({"cursor": cursor, "leftOut": left_out, "scopes": counted})

    def _not_exported(self, entry: Description, own: Own) -> Refusal | None:
        """Return why an entry stays here, or None."""
        mark = scope_marks.read(entry.scope)
        if mark is None:
            return Refusal.UNMARKED
        refusals = (
            (mark.digest != own.mark.digest, Refusal.OTHER_DIGEST),
            (mark.version != own.mark.version, Refusal.OTHER_VERSION),
            (mark.settings != own.mark.settings, Refusal.OTHER_SETTINGS),
            (reuse.ttl(entry, self._clock.now()) <= 0, Refusal.EXPIRED),
            (entry.size > MAX_ENTRY, Refusal.TOO_LARGE),
        )
        return next((refusal for broken, refusal in refusals if broken), None)

    async def take_in(self, own: Own, data: bytes, context: int | None) -> Taken | None:
        """Store the entries of these records that fit; None where the store failed. Raise ValueError for no records.

        `context` is the context length that they were made with, in tokens; None where it is to make no difference.
        """
        purges = self._purges.count
        refused: Counter[str] = Counter()
        entries = await self._turns.run(self._judged(own, data, context, refused))
        imported, few, generation = 0, Counter[str](), None
        for some in batched(entries):
            found = await self._store.peek_many([key for key, _ in some])
            generation = generation or found.generation  # none of these comes after a clear that began meanwhile
            if generation is None or found.generation is None or not self._store.writable:
                return None
            now = self._clock.now()
            new = [
                (key, entry)
                for (key, entry), known in zip(some, found.entries, strict=True)
                if known is None or reuse.ttl(known, now) <= 0
            ]
            if new and not await self._put(new, generation, purges):
                return None
            imported += len(new)
            few.update(few for _, entry in some for few in _who_can_ask(entry))
            await asyncio.sleep(0)
        return Taken(imported=imported, known=len(entries) - imported, refused=refused, asked_by_few=few)

    def _judged(
        self, own: Own, data: bytes, context: int | None, refused: Counter[str]
    ) -> Steps[list[tuple[str, StoredResponse]]]:
        """Return the entries that are admitted, and count the others."""
        entries: dict[str, StoredResponse] = {}
        other = None not in (context, own.context) and context != own.context
        for key, value in records(data):
            entry = self._decode(key, value)
            admission: Admission = Refusal.DAMAGED
            if entry is not None:
                admission = yield from admitted(entry, own.model, own.mark, self._rules, self._clock.now())
            if other and not isinstance(admission, Refusal):
                admission = Refusal.OTHER_CONTEXT
            if isinstance(admission, Refusal):
                refused[admission.value] += 1
            else:
                entries[key] = admission
            yield
        return list(entries.items())

    async def _put(self, entries: Sequence[tuple[str, StoredResponse]], generation: str, purges: int) -> bool:
        """Store entries, unless a purge that began after the first `purges` matches; return whether all are stored."""
        if not await self._store.put(entries, generation):
            return False
        since = self._purges.since(purges)
        gone = [
            key
            for key, entry in entries
            if any(
                purge.matches_any((key,), entry.model, entry.operation, entry.category, entry.namespace)
                for purge in since
            )
        ]
        return not gone or await self._store.delete(gone, generation) is not None


def _in_parts(entries: Sequence[Description]) -> Iterator[list[Description]]:
    """Yield all entries, as many at a time as are to be in memory together."""
    part: list[Description] = []
    size = 0
    for entry in entries:
        if part and size + entry.size > _AT_ONCE:
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.size + _BESIDE
    if part:
        yield part


def _who_can_ask(entry: StoredResponse) -> Iterator[str]:
    """Yield what a request must have in common with the one that an entry was stored for, beside its content."""
    mark = scope_marks.read(entry.scope)
    if entry.namespace:
        yield "namespace"
    if mark is not None and mark.credentials:
        yield "credentials"
    if mark is not None and mark.origin:
        yield "origin"
