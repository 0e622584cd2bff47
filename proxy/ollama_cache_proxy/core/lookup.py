"""Looking a candidate up: the identity of its model, its key, and the entry or the items in the store."""

from __future__ import annotations

from dataclasses import replace

from ollama_cache_proxy.core.facts import Saved
from ollama_cache_proxy.core.questions import Listing, Neighbours, Question
from ollama_cache_proxy.policy import embeddings
from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.embeddings import Item, TextList
from ollama_cache_proxy.policy.endpoints import Policy
from ollama_cache_proxy.policy.key import Scope, cache_key
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.reuse import Directives, Forward, Hit, Refuse, Reuse, reuse
from ollama_cache_proxy.policy.status import FwdReason


class StoreLookup:
    """Asks the models and the store; writes nothing to a client and asks Ollama for no response."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._store = neighbours.store
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._purges = neighbours.purges

    async def pose(
        self, candidate: Candidate, request: Request, body: bytes, directives: Directives
    ) -> Question | None:
        """Return the question of a candidate; None where the digest of its model is not known.

        The fields of `request` are those for Ollama.
        """
        identity = await self._models.identify(candidate.model)
        if identity is None:
            return None
        scope = Scope(
            digest=identity.digest,
            version=identity.version,
            epoch=self._rules.epoch,
            namespace=directives.namespace,
            credentials=self._rules.credentials,
            width=identity.width,
        )
        return Question(
            request=request,
            body=body,
            directives=directives,
            candidate=candidate,
            identity=identity,
            scope=scope,
            key=cache_key(candidate, scope, request.fields),
            policy=self._rules.policy(candidate.endpoint),
            purges=self._purges.count,
            listing=_listing(candidate, scope, request),
        )

    async def find(self, question: Question) -> tuple[Question, Reuse]:
        """Look a question up; return it with what was found, and whether that may answer it."""
        if question.listing is not None:
            return await self._find_list(question, question.listing)
        lookup = await self._store.get(question.key)
        entry = None if question.policy is Policy.WRITE_ONLY else lookup.entry
        return replace(question, generation=lookup.generation), reuse(entry, question.directives, self._clock.now())

    async def _find_list(self, question: Question, listing: Listing) -> tuple[Question, Reuse]:
        """Look up each text of a list. If all are known that is a hit, whose entry is the joined response."""
        text_list, keys = listing.text_list, listing.keys
        found = await self._store.get_many(tuple(keys.values()))
        directives, now = replace(question.directives, only_if_cached=False), self._clock.now()
        entries = (None if question.policy is Policy.WRITE_ONLY else entry for entry in found.entries)
        outcomes = {text: reuse(entry, directives, now) for text, entry in zip(keys, entries, strict=True)}
        hits = {text: outcome for text, outcome in outcomes.items() if isinstance(outcome, Hit)}
        items = {text: item for text, hit in hits.items() if (item := embeddings.decode(hit.entry.body)) is not None}
        if not embeddings.same_length(items.values()):
            items = {}  # of two models: one has just been replaced unnoticed
        missing = frozenset(embeddings.missing(text_list, items))
        known = {text: item for text, item in items.items() if text not in missing}
        age = max((hits[text].age for text in known), default=None)
        listing = replace(listing, known=known, saved=_saved(text_list, known, hits), age=age)
        question = replace(question, generation=found.generation, listing=listing)
        if not missing and embeddings.joined_size(text_list, items) <= self._rules.max_list_bytes:
            return question, _joined(listing, hits)
        if question.directives.only_if_cached:
            return question, Refuse.ONLY_IF_CACHED
        refused = (outcomes[text] for text in keys if text in missing)
        reason = next((outcome.reason for outcome in refused if isinstance(outcome, Forward)), FwdReason.MISS)
        return question, Forward(reason=reason)


def _listing(candidate: Candidate, scope: Scope, request: Request) -> Listing | None:
    text_list = embeddings.text_list(candidate)
    if text_list is None:
        return None
    return Listing(text_list=text_list, keys=embeddings.item_keys(text_list, scope, request.fields))


def _saved(text_list: TextList, known: dict[str, Item], hits: dict[str, Hit]) -> Saved:
    """Return what the known texts save Ollama, which would work on a text as often as it occurs."""
    texts = [text for text in text_list.texts if text in known]
    return Saved(
        seconds=sum(hits[text].entry.took for text in texts), prompt_tokens=sum(known[text].tokens for text in texts)
    )


def _joined(listing: Listing, hits: dict[str, Hit]) -> Hit:
    """Return the hit for a list of which every text is known; its age is that of the oldest item.

    Its fields are those of the item that expires first, since they may tell how long it is fresh.
    """
    joined = embeddings.join(listing.text_list, listing.known)
    first = min(hits.values(), key=lambda hit: hit.ttl).entry
    kind = (b"Content-Type", embeddings.content_type(listing.text_list))
    entry = replace(
        first,
        fields=tuple(kind if line[0].lower() == b"content-type" else line for line in first.fields),
        body=joined.body,
        took=listing.saved.seconds,
        prompt_tokens=listing.saved.prompt_tokens,
    )
    ages, ttls = [hit.age for hit in hits.values()], [hit.ttl for hit in hits.values()]
    return Hit(entry=entry, age=max(ages), ttl=min(ttls), estimated=joined.estimated)
