"""Embeddings item by item: split an answer into items, join items into an answer.

An item is one text's vector. It is found by its own key through either route, `/api/embed` or `/v1/embeddings`, so a
list costs Ollama only the texts that nobody asked for before. Numbers stay the bytes that Ollama wrote. What is cut up
must be exactly of the form that Ollama 0.24 writes (`EmbedHandler`, `EmbedWriter`): the pieces, joined again, must give
the same bytes, or nothing is kept. `/api/embeddings` has no part in this: its vectors are others.
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

_INT64: Final = 2**63


@record
class TextList:
    """A candidate seen as a list of texts.

    `texts` are in the caller's order, duplicates included, and a single string is one text; `unique` holds each once,
    in the order of first appearance. `base64` is true where /v1 asks for `encoding_format` "base64".
    """

    candidate: Candidate
    texts: tuple[str, ...]
    unique: tuple[str, ...]
    base64: bool


@record
class Item:
    """What is kept of one text.

    `vector` is the JSON text of its `numbers` as Ollama wrote it, brackets included; `tokens` its prompt tokens,
    `exact` false where they were apportioned. The durations are in nanoseconds, of the whole request that it came with;
    0 where the answer named none, as those of /v1 do.
    """

    vector: Text
    numbers: int
    tokens: int
    exact: bool
    total_duration: int
    load_duration: int


@record
class Joined:
    """An answer put together. `estimated` says that its token count is a sum with apportioned parts."""

    body: bytes
    estimated: bool


def text_list(candidate: Candidate) -> TextList | None:
    """See a candidate as a list of texts, or give None for an endpoint that has no items."""
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


# What is asked


_KEYED_APART: Final = frozenset({"model", "input"})


def item_keys(text_list: TextList, scope: Scope, fields: Fields) -> dict[str, str]:
    """Return for each text its key in 64 hexadecimal digits. `fields` are those that Ollama will see.

    The digest stands for the model, however it is spelled.
    """
    scoping = scoped("embed-item", scope, text_list.candidate.endpoint, fields)
    frame = Frame(scoping, orjson.dumps(item_document(text_list.candidate)))
    return {text: frame.key(text.encode()) for text in text_list.unique}


def item_document(candidate: Candidate) -> dict[str, Any]:
    """Return what changes a vector beside the text: names sorted at the top level and inside the options.

    `EmbeddingsMiddleware` hands on model, input and dimensions only, so for /v1 the other known fields count as absent.
    """
    without = _KEYED_APART | candidate.endpoint.inert | candidate.endpoint.unread
    document = candidate.document
    rest = {
        name: document[name]
        for name in sorted(document)
        if name not in without and not _is_default(name, document[name])
    }
    if isinstance(options := rest.get("options"), dict):
        rest["options"] = {name: options[name] for name in sorted(options)}
    return rest


def _is_default(name: str, value: Any) -> bool:
    """Return whether a field says what its absence says. Types count: Ollama refuses `"dimensions": 0.0`."""
    match name:
        case "truncate":
            return value is None or value is True
        case "dimensions":
            return value is None or (type(value) is int and value == 0)
        case "options":
            return value is None or value == {}
        case _:
            return False


def missing(text_list: TextList, known: Mapping[str, Item]) -> tuple[str, ...]:
    """Return the unique texts, in order, without an item that may be used.

    A single text is answered only with an exact count, since there the count is Ollama's to the token.
    """
    single = len(text_list.texts) == 1
    return tuple(text for text in text_list.unique if (item := known.get(text)) is None or (single and not item.exact))


def upstream_body(text_list: TextList, texts: tuple[str, ...]) -> bytes:
    """Return the request that asks Ollama for these texts only, as numbers: the caller's document, its order kept."""
    endpoint, document = text_list.candidate.endpoint, text_list.candidate.document
    without = _FORMAT if _FORMAT in endpoint.known else None
    kept = {name: value for name, value in document.items() if name != without}
    return orjson.dumps(kept | {endpoint.prompt: texts})


# Splitting


_NUMERALS: Final = b"0123456789-.,e+"
"""What Go writes a list of numbers with."""


def split(text_list: TextList, texts: tuple[str, ...], body: bytes) -> tuple[Item, ...] | None:
    """Cut Ollama's complete 200 answer to a request for `texts` into one item for each, or None.

    `body` is in the form of the list's route, with numbers and not base64. None means that it is not exactly of the
    recorded form, and then nothing of it may be joined. What may be kept is `sound` besides.
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
    """Return what stands in brackets inside the first one, and where the last of it ends."""
    vectors, end = [], body.find(b"[") + 1
    while (begin := body.find(b"[", end)) >= 0:
        end = body.find(b"]", begin) + 1
        vectors.append(body[begin:end])
        if not end:
            break
    return vectors, end


def _measures(text_list: TextList, rest: bytes) -> Measures | None:
    """Read what stands behind the last vector; the comparison with the whole body judges its form."""
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

    This takes longer than all else: who only hands on what Ollama said can look afterwards.
    """
    try:
        return all(len(_float32(orjson.loads(item.vector))) == item.numbers * 4 for item in items)
    except (orjson.JSONDecodeError, struct.error, OverflowError):
        return False


def _apportioned(tokens: int, texts: tuple[str, ...]) -> list[int]:
    """Share out the tokens by the texts' lengths in characters, so that none is free where there are enough."""
    counts = _shared(tokens, texts)
    if 0 in counts and tokens >= len(texts):
        return [count + 1 for count in _shared(tokens - len(texts), texts)]
    return counts


def _shared(tokens: int, texts: tuple[str, ...]) -> list[int]:
    """Share by length: largest remainders first, then the earlier text."""
    whole = sum(map(len, texts))
    shares = [divmod(tokens * len(text), whole) for text in texts]
    counts = [share for share, _ in shares]
    order = sorted(range(len(texts)), key=lambda place: -shares[place][1])
    for place in order[: tokens - sum(counts)]:
        counts[place] += 1
    return counts


def same_length(items: Iterable[Item]) -> bool:
    """Return whether vectors have as many numbers each: those of one model have."""
    return len({item.numbers for item in items}) <= 1


# Joining


_ROW_BYTES: Final = 64
"""What stands around a vector in an answer, in bytes, at most."""


def joined_size(text_list: TextList, items: Mapping[str, Item]) -> int:
    """Return about how many bytes a joined answer has, known before it is built: one text may stand there very often."""
    sizes = {text: len(item.vector) + _ROW_BYTES for text, item in items.items()}
    return sum(sizes[text] for text in text_list.texts)


def join(text_list: TextList, items: Mapping[str, Item], *, durations: tuple[int, int] | None = None) -> Joined:
    """Render the answer for the caller's texts, in the form of the caller's route.

    There must be an item for every text. `durations` are the total and the load time of the upstream part in
    nanoseconds; without one, the answer tells those of the first text's item.
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
    """Write a JSON string as Go's encoding/json does, which is orjson's way but for what HTML would misread."""
    written = orjson.dumps(text)
    for plain, escaped in _ESCAPES:
        written = written.replace(plain, escaped)
    return written


def _as_it_is(vector: Text) -> Text:
    return vector


_MISREAD_PARTS: Final = (b"-0,", b"-0]", b"7.038531e-26")
_MISREAD: Final = {
    b"-0": -0.0,  # orjson reads an integer, which has no sign
    b"7.038531e-26": struct.unpack(">f", b"\x15\xae\x43\xfd")[0],  # the float32 that a way through float64 misses
    b"-7.038531e-26": struct.unpack(">f", b"\x95\xae\x43\xfd")[0],
}


def _base64(vector: Text) -> Text:
    """Write a vector as `floatsToBase64` does: a JSON string with the base64 of little-endian float32."""
    text = bytes(vector)
    numbers: list[float] = orjson.loads(text)
    if any(mark in text for mark in _MISREAD_PARTS):
        texts = text[1:-1].split(b",")
        numbers = [_MISREAD.get(text, number) for text, number in zip(texts, numbers, strict=True)]
    return b'"%b"' % base64.b64encode(_float32(numbers))


def _float32(numbers: list[float]) -> bytes:
    """Pack numbers as little-endian float32; OverflowError says that one is out of range."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


# Keeping

_ITEM_HEAD: Final = re.compile(
    rb"item/3 ([1-9][0-9]{0,8}) (0|[1-9][0-9]{0,18}) (exact|share) (0|[1-9][0-9]{0,18}) (0|[1-9][0-9]{0,18}) "
)


def encode(item: Item) -> bytes:
    """Write an item for the body of a store entry: form, numbers, tokens, how they are known, durations, vector."""
    known = b"exact" if item.exact else b"share"
    head = (item.numbers, item.tokens, known, item.total_duration, item.load_duration)
    return b"".join((b"item/3 %d %d %b %d %d " % head, item.vector))


def decode(data: bytes) -> Item | None:
    """Read what `encode` wrote, or give None for what begins as something else.

    What a vector is was looked at then: that no byte has changed since is for stores/entry_codec.py to know.
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
