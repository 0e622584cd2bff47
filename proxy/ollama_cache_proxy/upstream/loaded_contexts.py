"""With which context length Ollama loads models of itself, seen in `/api/ps` right after responses that were stored.

See policy/context_lengths.py for what an observation is and when it counts. Here it is asked for: in the background, at
most once in `EVERY` seconds for each model, or `AGAIN` where the latest one has to be confirmed, and never after a hit.
What was stored since an observation agreed last is withdrawn when another length counts. What is known is saved in the
store, so that the same entries are used after a restart, and told to siblings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from ollama_cache_proxy.core.facts import ContextChanged, Observer
from ollama_cache_proxy.core.ports import Body, Clock, Identity, Runners, Siblings, Topic
from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import context_lengths, model_names
from ollama_cache_proxy.policy.context_lengths import UNKNOWN, Contexts

EVERY: Final = 5.0
"""Seconds between two looks at `/api/ps` for one model."""
AGAIN: Final = 1.0
"""The same where the latest one showed another length."""
LONGEST: Final = 640.0
"""The same where many have told nothing: it is doubled after each."""
_SILENT: Final = 40.0
"""The pause from which on Ollama is taken for one that tells no length."""
_WITHIN: Final = 0.5
"""Seconds after a response within which Ollama has to tell: later, another request may have had the model loaded."""
_RETRY: Final = 1.0
"""Seconds after which the store is asked again where it knew nothing, or failed."""
_MAX_MODELS: Final = 1024
_MAX_KEYS: Final = 50_000
"""Keys, of all entries together, that are remembered to be withdrawn; the oldest ones are left as they are."""


class Watched(Protocol):
    """Ollama, which knows the bodies of the requests that are under way."""

    def watching(self) -> AbstractContextManager[list[Body]]:
        """Return the bodies of the requests that are under way, and of those that are sent until the block ends."""


_Unsettled: TypeAlias = tuple[float, int, Callable[[], None]]
"""Entries that were made with a length that no later observation has confirmed: the monotonic time of the response in
seconds, how many keys they have, and how to withdraw them."""


@dataclass(slots=True)
class _Model:
    """What is known of the model of one digest. Times are monotonic, in seconds."""

    contexts: Contexts = UNKNOWN
    asked_at: float | None = None
    """When the store was asked last what it knows; None before that."""
    loading: asyncio.Task[None] | None = None
    look_at: float = float("-inf")
    """When Ollama may be asked again."""
    pause: float = EVERY
    looking: bool = False
    silent: bool = False
    """Whether Ollama told no length when it was asked last."""
    saved: bool = True
    unsettled: list[_Unsettled] = field(default_factory=list)
    """What was stored since an observation agreed."""


class LoadedContexts:
    """See above. What is learnt is saved under `name`, which tells this Ollama from others that share the store."""

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        runners: Runners,
        ollama: Watched,
        store: ValueStore,
        *,
        name: str,
        clock: Clock,
        tasks: Tasks,
        observe: Observer,
        siblings: Siblings | None = None,
    ) -> None:
        self.on_change: Callable[[], None] = _nothing
        """Called when entries of another length are to be used from now on."""
        self.digest_of: Callable[[str], str | None] = _unknown
        """Return the digest of a model by its canonical name."""
        self._runners = runners
        self._ollama = ollama
        self._store = store
        self._name = name
        self._clock = clock
        self._tasks = tasks
        self._observe = observe
        self._siblings = siblings
        self._models: dict[str, _Model] = {}
        self._keys = 0

    def known(self, digest: str) -> Contexts | None:
        """Return what is known of the model of a digest; None where the store has to be asked first, by `load`."""
        model = self._models.get(digest)
        if model is None or model.asked_at is None:
            return None
        if model.contexts.now is None and self._clock.monotonic() >= model.asked_at + _RETRY:
            self._start_load(digest, model)
        return model.contexts

    async def load(self, digest: str) -> Contexts:
        """Ask the store what is known of the model of a digest, and return it."""
        model = self._model(digest)
        await asyncio.shield(self._start_load(digest, model))
        return model.contexts

    def responded(self, identity: Identity, withdraw: Callable[[], None], keys: int) -> None:
        """Note a response that has just ended, to a request that left the loading to Ollama, and is being stored."""
        model = self._models.get(identity.digest)
        if model is None:
            return
        now = self._clock.monotonic()
        if not model.silent:
            model.unsettled.append((now, keys, withdraw))
            self._keys += keys
            if self._keys > _MAX_KEYS:
                self._settle(model, model.unsettled[len(model.unsettled) // 2][0])
        if not model.looking and now >= model.look_at:
            model.looking = True
            self._tasks.spawn(self._look(identity, model, now), "look at a context length")

    async def sibling_saw(self, told: tuple[str, str]) -> None:
        """Take over what a sibling has seen."""
        digest, contexts = told
        self._replace(self._model(digest), context_lengths.unpacked(contexts.encode()))

    def _model(self, digest: str) -> _Model:
        model = self._models.get(digest)
        if model is None:
            if len(self._models) >= _MAX_MODELS:
                self._settle(self._models.pop(next(iter(self._models))))
            model = self._models[digest] = _Model()
        return model

    def _start_load(self, digest: str, model: _Model) -> asyncio.Task[None]:
        if model.loading is None:
            model.loading = self._tasks.spawn(self._load(digest, model), "load a context length")
        return model.loading

    async def _load(self, digest: str, model: _Model) -> None:
        value = await self._store.load(self._value(digest))
        known = UNKNOWN if value is None else context_lengths.unpacked(value)
        if model.contexts.now is None and known.now is not None:
            if model.asked_at is None:  # no key was made yet
                model.contexts = known
            else:
                self._replace(model, known)
        model.asked_at, model.loading = self._clock.monotonic(), None

    async def _look(self, identity: Identity, model: _Model, responded: float) -> None:
        """Look at `/api/ps`, and take in what it tells, unless that may be about another request."""
        begun = self._clock.monotonic()
        try:
            length = await self._length(identity, model, max(0.0, responded + _WITHIN - begun))
            if length is not None:
                await self._take_in(identity, model, length, begun)
        finally:
            model.looking = False

    async def _length(self, identity: Identity, model: _Model, seconds: float) -> int | None:
        """Return the length with which the latest response was made; None where that is not known."""
        runner = None
        with self._ollama.watching() as bodies, suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                runner = await self._runners.loaded(identity)
        length = None if runner is None else runner.context
        model.pause = min(2 * model.pause, LONGEST) if length is None else EVERY
        model.look_at = self._clock.monotonic() + model.pause
        model.silent = length is None and (runner is not None or model.pause >= _SILENT)
        if model.silent:
            self._settle(model)
        disturbed = any(context_lengths.may_reload(body, identity.digest, self.digest_of) for body in bodies)
        return None if disturbed else length

    async def _take_in(self, identity: Identity, model: _Model, length: int, begun: float) -> None:
        """Take in an observation that began at this moment."""
        await self._reload(identity.digest, model)
        found = context_lengths.observed(model.contexts, length, self._clock.now())
        if found.now == model.contexts.now:
            if found.seen is None:
                self._settle(model, begun)
            else:
                model.look_at = self._clock.monotonic() + AGAIN
            model.contexts = found
        else:
            first = found.first or await self._first(identity.digest, length)
            if first is None:
                return  # the store fails; the next observation is as good
            found = context_lengths.begun(found, first)
            self._replace(model, found)
            model.saved = False
            if found.before != found.now:
                name = model_names.short(identity.model)
                self._observe(ContextChanged(model=name, before=found.before or first, now=length))
            if self._siblings is not None:
                self._siblings.send(Topic.CONTEXT, [identity.digest, context_lengths.packed(found).decode()])
        if not model.saved:
            model.saved = await self._store.save(self._value(identity.digest), context_lengths.packed(model.contexts))

    async def _reload(self, digest: str, model: _Model) -> None:
        """Take over what another proxy in front of the same Ollama has learnt since; see to it that it stays saved."""
        value = await self._store.load(self._value(digest))
        saved = UNKNOWN if value is None else context_lengths.unpacked(value)
        if saved.since > model.contexts.since:
            self._replace(model, saved)
        elif saved.now is None and model.contexts.now is not None:
            model.saved = False

    async def _first(self, digest: str, length: int) -> int | None:
        """Return the first length of a model in this store, which is `length` where there was none; None: it failed."""
        value = await self._store.set_default(f"context:{digest}", b"%d" % length)
        if value is None:
            return None
        return int(value) if value.isdigit() and int(value) > 0 else length

    def _replace(self, model: _Model, contexts: Contexts) -> None:
        """Use other entries from now on where the part of the key is another; withdraw what may be of both."""
        other = context_lengths.part(contexts) != context_lengths.part(model.contexts)
        model.contexts, unsettled = contexts, list(model.unsettled)
        self._settle(model)
        if other:
            self.on_change()
            for _, _, withdraw in unsettled:
                withdraw()

    def _settle(self, model: _Model, until: float = float("inf")) -> None:
        """Forget how to withdraw what was stored up to a moment."""
        self._keys -= sum(keys for at, keys, _ in model.unsettled if at <= until)
        model.unsettled = [entries for entries in model.unsettled if entries[0] > until]

    def _value(self, digest: str) -> str:
        return f"context:{self._name}:{digest}"


def _nothing() -> None:
    """Do nothing."""


def _unknown(_name: str) -> str | None:
    """Return that nothing is known."""
    return None
