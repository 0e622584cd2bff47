"""Whether an entry out of a pack may be stored: it is what this proxy could have stored itself, and can be asked for.

Nothing is taken on trust but that the response is Ollama's, for which a signature stands. All else is looked at as if
it came from a client: what it is held to is what `storing.py`, `fields.py` and `reuse.py` hold Ollama's responses to.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, TypeAlias

from ollama_cache_proxy.policy import fields, reuse, scope_marks, storing
from ollama_cache_proxy.policy.classify import Candidate, is_embedding
from ollama_cache_proxy.policy.dialects.dialect import Storable, objects
from ollama_cache_proxy.policy.endpoints import REUSABLE, Endpoint, Policy
from ollama_cache_proxy.policy.freshness import LONGEST
from ollama_cache_proxy.policy.lifetimes import LifetimeKind, bounded, kind_of
from ollama_cache_proxy.policy.listing import any_form, items
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.messages import FIELD_NAME, ResponseHead, StoredResponse, first
from ollama_cache_proxy.policy.outline import is_read_soon
from ollama_cache_proxy.policy.reason import Reason
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.policy.scope_marks import Mark
from ollama_cache_proxy.policy.steps import Steps


class Refusal(Reason):
    """Why an entry out of a pack is not stored, with its `meaning`."""

    DAMAGED = "damaged", "its bytes are not those of an entry, or not of this key"
    UNMARKED = "no-scope", "it does not say which digest of the model it is of: an older proxy stored it"
    OTHER_MODEL = "other-model", "it is of another model than the pack"
    OTHER_DIGEST = "other-digest", "it is of another digest of the model than Ollama has here"
    OTHER_VERSION = "other-version", "it is of another version of Ollama than runs here"
    OTHER_SETTINGS = (
        "other-settings",
        "it can never be asked for here: `epoch`, or what counts as a credential, is another",
    )
    OTHER_CONTEXT = (
        "other-context",
        "Ollama loads the model with another context length here, and may cut long texts elsewhere",
    )
    NOT_CACHED = "not-cached", "it can never be asked for here: its endpoint's policy, or `cache_streams`, is off"
    EXPIRED = "expired", "its lifetime is over"
    TOO_LARGE = "too-large", "it is over `max_entry_bytes` or `max_list_bytes`"
    UNSOUND = "unsound", "this proxy would not have stored it: a field, a number or the response is not as it must be"


Admission: TypeAlias = StoredResponse | Refusal

_BY_OPERATION: Final = {row.operation: row for row in REUSABLE}
_FUTURE: Final = 86_400.0
"""Seconds by which the clocks of two machines may differ."""
_MAX_TOOK: Final = 1e6
"""Seconds."""
_MAX_TOKENS: Final = 2**53
_MAX_FIELDS: Final = 64
_MAX_FIELD_BYTES: Final = 8192
"""Of all field lines together."""
_MAX_NAMESPACE: Final = 128
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # section 5.5: no CR, LF or NUL
_REASON: Final = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]{0,128}")
_PLAIN: Final = b"text/plain"
_LONGEST_VECTOR: Final = 1 << 20
"""Bytes: longer ones are not stored, since reading them holds up others."""
_NUMBERS: Final = b"0123456789eE+-.,[]"
"""All that a list of numbers is written with."""


def admitted(entry: StoredResponse, model: str, own: Mark, rules: Rules, now: float) -> Steps[Admission]:
    """Return the entry as it is to be stored, or why it is not, in steps.

    `model` is the canonical name of the pack's; `own` is the mark of a scope that it has here; `now` is Unix time in
    seconds.
    """
    if not _is_sound(entry, now):
        return Refusal.UNSOUND
    entry = _within_bounds(entry, rules)
    refusal = _misfit(entry, model, own, rules, now)
    if refusal is not None:
        return refusal
    yield
    endpoint = _BY_OPERATION[entry.operation]
    if len(entry.body) > rules.max_response_bytes(endpoint):
        return Refusal.TOO_LARGE
    if not (yield from _is_storable(endpoint, entry)):
        return Refusal.UNSOUND
    return replace(entry, stored_at=min(entry.stored_at, now), fingerprints={}, imported=True)


def _within_bounds(entry: StoredResponse, rules: Rules) -> StoredResponse:
    """Return a sound entry that lives no longer than one that hits renew, or a completion, could be made to live here.

    A vector with a fixed lifetime keeps it: its key has all that it depends on.
    """
    endpoint = _BY_OPERATION[entry.operation]
    if entry.idle is not None:
        longest = rules.max_lifetime
    elif is_embedding(endpoint):
        return entry
    else:
        usual = rules.lifetime_of(endpoint, entry.category, entry.model, asked=None)
        longest = max(rules.max_ttl, usual.seconds)
    if entry.lifetime <= longest:
        return entry
    held = bounded(longest, entry.idle)
    return replace(entry, lifetime=held.seconds, idle=held.idle)


def _misfit(entry: StoredResponse, model: str, own: Mark, rules: Rules, now: float) -> Refusal | None:
    """Return why nothing could ask for a sound entry here, or None."""
    mark = scope_marks.read(entry.scope)
    endpoint = _BY_OPERATION[entry.operation]
    unasked = rules.policy(endpoint) in {None, Policy.OFF, Policy.WRITE_ONLY} or (entry.pieces and not rules.streams)
    if entry.model != model:
        return Refusal.OTHER_MODEL
    if mark is None:
        return Refusal.UNMARKED
    refusals = (
        (mark.digest != own.digest, Refusal.OTHER_DIGEST),
        (mark.version != own.version, Refusal.OTHER_VERSION),
        (mark.settings != own.settings, Refusal.OTHER_SETTINGS),
        (unasked, Refusal.NOT_CACHED),
        (reuse.ttl(entry, now) <= 0, Refusal.EXPIRED),
    )
    return next((refusal for broken, refusal in refusals if broken), None)


def _is_sound(entry: StoredResponse, now: float) -> bool:
    """Return whether everything beside the body is of the type and within the bounds of what is stored here."""
    texts = (entry.reason, entry.operation, entry.model, entry.category, entry.namespace, entry.scope)
    if not all(type(text) is str for text in texts) or type(entry.imported) is not bool:
        return False
    return (
        type(entry.status) is int
        and entry.status == storing.OK
        and _is_whole(entry.lifetime, LONGEST)
        and entry.lifetime > 0
        and (entry.idle is None or (_is_whole(entry.idle, entry.lifetime - 1) and entry.idle > 0))
        and _is_number(entry.stored_at, now + _FUTURE)
        and _is_number(entry.took, _MAX_TOOK)
        and all(
            tokens is None or _is_whole(tokens, _MAX_TOKENS) for tokens in (entry.prompt_tokens, entry.output_tokens)
        )
        and entry.operation in _BY_OPERATION
        and _lasts_as_it_may(entry)
        and _is_category(entry.category)
        and len(entry.namespace) <= _MAX_NAMESPACE
        and _REASON.fullmatch(entry.reason) is not None
        and _are_fields(entry)
    )


def _lasts_as_it_may(entry: StoredResponse) -> bool:
    """Return whether the kind of lifetime is one that the operation may have: no hit renews a completion."""
    fixed = kind_of(entry.lifetime, entry.idle) is LifetimeKind.FIXED
    return fixed or is_embedding(_BY_OPERATION[entry.operation])


def _is_whole(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value <= most


def _is_category(text: str) -> bool:
    line = (b"x-cache-category", text.encode("utf-8", "surrogateescape"))
    return reuse.read_directives((line,), max_ttl=0).category == text


def _are_fields(entry: StoredResponse) -> bool:
    """Return whether the fields are such as are stored, and cannot be taken for more than they are on the wire."""
    lines = entry.fields
    return (
        len(lines) <= _MAX_FIELDS
        and sum(len(name) + len(value) for name, value in lines) <= _MAX_FIELD_BYTES
        and all(FIELD_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in lines)
        and fields.replayed(lines) == lines
    )


def _is_storable(endpoint: Endpoint, entry: StoredResponse) -> Steps[bool]:
    """Return whether this proxy would have stored the response, had Ollama sent it."""
    kind = (first(entry.fields, b"content-type") or b"").partition(b";")[0].strip().lower()
    head = ResponseHead(status=entry.status, reason=entry.reason, fields=entry.fields)
    candidate = Candidate(
        endpoint=endpoint,
        model=entry.model,
        document={},
        items=1,
        stream=bool(entry.pieces),
        text=bool(endpoint.text) and kind == _PLAIN,
    )
    if storing.by_head(candidate, head) is not None:
        return False
    item = items.decode(entry.body) if endpoint.items else None
    if item is not None and len(item.vector) > _LONGEST_VECTOR:
        return False
    if item is not None:
        sound = yield from items.sound_in_steps((item.vector,), item.numbers)
        return sound and not entry.pieces and _is_written_as_here(endpoint, item)
    if endpoint.items:
        if not (yield from is_read_soon(entry.body)):
            return False
        read = objects((entry.body,))
        found = endpoint.dialect.vectors(read[0], endpoint.vectors).found if read else None
        candidate = replace(candidate, items=len(found) if isinstance(found, list) and found else 1)
    return isinstance((yield from storing.storable_in_steps(candidate, head, entry.body)), Storable)


def _is_written_as_here(endpoint: Endpoint, item: Item) -> bool:
    """Return whether an item that is sound has nothing in it but a vector, and a frame that this proxy would make."""
    vector = bytes(item.vector)
    if not items.is_base64(vector) and vector.translate(None, _NUMBERS):
        return False
    if not item.frame:
        return True
    cut = Cut(
        vectors=(vector,),
        numbers=item.numbers,
        tokens=item.tokens,
        total_duration=item.total_duration,
        load_duration=item.load_duration,
        frame=item.frame,
    )
    try:
        kind = any_form.media_type(item.frame)
        again = any_form.read(endpoint.vectors, 1, any_form.render(cut), kind)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return False
    return isinstance(again, Cut) and again.frame == item.frame and _VALUE.fullmatch(kind) is not None
