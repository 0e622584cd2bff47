"""Looking a candidate up: the identity of its model, its key, and the entry or the items in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ollama_cache_proxy.core.facts import Saved
from ollama_cache_proxy.core.ports import Identity
from ollama_cache_proxy.core.questions import Listing, Neighbours, Question
from ollama_cache_proxy.core.store_ports import Lookup
from ollama_cache_proxy.policy import context_lengths, embeddings
from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.endpoints import Policy
from ollama_cache_proxy.policy.key import Scope, cache_key, cache_key_in_steps
from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.listing import any_form, joining, own_form
from ollama_cache_proxy.policy.listing.items import Item, decode
from ollama_cache_proxy.policy.messages import Request, StoredResponse
from ollama_cache_proxy.policy.record import changed, record
from ollama_cache_proxy.policy.reuse import Directives, Forward, Hit, Refuse, Reuse, reuse
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.policy.status import FwdReason
from ollama_cache_proxy.policy.steps import Steps, batched, finish


class StoreLookup:
    """Asks the models and the store; writes nothing to a client and asks Ollama for no response."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._store = neighbours.store
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._purges = neighbours.purges
        self._forms = neighbours.forms
        self._turns = neighbours.turns
        self._unanswered = neighbours.unanswered

    async def pose(
        self, candidate: Candidate, request: Request, body: bytes, directives: Directives, category: str
    ) -> Question | None:
        """Return the question of a candidate; None where the digest of its model is not known.

        The fields of `request` are those for Ollama. `category` is the one that it names, also where it is stored as
        another since there are too many.
        """
        identity = await self._models.identify(candidate.model)
        if identity is None:
            return None
        return await self.posed(candidate, request, body, directives, category, identity)

    async def posed(  # noqa: PLR0913, PLR0917 - what a question is made of
        self,
        candidate: Candidate,
        request: Request,
        body: bytes,
        directives: Directives,
        category: str,
        identity: Identity,
    ) -> Question:
        """Return the question of a candidate whose model has this identity."""
        if identity.hosts is not None:
            request = changed(request, hosts=identity.hosts)
        scope = scope_of(identity, self._rules, directives.namespace)
        listing: Listing | None
        if _is_large(candidate, body):
            key, listing = await self._turns.run(_keys_in_steps(candidate, scope, request))
        else:
            key, listing = cache_key(candidate, scope, request.fields), _listing(candidate, scope, request)
        return Question(
            request=request,
            body=body,
            directives=directives,
            candidate=candidate,
            identity=identity,
            scope=scope,
            key=key,
            policy=self._rules.policy(candidate.endpoint, category, candidate.model),
            lifetime=self._rules.lifetime_of(candidate.endpoint, category, candidate.model, asked=directives.ttl),
            purges=self._purges.count,
            listing=listing,
        )

    async def find(self, question: Question) -> tuple[Question, Reuse]:
        """Look a question up; return it with what was found, and whether that may answer it."""
        if question.listing is not None:
            return await self._find_list(question, question.listing)
        if self._unanswered and self._unanswered.take(question.key, self._clock.monotonic()):
            lookup = Lookup(entry=None, generation=None)
        else:
            lookup = await self._store.get(question.key)
        entry = None if question.policy is Policy.WRITE_ONLY else lookup.entry
        return changed(question, generation=lookup.generation), reuse(entry, question.directives, self._clock.now())

    async def _find_list(self, question: Question, listing: Listing) -> tuple[Question, Reuse]:
        """Look up each text of a list. If all are known that is a hit, whose entry is the joined response.

        Where the source may write another form than Ollama's own, items of that form are looked up too, and an entry of
        the whole response.
        """
        forms = self._forms.of(question.source)
        large = _is_large(question.candidate, question.body)
        if large and not forms.only_own:
            about = listing.text_list, question.scope, question.request.fields
            listing = replace(listing, others=await self._turns.run(embeddings.other_keys_in_steps(*about)))
            question = replace(question, listing=listing)
        own: Mapping[str, str] = {} if forms.only_other else listing.keys
        other = {} if forms.only_own else question.other_keys()
        whole = (question.key,) if other and not listing.text_list.odd else ()
        found = await self._store.get_many((*own.values(), *other.values(), *whole))
        question = replace(question, generation=found.generation)
        steps = self._judged(question, listing, own, other, found.entries)
        return await self._turns.run(steps) if large else finish(steps)

    def _judged(
        self,
        question: Question,
        listing: Listing,
        own: Mapping[str, str],
        other: Mapping[str, str],
        entries: Sequence[StoredResponse | None],
    ) -> Steps[tuple[Question, Reuse]]:
        """Return the question with what is known of its texts, and whether that may answer it."""
        found = yield from self._outcomes(question, entries)
        outcomes = iter(found)
        first = yield from self._texts(listing, own, outcomes, other=False)
        texts = first
        if other:
            second = yield from self._texts(listing, other, outcomes, other=True)
            texts = second if not own or len(second.missing) < len(first.missing) else first
        return (yield from self._reuse(question, texts, next(outcomes, None)))

    def _outcomes(self, question: Question, entries: Sequence[StoredResponse | None]) -> Steps[list[Reuse]]:
        """Return of each entry whether it may be used; `only-if-cached` is about the list."""
        directives, now = replace(question.directives, only_if_cached=False), self._clock.now()
        barred = question.policy is Policy.WRITE_ONLY
        outcomes: list[Reuse] = []
        for part in batched(entries):
            outcomes += [reuse(None if barred else entry, directives, now) for entry in part]
            yield
        return outcomes

    def _texts(
        self, listing: Listing, keys: Mapping[str, str], found: Iterator[Reuse], *, other: bool
    ) -> Steps[_Texts]:
        """Return which texts are known, by the outcomes of their keys of one kind, which are the next ones."""
        outcomes = dict(zip(keys, found, strict=False))
        hits = {text: outcome for text, outcome in outcomes.items() if isinstance(outcome, Hit)}
        yield
        items: dict[str, Item] = {}
        for part in batched(hits.items()):
            items |= {text: item for text, hit in part if (item := decode(hit.entry.body)) is not None}
            yield
        items = joining.usable(listing.text_list, items, other=other)
        yield
        missing = frozenset(
            embeddings.missing(listing.text_list, items, estimates=self._rules.estimated_counts),
        )
        yield
        known = {text: item for text, item in items.items() if text not in missing}
        age = max((hits[text].age for text in known), default=None)
        yield
        renewals: dict[str, Renewal] = {}
        for texts in batched(known):
            renewals |= {
                keys[text]: (entry.idle, entry.stored_at, entry.lifetime)
                for text in texts
                if (entry := hits[text].entry).idle is not None
            }
            yield
        saved = _saved(listing.text_list, known, hits)
        listing = replace(listing, known=known, saved=saved, age=age, renewals=renewals)
        return _Texts(listing=listing, outcomes=outcomes, hits=hits, missing=missing)

    def _reuse(self, question: Question, texts: _Texts, whole: Reuse | None) -> Steps[tuple[Question, Reuse]]:
        """Return the question with what is known of its texts; `whole` is the outcome of the entry of all of them."""
        listing = texts.listing
        self._note_form(question, listing)
        yield
        if not texts.missing:
            vectors = {text: item.vector for text, item in listing.known.items()}
            if joining.joined_size(listing.text_list, vectors) <= self._rules.max_list_bytes:
                yield
                return replace(question, listing=listing), (yield from _joined(listing, texts.hits))
        if isinstance(whole, Hit):
            return question, whole
        question = replace(question, listing=listing)
        if question.directives.only_if_cached:
            return question, Refuse.ONLY_IF_CACHED
        refused = (outcome for text, outcome in texts.outcomes.items() if text in texts.missing)
        reason = next((outcome.reason for outcome in refused if isinstance(outcome, Forward)), FwdReason.MISS)
        if reason is FwdReason.MISS and isinstance(whole, Forward):
            reason = whole.reason
        return question, Forward(reason=reason)

    def _note_form(self, question: Question, listing: Listing) -> None:
        """Learn from stored items which form the source has written."""
        if listing.known:
            self._forms.note(question.source, own=not next(iter(listing.known.values())).frame)


def scope_of(identity: Identity, rules: Rules, namespace: str = "") -> Scope:
    """Return the scope of a request for a model."""
    return Scope(
        digest=identity.digest,
        version=identity.version,
        epoch=context_lengths.epoch(rules.epoch if identity.epoch is None else identity.epoch, identity.contexts),
        namespace=namespace,
        credentials=rules.credentials,
        width=identity.width,
    )


@record
class _Texts:
    """Which texts of a list are known, by keys of one kind."""

    listing: Listing
    outcomes: Mapping[str, Reuse]
    """By text; odd texts have none."""
    hits: Mapping[str, Hit]
    missing: frozenset[str]


def _listing(candidate: Candidate, scope: Scope, request: Request) -> Listing | None:
    text_list = embeddings.text_list(candidate)
    if text_list is None:
        return None
    return Listing(text_list=text_list, keys=embeddings.item_keys(text_list, scope, request.fields))


def _saved(text_list: TextList, known: Mapping[str, Item], hits: Mapping[str, Hit]) -> Saved:
    """Return what the known texts save Ollama, which would work on a text as often as it occurs."""
    texts = [text for text in text_list.texts if text in known]
    return Saved(
        seconds=sum(hits[text].entry.took for text in texts),
        prompt_tokens=sum(known[text].tokens or 0 for text in texts),
    )


def _joined(listing: Listing, hits: Mapping[str, Hit]) -> Steps[Hit]:
    """Return the hit for a list of which every text is known; its age is that of the oldest item.

    Its fields are those of the item that expires first, since they may tell how long it is fresh.
    """
    joined = yield from joining.joined_in_steps(listing.text_list, listing.known)
    yield
    first = min(hits.values(), key=lambda hit: hit.ttl).entry
    frame = listing.known[listing.text_list.texts[0]].frame
    kind = (b"Content-Type", any_form.media_type(frame) if frame else own_form.content_type(listing.text_list))
    entry = replace(
        first,
        fields=tuple(kind if line[0].lower() == b"content-type" else line for line in first.fields),
        body=joined.body,
        took=listing.saved.seconds,
        imported=any(hit.entry.imported for hit in hits.values()),
        prompt_tokens=joined.tokens,
    )
    ages, ttls = [hit.age for hit in hits.values()], [hit.ttl for hit in hits.values()]
    return Hit(entry=entry, age=max(ages), ttl=min(ttls), estimated=joined.estimated)


def _is_large(candidate: Candidate, body: bytes) -> bool:
    """Return whether what is done with each text of a list, or with the bytes of a body, is done in steps."""
    return len(body) > _LARGE_BODY or candidate.items > _LARGE_LIST


_LARGE_BODY: Final = 1 << 20
"""Bytes."""
_LARGE_LIST: Final = 500
"""Texts."""


def _keys_in_steps(candidate: Candidate, scope: Scope, request: Request) -> Steps[tuple[str, Listing | None]]:
    """Return the key of a candidate with a large body, and what its question has of a list."""
    key = yield from cache_key_in_steps(candidate, scope, request.fields)
    text_list = embeddings.text_list(candidate)
    if text_list is None:
        return key, None
    yield
    keys = yield from embeddings.item_keys_in_steps(text_list, scope, request.fields)
    return key, Listing(text_list=text_list, keys=keys)
