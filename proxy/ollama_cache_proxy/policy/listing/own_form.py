"""Lists in the form that Ollama writes, byte for byte (`EmbedHandler`, `EmbedWriter`; 0.24 and 0.33): the fast way.

Numbers stay the bytes that Ollama wrote. A response has this form only if its vectors, written again, give the same
bytes. Vectors of this form answer both routes, `/api/embed` and `/v1/embeddings`, and are written as base64 here.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import orjson

from ollama_cache_proxy.policy.dialects.dialect import ListForm, Measures, Text
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.listing import go_floats
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import INT64, base64_numbers, float32, is_base64

_NUMERALS: Final = b"0123456789-.,e+"
"""The characters with which Go writes a list of numbers."""
_BASE64_ROW: Final = re.compile(rb'"embedding":("[A-Za-z0-9+/]+={0,2}")')


def content_type(text_list: TextList) -> bytes:
    """Return the Content-Type of the endpoint's responses."""
    return _form(text_list).content_type


def _form(text_list: TextList) -> ListForm:
    form = text_list.candidate.endpoint.dialect.LISTS
    if form is None:
        raise TypeError("an endpoint with items has a dialect with lists")
    return form


# Reading


def split(text_list: TextList, count: int, body: bytes, *, as_base64: bool = False) -> Cut | None:
    """Return the vectors of Ollama's complete 200 response to a request for so many texts, or None.

    `body` is in the form of the list's endpoint; `as_base64` says that base64 was asked for. None means that it is not
    exactly of the recorded form. Vectors must also be `items.sound` to be stored.
    """
    vectors, end = _base64_vectors(body) if as_base64 else _vectors(body)
    measures = _measures(text_list, body[end:])
    if measures is None or not len(vectors) == count > 0:
        return None
    sizes = {_coded_size(vector) if as_base64 else vector.count(b",") + 1 for vector in vectors}
    if len(sizes) != 1 or 0 in sizes:
        return None
    if not as_base64 and not _as_go_writes(vectors):
        return None
    if _written(text_list, vectors, measures) != body:
        return None
    return Cut(
        vectors=tuple(vectors),
        numbers=min(sizes),
        tokens=measures.tokens,
        total_duration=measures.total_duration,
        load_duration=measures.load_duration,
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


_MANY: Final = 64
"""Numbers; more are searched by one regular expression."""
_SAMPLE: Final = 8
"""Numbers."""
_SHOWING: Final = 1 << 16
"""Bytes: enough for a writer of zeros to show, which a tenth of its numbers have; looking at all takes milliseconds."""
_MAX_DIGITS: Final = 9
"""Significant digits of a float32, at most."""
_OF_ANOTHER: Final = re.compile(
    rb"\.[0-9]*0[,\]e]|(?:^|[\[,-])[0-9]{2,}(?:\.[0-9]*)?e"
    rb"|e-(?:0|[1-6][,\]])|e\+(?:0|[1-9][,\]]|1[0-9][,\]]|20[,\]])"
)
"""What no number has that Go writes: a fraction that ends in 0, an exponent where none is needed."""


def _as_go_writes(vectors: list[bytes]) -> bool:
    """Return whether these are lists of numbers as Go writes float32, as far as their text alone shows quickly.

    Other programs write 0.10, 1e-3 or more digits than a float32 has. Exponents are looked at everywhere, zeros at the
    end in the first `_SHOWING` bytes, and the count of digits in the first numbers.
    """
    together = b"".join(vectors)
    if together.translate(None, _NUMERALS) != b"[]" * len(vectors):
        return False
    for number in vectors[0][1:-1].split(b",", _SAMPLE)[:_SAMPLE]:
        digits = number.partition(b"e")[0].lstrip(b"-").replace(b".", b"").strip(b"0")
        if len(digits) > _MAX_DIGITS:
            return False
    places = ((together, b"e"), (together[:_SHOWING], b"0,"), (together[:_SHOWING], b"0]"))
    return not any(_OF_ANOTHER.search(part) for text, mark in places for part in _around(text, mark))


def _around(text: bytes, mark: bytes) -> Iterator[bytes]:
    """Yield the numbers that hold a mark, each with the character behind it; all of the text where they are many."""
    count = text.count(mark)
    if count > _MANY:
        yield text
        return
    at = -1
    for _ in range(count):
        at = text.find(mark, at + 1)
        begin = max(text.rfind(b",", 0, at), text.rfind(b"[", 0, at)) + 1
        end = at + 1
        while text[end : end + 1] not in (b",", b"]", b""):
            end += 1
        yield text[begin : end + 1]


def _base64_vectors(body: bytes) -> tuple[list[bytes], int]:
    """Return the base64 texts with their quotes, and where the last one ends."""
    found = list(_BASE64_ROW.finditer(body))
    return [match[1] for match in found], found[-1].end() if found else 0


def _coded_size(vector: bytes) -> int:
    try:
        return base64_numbers(vector[1:-1])
    except ValueError:
        return 0


def _measures(text_list: TextList, rest: bytes) -> Measures | None:
    """Return what the response tells after its last vector. Its form is checked by comparing the whole body."""
    form = _form(text_list)
    try:
        document = orjson.loads(form.begin + rest)
        tokens = form.tokens(document)
        total, load = (document.get(duration, 0) for duration in ("total_duration", "load_duration"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if not all(type(number) is int and 0 <= number < INT64 for number in (tokens, total, load)):
        return None
    return Measures(tokens=tokens, total_duration=total, load_duration=load)


# Writing


def render(text_list: TextList, vectors: Iterable[Text], measures: Measures) -> bytes:
    """Return the response with these vectors, one for each text of the list, in the encoding that the client wants."""
    if not text_list.base64:
        return _written(text_list, vectors, measures)
    coded: dict[int, Text] = {}  # a text that occurs twice has one vector
    given = tuple(vectors)
    for vector in given:
        if id(vector) not in coded:
            coded[id(vector)] = vector if is_base64(vector) else _base64(vector)
    return _written(text_list, [coded[id(vector)] for vector in given], measures)


def _written(text_list: TextList, vectors: Iterable[Text], measures: Measures) -> bytes:
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
    return b'"%b"' % base64.b64encode(float32(numbers))


_FEW: Final = 4096
"""Numbers that are written anew; of more, the base64 is stored, which answers base64 only."""


def as_numbers(cut: Cut) -> Cut:
    """Return vectors that came as base64 as numbers, for both routes, unless they are many: it takes a while."""
    if cut.frame or not is_base64(cut.vectors[0]) or cut.numbers * len(cut.vectors) > _FEW:
        return cut
    return replace(cut, vectors=tuple(map(go_floats.numbers, cut.vectors)))
