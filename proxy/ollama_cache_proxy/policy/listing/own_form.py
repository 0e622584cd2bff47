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
from typing import Final, TypeAlias

import orjson

from ollama_cache_proxy.policy.dialects.dialect import ListForm, Measures, Text
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.listing import go_floats
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import INT64, base64_numbers, float32, is_base64
from ollama_cache_proxy.policy.steps import Steps, finish, joined

_NUMERALS: Final = b"0123456789-.,e+"
"""The characters with which Go writes a list of numbers."""
_BASE64: Final = b'"embedding":"'


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
    return finish(split_in_steps(text_list, count, body, as_base64=as_base64))


def split_in_steps(text_list: TextList, count: int, body: bytes, *, as_base64: bool) -> Steps[Cut | None]:
    """Return what `split` does, in steps. A vector of over `LONGEST` bytes is not of Ollama's form."""
    places = yield from (_base64_places(body, count) if as_base64 else _places(body, count))
    if not len(places) == count > 0 or any(end - begin > LONGEST for begin, end in places):
        return None
    measures = _measures(text_list, body, places[-1][1])
    if measures is None:
        return None
    if not _is_around(text_list, body, places, measures):
        return None
    yield
    vectors: list[bytes] = []
    sizes: set[int] = set()
    for begin, end in places:
        vector = body[begin:end]
        vectors.append(vector)
        sizes.add(_coded_size(vector) if as_base64 else vector.count(b",") + 1)
        if len(sizes) != 1 or 0 in sizes:
            return None
        yield
    if not as_base64 and not (yield from _as_go_writes(vectors)):
        return None
    return Cut(
        vectors=tuple(vectors),
        numbers=min(sizes),
        tokens=measures.tokens,
        total_duration=measures.total_duration,
        load_duration=measures.load_duration,
    )


LONGEST: Final = 1 << 20
"""Bytes of a vector: some 80,000 numbers."""
_Places: TypeAlias = list[tuple[int, int]]
"""Where vectors begin and end, in bytes."""


def _places(body: bytes, count: int) -> Steps[_Places]:
    """Return where the texts in brackets are that stand inside the first bracket; one more than `count` at most."""
    places: _Places = []
    end = body.find(b"[") + 1
    while len(places) <= count and (begin := body.find(b"[", end)) >= 0:
        end = body.find(b"]", begin) + 1
        places.append((begin, end))
        if not end:
            break
        if not len(places) % _VECTORS:
            yield
    return places


_VECTORS: Final = 64
"""Vectors that are found in one step."""


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


def _as_go_writes(vectors: list[bytes]) -> Steps[bool]:
    """Return whether these are lists of numbers as Go writes float32, as far as their text alone shows quickly.

    Other programs write 0.10, 1e-3 or more digits than a float32 has. Exponents are looked at everywhere, zeros at the
    end in the first `_SHOWING` bytes, and the count of digits in the first numbers.
    """
    for number in vectors[0][1:-1].split(b",", _SAMPLE)[:_SAMPLE]:
        digits = number.partition(b"e")[0].lstrip(b"-").replace(b".", b"").strip(b"0")
        if len(digits) > _MAX_DIGITS:
            return False
    shown = 0
    for vector in vectors:
        if vector.translate(None, _NUMERALS) != b"[]" or _is_of_another(vector, b"e"):
            return False
        if shown < _SHOWING:
            first = vector[: _SHOWING - shown]
            if _is_of_another(first, b"0,") or _is_of_another(first, b"0]"):
                return False
            shown += len(first)
        yield
    return True


def _is_of_another(text: bytes, mark: bytes) -> bool:
    """Return whether one of the numbers that hold a mark is written as Go writes none."""
    return any(_OF_ANOTHER.search(part) for part in _around(text, mark))


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


def _base64_places(body: bytes, count: int) -> Steps[_Places]:
    """Return where the base64 texts are, with their quotes; one more than `count` at most."""
    places: _Places = []
    at = body.find(_BASE64)
    while at >= 0 and len(places) <= count:
        begin = at + len(_BASE64) - 1
        end = body.find(b'"', begin + 1) + 1
        if not end:
            break
        places.append((begin, end))
        at = body.find(_BASE64, end)
        if not len(places) % _VECTORS:
            yield
    return places


def _coded_size(vector: bytes) -> int:
    try:
        return base64_numbers(vector[1:-1])
    except ValueError:
        return 0


def _measures(text_list: TextList, body: bytes, end: int) -> Measures | None:
    """Return what the response tells after its last vector, which ends at `end`."""
    if len(body) - end > _SHOWING:
        return None
    form = _form(text_list)
    try:
        document = orjson.loads(form.begin + body[end:])
        tokens = form.tokens(document)
        total, load = (document.get(duration, 0) for duration in ("total_duration", "load_duration"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if not all(type(number) is int and 0 <= number < INT64 for number in (tokens, total, load)):
        return None
    return Measures(tokens=tokens, total_duration=total, load_duration=load)


_VECTOR: Final = b"\0"
"""Stands for a vector: JSON holds no such byte."""


def _is_around(text_list: TextList, body: bytes, places: _Places, measures: Measures) -> bool:
    """Return whether what stands around the vectors is what Ollama writes there, byte for byte."""
    around = _written(text_list, [_VECTOR] * len(places), measures).split(_VECTOR)
    ends = (0, *(end for _, end in places))
    begins = (*(begin for begin, _ in places), len(body))
    return all(
        end - begin == len(text) and body.startswith(text, begin)
        for text, begin, end in zip(around, ends, begins, strict=True)
    )


# Writing


def render(text_list: TextList, vectors: Iterable[Text], measures: Measures) -> bytes:
    """Return the response with these vectors, one for each text of the list, in the encoding that the client wants."""
    return finish(rendered_in_steps(text_list, vectors, measures))


def rendered_in_steps(text_list: TextList, vectors: Iterable[Text], measures: Measures) -> Steps[bytes]:
    """Return what `render` does, in steps."""
    if not text_list.base64:
        return (yield from joined(_form(text_list).parts(_string(text_list.candidate.model), vectors, measures)))
    coded: dict[int, Text] = {}  # a text that occurs twice has one vector
    given = tuple(vectors)
    for vector in given:
        if id(vector) not in coded:
            coded[id(vector)] = vector if is_base64(vector) else _base64(vector)
            yield
    vectors = [coded[id(vector)] for vector in given]
    return (yield from joined(_form(text_list).parts(_string(text_list.candidate.model), vectors, measures)))


def _written(text_list: TextList, vectors: Iterable[Text], measures: Measures) -> bytes:
    """Return a response as Ollama writes it."""
    return b"".join(_form(text_list).parts(_string(text_list.candidate.model), vectors, measures))


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
