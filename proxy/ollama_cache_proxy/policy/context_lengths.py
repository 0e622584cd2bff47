"""The context length with which Ollama loads a model that is not told one, as a part of the epoch in the model's keys.

A model's parameters are in its digest, and a request's `num_ctx` is in its key. What Ollama chooses itself is in
neither: OLLAMA_CONTEXT_LENGTH, a default by the memory of its GPUs, a context that it lowers. `/api/ps` tells it, but
of the request that loaded the model last. So an observation is what it tells right after a response to a request
without such options, and two in a row that agree count. The first length that counts adds nothing to keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.audit_requests import has_runner_options, options_in
from ollama_cache_proxy.policy.record import record

_OPTIONS: Final = "options"
_LENGTH: Final = b'"num_ctx"'


@record
class Contexts:
    """What is known of one model; lengths in tokens, None where they are not known."""

    first: int | None = None
    """The length that adds nothing to keys: the first one under which entries of this model were stored."""
    now: int | None = None
    before: int | None = None
    """The one before the latest change."""
    since: float = 0.0
    """When `now` was learnt, in Unix seconds."""
    seen: int | None = None
    """What the latest observation showed, where that is another length than `now`."""

    @property
    def changed(self) -> bool:
        """Whether the model is loaded with another length than the first one."""
        return self.now != self.first


UNKNOWN: Final = Contexts()


def observed(contexts: Contexts, length: int, now: float) -> Contexts:
    """Return what is known after an observation at `now`. `first` stays as it is: the store knows it."""
    if length == contexts.now:
        return _with(contexts, seen=None)
    if length != contexts.seen:
        return _with(contexts, seen=length)
    before = contexts.first if contexts.now is None else contexts.now
    return Contexts(first=contexts.first, now=length, before=before, since=now)


def begun(contexts: Contexts, first: int) -> Contexts:
    """Return what is known where the store has told the first length."""
    before = first if contexts.before is None else contexts.before
    return Contexts(first=first, now=contexts.now, before=before, since=contexts.since, seen=contexts.seen)


def part(contexts: Contexts) -> str:
    """Return what is added to the epoch; empty where the length is the first one, or not known."""
    return f"ctx={contexts.now}" if contexts.changed else ""


def epoch(setting: str, contexts: Contexts) -> str:
    """Return the epoch of a model's keys; a setting has no NUL, unless someone means it to."""
    return setting if contexts.now == contexts.first else f"{setting}\0{part(contexts)}"


def leaves_loading_to_ollama(document: dict[str, Any]) -> bool:
    """Return whether a request says nothing of how its model is loaded."""
    return not has_runner_options(document.get(_OPTIONS))


def may_reload(body: object, digest: str, digest_of: Callable[[str], str | None]) -> bool:
    """Return whether a request with this body may have the model of a digest loaded with a length of its own.

    A body that is not in memory may say anything. `digest_of` returns the digest of a model by its canonical name.
    """
    if body is None:
        return False
    if not isinstance(body, bytes):
        return True
    if _LENGTH not in body:
        return False
    found = options_in(body)
    name = model_names.canonical(found[0]) if found is not None else None
    if found is None or name is None:
        return True
    return bool(found[1]) and digest_of(name) in (digest, None)


def packed(contexts: Contexts) -> bytes:
    """Return what is saved of it."""
    told = {"first": contexts.first, "now": contexts.now, "before": contexts.before, "since": contexts.since}
    return orjson.dumps(told)


def unpacked(value: bytes) -> Contexts:
    """Return what was saved; UNKNOWN where it is damaged, or of another form."""
    try:
        told = orjson.loads(value)
        lengths = [told[name] for name in ("first", "now", "before")]
        since = float(told["since"])
    except (ValueError, KeyError, TypeError):
        return UNKNOWN
    if not all(type(length) is int and length > 0 for length in lengths):
        return UNKNOWN
    first, now, before = lengths
    return Contexts(first=first, now=now, before=before, since=since)


def _with(contexts: Contexts, *, seen: int | None) -> Contexts:
    return Contexts(first=contexts.first, now=contexts.now, before=contexts.before, since=contexts.since, seen=seen)
