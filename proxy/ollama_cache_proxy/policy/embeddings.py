"""Embeddings item by item: split a response into items, join items into a response.

An item is the vector of one text. It has a key of its own, the same for both endpoints, `/api/embed` and
`/v1/embeddings`, so a list costs Ollama only the texts that are new. Numbers stay the bytes that Ollama wrote. A
response is split only if it has exactly the form that Ollama 0.24 writes (`EmbedHandler`, `EmbedWriter`): its items,
joined again, must give the same bytes, or nothing is stored. `/api/embeddings` has no items: its vectors differ.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.dialects.dialect import ListForm, Measures, Text
from ollama_cache_proxy.policy.key import Frame, Scope, scoped
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.silent_options import is_looked_up, without_silent

_INT64: Final = 2**63


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


@record
class Item:
    """What is stored of one text."""

    vector: Text
    """JSON as Ollama wrote it, brackets included."""
    numbers: int
    """How many numbers the vector has."""
    tokens: int
    """Prompt tokens."""
    exact: bool
    """Whether Ollama counted the tokens for this text alone; else they are apportioned."""
    total_duration: int
    """Nanoseconds, of the whole request that the item came with; 0 where the response told none, as in /v1."""
    load_duration: int
    """Likewise."""


@record
class Joined:
    """A joined response."""

    body: bytes
    estimated: bool
    """Whether its token count is partly apportioned."""


def text_list(candidate: Candidate) -> TextList | None:
    """Return a candidate as a list of texts; None for an endpoint without items."""
    if not candidate.endpoint.items:
        return None
    given = candidate.document[candidate.endpoint.prompt]
    texts = (given,) if isinstance(given, str) else tuple(given)
    return TextList(
        candidate=candidate,
        texts=texts,
        unique=tuple(dict.fromkeys(texts)),
        base64=_FORMAT in candidate.endpoint.known and candidate.document.get(_FORMAT) == "base64",
    )


_FORMAT: Final = "encoding_format"


def content_type(text_list: TextList) -> bytes:
    """Return the Content-Type of the endpoint's responses."""
    return _form(text_list).content_type


def _form(text_list: TextList) -> ListForm:
    form = text_list.candidate.endpoint.dialect.LISTS
    if form is None:
        raise TypeError("an endpoint with items has a dialect with lists")
    return form


# Requests


_KEYED_APART: Final = frozenset({"model", "input"})


def item_keys(text_list: TextList, scope: Scope, fields: Fields) -> dict[str, str]:
    """Return the key of each text, in 64 hexadecimal digits; `fields` are those that Ollama will get.

    The digest stands for the model, however its name is spelled.
    """
    scoping = scoped("embed-item", scope, fields)
    frame = Frame(scoping, orjson.dumps(item_document(text_list.candidate, scope)))
    return {text: frame.key(text.encode()) for text in text_list.unique}


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


def is_wider_than_told(candidate: Candidate, items: Iterable[Item], scope: Scope) -> bool:
    """Return whether vectors have more numbers than Ollama told, so that `dimensions` may have cut them after all."""
    most = _dimensions(candidate)
    if most is None or most == scope.width or not cuts_nothing(most, scope):
        return False
    return any(item.numbers >= most for item in items)


def missing(text_list: TextList, known: Mapping[str, Item]) -> tuple[str, ...]:
    """Return the unique texts, in order, that have no usable item.

    For a list of one, only an item with an exact token count is usable: Ollama's own response would have that count.
    Where fewer numbers are asked for than an item has, the width that Ollama told was wrong, and it is not usable.
    """
    single, most = len(text_list.texts) == 1, _dimensions(text_list.candidate)
    return tuple(
        text
        for text in text_list.unique
        if (item := known.get(text)) is None
        or (single and not item.exact)
        or (most is not None and item.numbers > most)
    )


def upstream_body(text_list: TextList, texts: tuple[str, ...]) -> bytes:
    """Return the body that asks Ollama for these texts only, as numbers; else it is the client's, in its order."""
    endpoint, document = text_list.candidate.endpoint, text_list.candidate.document
    without = _FORMAT if _FORMAT in endpoint.known else None
    fields = {name: value for name, value in document.items() if name != without}
    return orjson.dumps(fields | {endpoint.prompt: texts})


# Splitting


_NUMERALS: Final = b"0123456789-.,e+"
"""The characters with which Go writes a list of numbers."""


def split(text_list: TextList, texts: tuple[str, ...], body: bytes) -> tuple[Item, ...] | None:
    """Return one item for each of `texts`, from Ollama's complete 200 response to a request for them, or None.

    `body` is in the form of the list's endpoint, with numbers and not base64. None means that it is not exactly of the
    recorded form: then nothing of it may be joined. Items must also be `sound` to be stored.
    """
    vectors, end = _vectors(body)
    measures = _measures(text_list, body[end:])
    if measures is None or not len(vectors) == len(texts) > 0:
        return None
    commas = {vector.count(b",") for vector in vectors}
    if len(commas) != 1 or b"".join(vectors).translate(None, _NUMERALS) != b"[]" * len(vectors):
        return None
    if _rendered(text_list, vectors, measures) != body:
        return None
    return tuple(
        Item(
            vector=vector,
            numbers=min(commas) + 1,
            tokens=tokens,
            exact=len(texts) == 1,
            total_duration=measures.total_duration,
            load_duration=measures.load_duration,
        )
        for vector, tokens in zip(vectors, _apportioned(measures.tokens, texts), strict=True)
    )


def _vectors(body: bytes) -> tuple[list[bytes], int]:
    """Return the texts in brackets inside the first bracket, and where the last one ends."""
    vectors, end = [], body.find(b"[") + 1
    while (begin := body.find(b"[", end)) >= 0:
        end = body.find(b"]", begin) + 1
        vectors.append(body[begin:end])
        if not end:
            break
    return vectors, end


def _measures(text_list: TextList, rest: bytes) -> Measures | None:
    """Return what the response tells after its last vector. Its form is checked by comparing the whole body."""
    form = _form(text_list)
    try:
        document = orjson.loads(form.begin + rest)
        tokens = form.tokens(document)
        total, load = (document.get(duration, 0) for duration in ("total_duration", "load_duration"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if not all(type(number) is int and 0 <= number < _INT64 for number in (tokens, total, load)):
        return None
    return Measures(tokens=tokens, total_duration=total, load_duration=load)


def sound(items: Iterable[Item]) -> bool:
    """Return whether every vector is JSON of numbers within the range of Go's float32, none of them missing.

    This takes longer than all else; where a response is only relayed, it can be checked afterwards.
    """
    try:
        return all(len(_float32(orjson.loads(item.vector))) == item.numbers * 4 for item in items)
    except (orjson.JSONDecodeError, struct.error, OverflowError):
        return False


def _apportioned(tokens: int, texts: tuple[str, ...]) -> list[int]:
    """Return the tokens of each text, by length in characters; no text gets 0 where there are enough."""
    counts = _shared(tokens, texts)
    if 0 in counts and tokens >= len(texts):
        return [count + 1 for count in _shared(tokens - len(texts), texts)]
    return counts


def _shared(tokens: int, texts: tuple[str, ...]) -> list[int]:
    """Return shares by length: the largest remainders get one more, the earlier text first."""
    whole = sum(map(len, texts))
    shares = [divmod(tokens * len(text), whole) for text in texts]
    counts = [share for share, _ in shares]
    order = sorted(range(len(texts)), key=lambda place: -shares[place][1])
    for place in order[: tokens - sum(counts)]:
        counts[place] += 1
    return counts


def same_length(items: Iterable[Item]) -> bool:
    """Return whether all vectors have the same length, as those of one model have."""
    return len({item.numbers for item in items}) <= 1


# Joining


_ROW_BYTES: Final = 64
"""Bytes around one vector in a response, at most."""


def joined_size(text_list: TextList, items: Mapping[str, Item]) -> int:
    """Return about how many bytes the joined response has, before it is built: a text may occur very often."""
    sizes = {text: len(item.vector) + _ROW_BYTES for text, item in items.items()}
    return sum(sizes[text] for text in text_list.texts)


def join(text_list: TextList, items: Mapping[str, Item], *, durations: tuple[int, int] | None = None) -> Joined:
    """Return the response for the client's texts, in the form of the client's endpoint.

    There must be an item for every text. `durations` are the total and the load time of the request to Ollama, in
    nanoseconds; without such a request, the response tells those of the first text's item.
    """
    first = items[text_list.texts[0]]
    total, load = durations or (first.total_duration, first.load_duration)
    form = _base64 if text_list.base64 else _as_it_is
    vectors = {text: form(items[text].vector) for text in text_list.unique}
    measures = Measures(
        tokens=sum(items[text].tokens for text in text_list.texts), total_duration=total, load_duration=load
    )
    return Joined(
        body=_rendered(text_list, (vectors[text] for text in text_list.texts), measures),
        estimated=not all(items[text].exact for text in text_list.unique),
    )


def _rendered(text_list: TextList, vectors: Iterable[Text], measures: Measures) -> bytes:
    """Return a response as Ollama writes it."""
    return _form(text_list).rendered(_string(text_list.candidate.model), vectors, measures)


_ESCAPES: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def _string(text: str) -> bytes:
    """Return a JSON string as Go's encoding/json writes it, which also escapes what HTML would misread."""
    written = orjson.dumps(text)
    for plain, escaped in _ESCAPES:
        written = written.replace(plain, escaped)
    return written


def _as_it_is(vector: Text) -> Text:
    return vector


_MISREAD_PARTS: Final = (b"-0,", b"-0]", b"7.038531e-26")
_MISREAD: Final = {
    b"-0": -0.0,  # orjson reads an integer, which has no sign
    b"7.038531e-26": struct.unpack(">f", b"\x15\xae\x43\xfd")[0],  # the float32 that rounding through float64 misses
    b"-7.038531e-26": struct.unpack(">f", b"\x95\xae\x43\xfd")[0],
}


def _base64(vector: Text) -> Text:
    """Return a vector as `floatsToBase64` writes it: a JSON string with the base64 of little-endian float32."""
    text = bytes(vector)
    numbers: list[float] = orjson.loads(text)
    if any(mark in text for mark in _MISREAD_PARTS):
        texts = text[1:-1].split(b",")
        numbers = [_MISREAD.get(text, number) for text, number in zip(texts, numbers, strict=True)]
    return b'"%b"' % base64.b64encode(_float32(numbers))


def _float32(numbers: list[float]) -> bytes:
    """Return numbers as little-endian float32; raises OverflowError where one is out of range."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


# Storing

_ITEM_HEAD: Final = re.compile(
    rb"item/3 ([1-9][0-9]{0,8}) (0|[1-9][0-9]{0,18}) (exact|share) (0|[1-9][0-9]{0,18}) (0|[1-9][0-9]{0,18}) "
)


def encode(item: Item) -> bytes:
    """Return the body of an item's entry: form, numbers, tokens, whether they are exact, durations, vector."""
    counted = b"exact" if item.exact else b"share"
    head = (item.numbers, item.tokens, counted, item.total_duration, item.load_duration)
    return b"".join((b"item/3 %d %d %b %d %d " % head, item.vector))


def decode(data: bytes) -> Item | None:
    """Return the item that `encode` wrote, None for a body that begins otherwise.

    The vector was checked before it was stored, and stores/entry_codec.py checks that no byte has changed since.
    """
    found = _ITEM_HEAD.match(data)
    if found is None:
        return None
    numbers, tokens, total, load = (int(found[group]) for group in (1, 2, 4, 5))
    begin = found.end()
    if max(tokens, total, load) >= _INT64 or not (data.startswith(b"[", begin) and data.endswith(b"]")):
        return None
    return Item(
        vector=memoryview(data)[begin:],
        numbers=numbers,
        tokens=tokens,
        exact=found[3] == b"exact",
        total_duration=total,
        load_duration=load,
    )
