"""Lists of texts to embed: what each text is stored under, and what Ollama is asked for.

An item is the vector of one text. In Ollama's own form (listing/own_form.py) it has a key of its own, the same for both
endpoints, `/api/embed` and `/v1/embeddings`, so a list costs Ollama only the texts that are new. In any other form
(listing/any_form.py) its key is of the endpoint, the encoding and the spelling of the model too. `/api/embeddings` has
no items: its vectors differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy import raw_members
from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.key import Frame, Scope, scoped
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.silent_options import is_looked_up, without_silent
from ollama_cache_proxy.policy.steps import Steps, finish


@record
class TextList:
    """A candidate as a list of texts; a single string is a list of one."""

    candidate: Candidate
    texts: tuple[str, ...]
    """In the client's order, duplicates included."""
    unique: tuple[str, ...]
    """Each text once, in the order of first appearance."""
    base64: bool
    """Whether the client asks for `encoding_format` "base64" (/v1 only)."""
    odd: Mapping[str, bytes] = field(default_factory=dict)
    """The odd texts, each as the client wrote it: JSON (odd_texts.py). They have no items."""

    @property
    def ordinary(self) -> tuple[str, ...]:
        """Each text once that is not odd."""
        return tuple(text for text in self.unique if text not in self.odd) if self.odd else self.unique


def text_list(candidate: Candidate) -> TextList | None:
    """Return a candidate as a list of texts; None for an endpoint without items."""
    if not candidate.endpoint.items:
        return None
    given = candidate.document[candidate.endpoint.prompt]
    texts = (given,) if isinstance(given, str) else tuple(given)
    if candidate.odd:
        texts = tuple(candidate.odd.get(place, (text,))[0] for place, text in enumerate(texts))
    return TextList(
        candidate=candidate,
        texts=texts,
        unique=tuple(dict.fromkeys(texts)),
        odd=dict(candidate.odd.values()),
        base64=_FORMAT in candidate.endpoint.known and candidate.document.get(_FORMAT) == "base64",
    )


_FORMAT: Final = "encoding_format"


# Requests


_KEYED_APART: Final = frozenset({"model", "input"})


def item_keys(text_list: TextList, scope: Scope, fields: Fields) -> dict[str, str]:
    """Return the key of each text, in 64 hexadecimal digits; `fields` are those that Ollama will get.

    The digest stands for the model, however its name is spelled.
    """
    return _of_texts(text_list, item_frame(text_list, scope, fields))


def item_keys_in_steps(text_list: TextList, scope: Scope, fields: Fields) -> Steps[dict[str, str]]:
    """Return likewise the keys of a large list, in steps."""
    return (yield from _of_texts_in_steps(text_list, item_frame(text_list, scope, fields)))


def item_frame(text_list: TextList, scope: Scope, fields: Fields) -> Frame:
    """Return what the keys of all texts of a list have in common."""
    return Frame(scoped("embed-item", scope, fields), orjson.dumps(item_document(text_list.candidate, scope)))


def other_keys(text_list: TextList, scope: Scope, fields: Fields) -> dict[str, str]:
    """Return likewise the keys of items in another form than Ollama's own.

    What another server makes of a field is not known, so all count: the endpoint, the spelling of the model, and the
    encoding among them.
    """
    return _of_texts(text_list, _other_frame(text_list, scope, fields))


def other_keys_in_steps(text_list: TextList, scope: Scope, fields: Fields) -> Steps[dict[str, str]]:
    """Return likewise the keys of a large list, in steps."""
    return (yield from _of_texts_in_steps(text_list, _other_frame(text_list, scope, fields)))


def _other_frame(text_list: TextList, scope: Scope, fields: Fields) -> Frame:
    endpoint, document = text_list.candidate.endpoint, text_list.candidate.document
    without = endpoint.inert | {endpoint.prompt}
    rest = {name: document[name] for name in sorted(document) if name not in without}
    return Frame(scoped(f"embed-item/{endpoint.operation}", scope, fields), orjson.dumps(rest))


def _of_texts(text_list: TextList, frame: Frame) -> dict[str, str]:
    return {text: frame.key(text.encode()) for text in text_list.ordinary}


def _of_texts_in_steps(text_list: TextList, frame: Frame) -> Steps[dict[str, str]]:
    keys: dict[str, str] = {}
    for text in text_list.ordinary:
        keys[text] = frame.key(text.encode())
        if not len(keys) % _KEYS or len(text) > _LONG:
            yield
    return keys


_KEYS: Final = 200
"""Keys that are made in one step, of texts of up to `_LONG` characters."""
_LONG: Final = 8192


def item_document(candidate: Candidate, scope: Scope) -> dict[str, Any]:
    """Return the fields that a vector depends on beside the text, sorted by name, as are the options.

    `EmbeddingsMiddleware` hands on model, input and dimensions only, so for /v1 the other known fields count as absent.
    What else is left out depends on Ollama's version (`silent_options.py`).
    """
    without = _KEYED_APART | candidate.endpoint.inert | candidate.endpoint.unread
    document = candidate.document
    rest = {
        name: document[name]
        for name in sorted(document)
        if name not in without and not _is_default(name, document[name], scope)
    }
    return without_silent(rest, _OPTIONS, scope.version, embedding=True) if _OPTIONS in rest else rest


_OPTIONS: Final = "options"


def _is_default(name: str, value: Any, scope: Scope) -> bool:
    """Return whether a field has its default value. Types count: Ollama refuses `"dimensions": 0.0`."""
    match name:
        case "truncate":
            return value is None or value is True
        case "dimensions":
            return value is None or (type(value) is int and (value == 0 or cuts_nothing(value, scope)))
        case _:
            return False


def cuts_nothing(dimensions: int, scope: Scope) -> bool:
    """Return whether vectors are known to have no more than `dimensions` numbers, so that Ollama leaves them whole.

    `EmbedHandler` (`server/routes.go`) cuts a vector that has more numbers, and only then normalises it once more.
    """
    return scope.width is not None and dimensions >= scope.width and is_looked_up(scope.version)


def _dimensions(candidate: Candidate) -> int | None:
    """Return how many numbers a request wants at most; None where it does not say."""
    dimensions = candidate.document.get("dimensions")
    return dimensions if type(dimensions) is int and dimensions > 0 else None


def may_be_clipped(candidate: Candidate, numbers: int, scope: Scope) -> bool:
    """Return whether a vector with so many numbers may have been shortened, though its key is that of a whole one.

    Ollama tells the width of the model's file, or what its creator set in its place (`info` of /api/create).
    """
    most = _dimensions(candidate)
    return most is not None and numbers >= most and cuts_nothing(most, scope)


def missing(text_list: TextList, known: Mapping[str, Item], *, estimates: bool) -> tuple[str, ...]:
    """Return the unique texts, in order, that have no usable item; odd texts never have one.

    For a list of one, only an item with an exact token count is usable, unless `estimates` are: Ollama's own response
    would have that count. Where Ollama told a width that is too small, an item of its own form may have more numbers
    than are asked for, or may be `clipped`.
    """
    exact, most = len(text_list.texts) == 1 and not estimates, _dimensions(text_list.candidate)
    return tuple(
        text
        for text in text_list.unique
        if (item := known.get(text)) is None
        or (exact and not item.exact)
        or (most is not None and not item.frame and item.numbers > most)
        or (item.clipped and item.numbers != most)
    )


def upstream_body(text_list: TextList, body: bytes, texts: Iterable[str], *, numbers: bool) -> bytes:
    """Return the body that asks Ollama for these texts only; all else stays as it is in the client's `body`.

    `numbers` means to ask for numbers whatever the client wants. Odd texts stay as the client wrote them.
    """
    changes = finish(_changes(text_list, texts, numbers=numbers))
    return raw_members.changed(body, text_list.candidate.endpoint.prompt, changes[0], without=changes[1])


def upstream_body_in_steps(text_list: TextList, body: bytes, texts: Iterable[str], *, numbers: bool) -> Steps[bytes]:
    """Return what `upstream_body` does of a large body, in steps."""
    asked, without = yield from _changes(text_list, texts, numbers=numbers)
    return (yield from raw_members.changed_in_steps(body, text_list.candidate.endpoint.prompt, asked, without=without))


def _changes(text_list: TextList, texts: Iterable[str], *, numbers: bool) -> Steps[tuple[bytes, str | None]]:
    """Return the value of the member with the texts, and the member that is left out."""
    odd, parts, size = text_list.odd, [], 0
    for text in texts:
        parts.append(odd[text] if text in odd else orjson.dumps(text))
        size += len(parts[-1])
        if size > _WRITTEN:
            size = 0
            yield
    without = _FORMAT if numbers and _FORMAT in text_list.candidate.endpoint.known else None
    return b"[%b]" % b",".join(parts), without


_WRITTEN: Final = 1 << 18
"""Bytes of texts that are written in one step."""
