"""Lists in any other JSON form: of servers that speak Ollama's or OpenAI's API, and of proxies that write JSON anew.

What stands beside the vectors is a `frame`: names and constants, and slots for what differs from list to list. A
response that a frame and vectors can express is stored item by item; joined again, it differs from what the upstream
would write in blanks and in the order of names at most. Any other response is stored whole, if at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn, TypeAlias

import orjson

from ollama_cache_proxy.policy.dialects.dialect import Text
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import INT64, base64_numbers, is_base64
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import Steps, finish, joined


@record
class WholeOnly:
    """The response says what no frame can: it may answer its own request only."""


@record
class Uncertain:
    """It is not certain which vector belongs to which text: nothing of the response may be stored."""


Reading: TypeAlias = Cut | WholeOnly | Uncertain

_COUNT, _TOTAL, _LOAD, _ROWS, _VECTOR, _INDEX = "count", "total", "load", "rows", "vector", "index"
_FIGURES: Final = {
    "prompt_eval_count": _COUNT,
    "prompt_tokens": _COUNT,
    "total_tokens": _COUNT,
    "total_duration": _TOTAL,
    "load_duration": _LOAD,
}
"""The slots of the members that hold a figure."""
_TOP: Final = {
    "embeddings": frozenset({"embeddings", "model", "prompt_eval_count", "total_duration", "load_duration"}),
    "data": frozenset({"data", "object", "model", "usage"}),
}
"""The names that a frame can have at the top, by the member with the vectors: that of the endpoint."""
_USAGE: Final = frozenset({"prompt_tokens", "total_tokens"})
_ROW: Final = frozenset({"object", "embedding", "index"})

_MAX_FRAME: Final = 4096
"""Bytes."""
_PARTS: Final = 64
_PARTS_OF_A_ROW: Final = 16
"""How many values a response may have, roughly, vectors counted as one: more are not read."""
_STRING_OR_NUMBERS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|\[[ \t\r\n0-9eE+\-.,]*+\]', re.DOTALL)
"""A string that is not closed reaches to the end, so that nothing is looked at twice."""
_COUNTED: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


class _WholeOnlyError(Exception):
    """See WholeOnly."""


class _UncertainError(Exception):
    """See Uncertain."""


def read(member: str, count: int, body: bytes, media_type: bytes) -> Reading:
    """Return the vectors of a complete 200 response to a request for so many texts, in the order of those.

    They are in `member`. `media_type` is its Content-Type, with all parameters. What is no JSON is `Uncertain`.
    """
    return finish(read_in_steps(member, count, body, media_type))


def read_in_steps(member: str, count: int, body: bytes, media_type: bytes) -> Steps[Reading]:
    """Return what `read` does, in steps."""
    try:
        return (yield from _cut(member, count, body, media_type))
    except _WholeOnlyError:
        return WholeOnly()
    except _UncertainError:
        return Uncertain()


def _cut(member: str, count: int, body: bytes, media_type: bytes) -> Steps[Cut]:
    document, arrays = yield from _parsed(body, count)
    top = _members(document, _TOP[member])
    rows = top.pop(member, None)
    if not isinstance(rows, list) or len(rows) != count or count < 1:
        raise _UncertainError
    row, values = _rows(rows) if member == "data" else (None, rows)
    yield
    vectors, numbers = yield from _vectors(values, arrays)
    figures: dict[str, int] = {}
    frame = {
        "type": media_type.decode("latin-1"),
        "base64": is_base64(vectors[0]),
        "top": {member: _ROWS} | {name: _described(name, value, figures) for name, value in top.items()},
        "row": row,
    }
    try:
        written = orjson.dumps(frame, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:  # a lone surrogate
        raise _WholeOnlyError from error
    if len(written) > _MAX_FRAME:
        raise _WholeOnlyError
    return Cut(
        vectors=vectors,
        numbers=numbers,
        tokens=figures.get(_COUNT),
        total_duration=figures.get(_TOTAL, 0),
        load_duration=figures.get(_LOAD, 0),
        frame=written,
    )


def _parsed(body: bytes, count: int) -> Steps[tuple[Any, list[bytes]]]:
    """Return the response with a list of one number for each list of numbers: its place among those, which follow."""
    brackets = 0
    for begin in range(0, len(body), _SLICE):
        brackets += sum(body.count(bracket, begin, begin + _SLICE) for bracket in (b"{", b"["))
        if brackets > 2 * _PARTS + 2 * _PARTS_OF_A_ROW * count:  # those of vectors, and some in strings
            raise _WholeOnlyError
        yield
    arrays: list[bytes] = []
    rest: list[bytes] = []
    at = size = 0
    for number, found in enumerate(_strings_and_numbers(body)):
        begin, end = found.span()
        if end - begin > _LONGEST:
            raise _WholeOnlyError
        rest.append(body[at:begin])
        if body.startswith(b'"', begin):
            rest.append(body[begin:end])
        else:
            rest.append(b"[%d]" % len(arrays))
            arrays.append(body[begin:end])
        at = end
        size += len(rest[-1]) + len(rest[-2])
        if size > _LARGEST_REST:
            raise _WholeOnlyError
        if not number % _MATCHES or end - begin > _LONG:
            yield
    rest.append(body[at : at + _LARGEST_REST])
    text = b"".join(rest)
    if sum(map(text.count, (b",", b"{", b"["))) > _PARTS + _PARTS_OF_A_ROW * count:
        raise _WholeOnlyError
    yield
    try:
        read = json.loads(
            text.decode(), object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise _UncertainError from error
    yield
    return read, arrays


def _strings_and_numbers(body: bytes) -> Iterator[re.Match[bytes]]:
    """Yield each string and each list of numbers; of one that is too long its beginning, or nothing."""
    quote, bracket = body.find(b'"'), body.find(b"[")
    while quote >= 0 or bracket >= 0:
        begin = min(place for place in (quote, bracket) if place >= 0)
        found = _STRING_OR_NUMBERS.match(body, begin, begin + _LONGEST + 2)
        end = begin + 1 if found is None else found.end()
        if found is not None:
            yield found
        quote = body.find(b'"', end) if 0 <= quote < end else quote
        bracket = body.find(b"[", end) if 0 <= bracket < end else bracket


_SLICE: Final = 1 << 22
"""Bytes in which brackets are counted in one step."""
_LARGEST_REST: Final = 1 << 23
"""Bytes of a response without its lists of numbers: strings, base64 among them, and what is around."""
_LONGEST: Final = 1 << 20
"""Bytes of a string or vector; a response with a longer one is not read."""
_LONG: Final = 1 << 13
_MATCHES: Final = 1000
"""Strings and vectors of up to `_LONG` bytes that are found in one step."""


def _refuse(_text: str) -> NoReturn:
    raise _UncertainError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these members. A name that occurs twice cannot be written again."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _WholeOnlyError
    return found


def _members(value: Any, known: frozenset[str]) -> dict[str, Any]:
    """Return the members of an object all of whose names are known."""
    if not isinstance(value, dict) or not value.keys() <= known:
        raise _WholeOnlyError
    return value


def _described(name: str, value: Any, figures: dict[str, int]) -> Any:
    """Return what a frame says of a member: its slot, a list of its constant value, or a dict of its own members.

    The figures are added to `figures`, by slot.
    """
    if value is None:
        return [None]
    if name == "usage":
        return {within: _described(within, figure, figures) for within, figure in _members(value, _USAGE).items()}
    slot = _FIGURES.get(name)
    if slot is None:
        if type(value) is not str:
            raise _WholeOnlyError
        return [value]
    figure = _figure(value)
    if figures.setdefault(slot, figure) != figure:
        raise _WholeOnlyError
    return slot


def _figure(value: Any) -> int:
    """Return a number that is a count, and written as one."""
    if type(value) is not _Number or _COUNTED.fullmatch(value) is None or int(value) >= INT64:
        raise _WholeOnlyError
    return int(value)


def _rows(rows: list[Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return what the frame says of a row, and the vectors in the order of their texts."""
    read = [_members(row, _ROW) for row in rows]
    names = read[0].keys()
    if any(row.keys() != names for row in read):
        raise _UncertainError if any("index" in row for row in read) else _WholeOnlyError
    if "embedding" not in names:
        raise _UncertainError
    told: dict[str, Any] = {"embedding": _VECTOR}
    if "object" in names:
        told["object"] = _described("object", read[0]["object"], {})
        if any(row["object"] != read[0]["object"] for row in read):
            raise _WholeOnlyError
    if "index" in names:
        told["index"] = _INDEX
        placed = {int(at): row for row in read if type(at := row["index"]) is _Number and _COUNTED.fullmatch(at)}
        if placed.keys() != set(range(len(read))):  # a gap, or a place that occurs twice
            raise _UncertainError
        read = [placed[at] for at in range(len(read))]
    return told, [row["embedding"] for row in read]


def _vectors(values: list[Any], arrays: list[bytes]) -> Steps[tuple[tuple[bytes, ...], int]]:
    """Return the text of each vector, without blanks, and how many numbers each of them has."""
    found: list[tuple[bytes, int]] = []
    for value in values:
        found.append(_vector(value, arrays))
        yield
    sizes = {numbers for _, numbers in found}
    if len(sizes) != 1 or 0 in sizes:
        raise _UncertainError
    vectors = tuple(vector for vector, _ in found)
    if len({is_base64(vector) for vector in vectors}) != 1:
        raise _WholeOnlyError
    return vectors, min(sizes)


def _vector(value: Any, arrays: list[bytes]) -> tuple[bytes, int]:
    if type(value) is str:
        try:
            return b'"%b"' % value.encode(), base64_numbers(value.encode())
        except ValueError as error:
            raise _WholeOnlyError from error
    if not isinstance(value, list) or not value:
        raise _UncertainError
    if len(value) != 1 or type(value[0]) is not _Number:
        raise _WholeOnlyError  # a matrix, or the like
    array = arrays[int(value[0])]
    try:
        numbers = len(orjson.loads(array))
    except orjson.JSONDecodeError as error:
        raise _UncertainError from error
    return array.translate(None, b" \t\r\n"), numbers


# Writing


def media_type(frame: bytes) -> bytes:
    """Return the Content-Type of a frame's responses."""
    told: str = orjson.loads(frame)["type"]
    return told.encode("latin-1")


def render(cut: Cut) -> bytes:
    """Return the response that a cut describes."""
    return finish(rendered_in_steps(cut))


def rendered_in_steps(cut: Cut) -> Steps[bytes]:
    """Return what `render` does, in steps."""
    frame = orjson.loads(cut.frame)
    figures = {_COUNT: cut.tokens or 0, _TOTAL: cut.total_duration, _LOAD: cut.load_duration}
    slots: dict[str, list[Text]] = {slot: [b"%d" % figure] for slot, figure in figures.items()}
    slots[_ROWS] = [b"[", *_written_rows(frame["row"], cut.vectors), b"]"]
    yield
    return (yield from joined(tuple(_written(frame["top"], slots))))


def _written_rows(row: dict[str, Any] | None, vectors: Iterable[Text]) -> Iterable[Text]:
    for place, vector in enumerate(vectors):
        if place:
            yield b","
        if row is None:
            yield vector
        else:
            yield from _written(row, {_VECTOR: [vector], _INDEX: [b"%d" % place]})


def _written(told: Any, slots: dict[str, list[Text]]) -> Iterable[Text]:
    """Yield the JSON of what a frame says, with the slots filled."""
    if isinstance(told, str):
        yield from slots[told]
    elif isinstance(told, list):
        yield orjson.dumps(told[0])
    else:
        for place, name in enumerate(told):
            yield b"%b%b:" % (b"," if place else b"{", orjson.dumps(name))
            yield from _written(told[name], slots)
        yield b"}" if told else b"{}"
