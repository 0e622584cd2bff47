"""Reading a large JSON body in steps, none of which takes long: with the same result as document.py and odd_texts.py.

A body whose outline shows that reading it would take too long is a bypass, but for a list of texts to embed: that is
taken out of the body and read in parts, so that lists of any length in bytes are cached.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, TypeAlias

import orjson

from ollama_cache_proxy.policy import document, odd_texts
from ollama_cache_proxy.policy.odd_texts import OddTexts
from ollama_cache_proxy.policy.outline import MOST, SLICE, Outline, masked, outline
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps

MOST_TEXTS: Final = 1 << 14
"""Texts of a list. At the size of the smallest usual vectors (384 numbers), the response to more is over
`max_list_bytes`, and would not be stored."""
MOST_MEMBERS: Final = 1_000
"""Members at the top, and of the options: each takes long, and they are sorted by name."""
_MOST_ODD: Final = 1 << 16
"""Bytes of an ill-formed text; a list with a longer one is not looked at."""
_MOST_ODD_TOGETHER: Final = 1 << 20
_LISTS: Final = 16
"""Lists of strings that are compared by their length in bytes: those with most strings."""
_TEXTS: Final = re.compile(rb'\[[ \t\r\n]*+"(?:[ \t\r\n]*+,[ \t\r\n]*+")*+[ \t\r\n]*+\]')
"""A list of strings, in the structure of a body."""

Read: TypeAlias = tuple[dict[str, Any], OddTexts] | Detail


@record
class _List:
    """A list of strings in a body."""

    first: int
    """Which string of the body is its first, from 0."""
    count: int
    begin: int
    """Where in the body its first string begins, in bytes."""
    end: int
    """Where its last string ends."""
    between: int
    """How many of its bytes are in no string."""


def read(body: bytes, known: frozenset[str], prompt: str, reserve: Callable[[int], bool]) -> Steps[Read]:
    """Return what `odd_texts.read` does, but `Detail.SLOW_TO_READ` for what would take long.

    `prompt` is the member that may be a list of texts with items, empty where the endpoint has none. `reserve` is asked
    whether there is room for so many bytes of values.
    """
    seen = yield from outline(body)
    if seen is None:
        return Detail.SLOW_TO_READ
    if not (seen.closed and reserve(seen.counts.weight)):
        return Detail.BUFFERS_FULL if seen.closed else Detail.NOT_JSON
    yield
    at_once = seen.nanoseconds(len(body)) <= MOST
    found = _loaded(body) if at_once else _NOTHING
    if found is not _NOTHING:
        yield
        judged = document.judged(found, known, seen.strings, seen.structure)
        return judged if isinstance(judged, Detail) else _bounded((judged, {}), known)
    otherwise = Detail.NOT_JSON if at_once else Detail.SLOW_TO_READ
    return (yield from _with_list(body, seen, known, prompt, otherwise)) if prompt else otherwise


def _loaded(body: bytes) -> Any:
    """Return the value in a body, `_NOTHING` where it is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return _NOTHING


_NOTHING: Final = object()


def _bounded(read: tuple[dict[str, Any], OddTexts], known: frozenset[str]) -> Read:
    """Return what was read, unless it has more members than can be sorted soon."""
    members = read[0]
    options = members.get("options") if "options" in known else None
    most = max(len(members), len(options) if isinstance(options, dict) else 0)
    return Detail.SLOW_TO_READ if most > MOST_MEMBERS else read


def _with_list(body: bytes, seen: Outline, known: frozenset[str], prompt: str, otherwise: Detail) -> Steps[Read]:
    """Return what is in a body whose texts in `prompt` are read in parts; `otherwise` where it has no such list."""
    texts = _longest(body, seen)
    if texts is None:
        return otherwise
    around = body[: texts.begin], body[texts.end :]
    takes = seen.of_bytes(sum(map(len, around)), len(seen.structure) - texts.between)
    if texts.count > MOST_TEXTS or takes > MOST:
        return Detail.SLOW_TO_READ
    yield
    mark = sha256(b"".join(around)).hexdigest()  # no body can spell out what it depends on itself
    found = _loaded((b'"%b"' % mark.encode()).join(around))
    yield
    strings = seen.strings - texts.count + 1
    judged = Detail.NOT_JSON if found is _NOTHING else document.judged(found, known, strings, seen.structure)
    if isinstance(judged, Detail):
        return judged
    if judged.get(prompt) != [mark]:
        return otherwise
    yield
    listed = yield from _texts(body, seen, texts)
    if isinstance(listed, Detail):
        return listed
    judged[prompt], odd = listed
    return _bounded((judged, odd), known)


def _longest(body: bytes, seen: Outline) -> _List | None:
    """Return the list of strings that takes most of a body, among those that have most strings; None without one."""
    structure = seen.structure
    counts = ((match[0].count(b'"'), match.start(), len(match[0])) for match in _TEXTS.finditer(structure))
    found: _List | None = None
    for count, at, between in heapq.nlargest(_LISTS, counts):
        first = structure.count(b'"', 0, at)
        begin, end = seen.place(body, 2 * first), seen.place(body, 2 * (first + count) - 1) + 1
        if found is None or end - begin > found.end - found.begin:
            found = _List(first=first, count=count, begin=begin, end=end, between=between)
    return found


def _borders(seen: Outline, body: bytes, texts: _List) -> list[int]:
    """Return where the parts of a list begin, each about as long as a slice, and where the last one ends."""
    last = 2 * (texts.first + texts.count)
    borders = [texts.begin]
    for quotes in seen.quotes:
        number = quotes + quotes % 2
        if 2 * texts.first < number < last and (at := seen.place(body, number)) > borders[-1]:
            borders.append(at)
    borders.append(texts.end)
    return borders


def _texts(body: bytes, seen: Outline, texts: _List) -> Steps[tuple[list[str], OddTexts] | Detail]:
    """Return the texts of a list, slice by slice, and its ill-formed ones by their places."""
    borders = _borders(seen, body, texts)
    read: list[str] = []
    odd: OddTexts = {}
    size = 0
    for one, other in pairwise(borders):
        part = body[one:other]
        if other != texts.end:
            part = part.rstrip(b" \t\r\n")[:-1]  # a comma
        if seen.of_texts(part) > MOST:
            return Detail.SLOW_TO_READ
        try:
            read += orjson.loads(b"[%b]" % part)
        except orjson.JSONDecodeError:
            for text in _strings(part):
                try:
                    read.append(orjson.loads(text))
                except orjson.JSONDecodeError:
                    size += len(text)
                    mended = None if max(len(text), size - _MOST_ODD_TOGETHER) > _MOST_ODD else odd_texts.mended(text)
                    if mended is None:
                        return Detail.NOT_JSON
                    odd[len(read)] = odd_texts.named(text)
                    read.append(mended)
                if not len(read) % _A_STEP:
                    yield
        yield
    return read, odd


_A_STEP: Final = 1000
"""Texts that are read one by one in a step."""


def _strings(part: bytes) -> list[bytes]:
    """Return the strings of a part of a list, with their quotes."""
    found: list[bytes] = []
    begin = 0
    for number, text in enumerate(masked(part).split(b'"')):
        if number % 2:
            found.append(part[begin - 1 : begin + len(text) + 1])
        begin += len(text) + 1
    return found


assert SLICE > _MOST_ODD  # noqa: S101 - an ill-formed text is looked at in one step
