"""One check of the audit: whether Ollama still says what was served, and if not, what that looks like."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from ollama_cache_proxy.core.audit_checks import MAX_STORED, Check, Part
from ollama_cache_proxy.core.audit_stays import Stays
from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.facts import Audited, Unaudited
from ollama_cache_proxy.core.ports import Clock, Identity, Models, Runner, Runners, Upstream
from ollama_cache_proxy.core.traffic import Traffic
from ollama_cache_proxy.policy.audit_causes import Seen, cause
from ollama_cache_proxy.policy.audit_comparison import Likeness, compare_texts, compare_vectors, said, vectors_in
from ollama_cache_proxy.policy.classify import is_embedding
from ollama_cache_proxy.policy.context_lengths import part
from ollama_cache_proxy.policy.dialects.dialect import Storable, objects
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import finish
from ollama_cache_proxy.policy.storing import OK

_ASKING: Final = 30.0
"""Seconds that one response may take."""
_MAX_FRESH: Final = 4 * MAX_STORED
"""Bytes of a fresh response."""
_MAX_MODELS: Final = 256
"""Models of which is remembered how they were loaded first."""
_HOLD: Final = 600.0
"""Seconds for which a model is not asked again after an ask had it loaded with another context."""


@record
class _Fresh:
    """What Ollama says now, part for part."""

    parts: tuple[Part, ...]
    tokens: int | None


class Examination:
    """Asks Ollama by `upstream`; see audit.py."""

    def __init__(  # noqa: PLR0913 - what it asks, and whom
        self, upstream: Upstream, *, runners: Runners, stays: Stays, models: Models, traffic: Traffic, clock: Clock
    ) -> None:
        self._upstream = upstream
        self._runners = runners
        self._stays = stays
        self._models = models
        self._traffic = traffic
        self._clock = clock
        self._first: dict[str, tuple[int | None, str | None]] = {}
        """By digest: context length and template of a model when it was seen first."""
        self._held: dict[str, float] = {}
        """By digest: monotonic time until which a model is not asked."""

    async def of(self, check: Check) -> tuple[Audited | None, list[str]]:
        """Return what was found, and the keys of wrong entries; None where the check has to wait.

        It waits while its model is not loaded, or is loaded with other options than it would have to be. Ends with
        TimeoutError where the caller bounds it.
        """
        runner = await self._loaded(check)
        if runner is None:
            return None, []
        identity = await self._models.identify(check.identity.model)
        if identity is None or _what(identity) != _what(check.identity):
            return check.left_out(Unaudited.CHANGED), []
        await self._note_first(check, runner)
        first = await self._ask(check)
        now_loaded = await self._stays.asked(check.identity)
        if first is None:
            return check.left_out(Unaudited.FAILED), []
        if now_loaded is not None and now_loaded.context != runner.context:  # it was loaded anew, with other options
            self._held[check.identity.digest] = self._clock.monotonic() + _HOLD
            return check.left_out(Unaudited.CHANGED), []
        differing = [at for at, part in enumerate(check.parts) if _compare(part, first.parts[at]).kind is not None]
        fact = Audited(operation=check.endpoint.operation, model=check.model, same=len(check.parts) - len(differing))
        if not differing:
            return fact, []
        return await self._confirm(check, runner, first, differing, fact)

    async def _loaded(self, check: Check) -> Runner | None:
        """Return how the model is loaded, if it can be asked as it is, and would be loaded without the audit too."""
        held = self._clock.monotonic() < self._held.get(check.identity.digest, 0.0)
        if held or self._traffic.options(check.identity.model) != check.options:
            return None
        runner = await self._runners.loaded(check.identity)
        return runner if runner is not None and self._stays.may_ask(check.identity, runner) else None

    async def _confirm(
        self, check: Check, runner: Runner, first: _Fresh, differing: list[int], fact: Audited
    ) -> tuple[Audited, list[str]]:
        """Ask a second time for what differs, and look whether all is as it was before the first time."""
        second = await self._ask(check)
        await self._stays.asked(check.identity)
        if second is None:
            return check.left_out(Unaudited.FAILED), []
        compared = {at: _compare(check.parts[at], second.parts[at]).kind for at in differing}
        confirmed = {
            at: kind
            for at, kind in compared.items()
            if kind is not None and _compare(first.parts[at], second.parts[at]).kind is None
        }
        fact = replace(fact, not_reproducible=len(differing) - len(confirmed))
        if not confirmed:
            return fact, []
        if not await self._models.is_current(check.identity):
            return check.left_out(Unaudited.CHANGED), []
        kind = next(iter(confirmed.values()))
        context, template = self._first.get(check.identity.digest, (None, None))
        shown = await self._runners.template(check.identity)
        seen = Seen(
            kind=kind,
            context_before=context,
            context_now=runner.context,
            template_changed=None not in (shown, template) and shown != template,
            tokens_stored=check.tokens,
            tokens_fresh=second.tokens,
            greedy=check.greedy,
        )
        fact = replace(fact, wrong=len(confirmed), kind=kind, cause=cause(seen))
        return fact, list(dict.fromkeys(check.parts[at].key for at in confirmed))

    async def _note_first(self, check: Check, runner: Runner) -> None:
        """Remember how a model is loaded when it is seen first."""
        digest = check.identity.digest
        if digest not in self._first:
            self._first[digest] = runner.context, await self._runners.template(check.identity)
            if len(self._first) > _MAX_MODELS:
                del self._first[next(iter(self._first))]

    async def _ask(self, check: Check) -> _Fresh | None:
        """Return what Ollama says; None where it cannot be asked, or says something else than what can be stored."""
        read = bytearray()
        try:
            async with (
                asyncio.timeout(_ASKING),
                self._upstream.ask(check.request, check.body, repeatable=True) as response,
            ):
                async for chunk in response.chunks():
                    read += chunk
                    if len(read) > _MAX_FRESH:
                        return None
                if response.head.status != OK:
                    return None
        except asyncio.CancelledError:
            self._stays.forget(check.identity)  # when the model expires now may be the client's doing or ours
            raise
        except (ProxyError, TimeoutError):
            return None
        return _fresh(check, bytes(read))


def _fresh(check: Check, body: bytes) -> _Fresh | None:
    """Return what a response says; None where it is not whole, or has not as many parts as were served."""
    endpoint = check.endpoint
    if is_embedding(endpoint):
        vectors = vectors_in(endpoint, body) or ()
        if len(vectors) != len(check.parts):
            return None
        tokens = endpoint.dialect.vectors(objects((body,))[0], endpoint.vectors).prompt_tokens
        return _Fresh(parts=tuple(Part(key="", vector=vector) for vector in vectors), tokens=tokens)
    if check.stream:
        verdict = finish(endpoint.dialect.stream(body))
    else:
        read = objects((body,))
        if not read or endpoint.dialect.failed(read[0]):
            return None
        verdict = endpoint.dialect.whole(read[0])
    says = said(body, stream=check.stream)
    if says is None or not isinstance(verdict, Storable):
        return None
    return _Fresh(parts=(Part(key="", said=says),), tokens=verdict.prompt_tokens)


def _what(identity: Identity) -> tuple[str, str, str]:
    """Return what a model's name stands for, and with which context length it is loaded."""
    return identity.digest, identity.version, part(identity.contexts)


def _compare(one: Part, other: Part) -> Likeness:
    return compare_vectors((one.vector,), (other.vector,)) if one.vector else compare_texts(one.said, other.said)
