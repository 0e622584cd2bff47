"""What changes in a place from request to request: a number, a date, an id. Told by two blocks of one place alone."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


class Shape(StrEnum):
    """What a text that changes looks like. `UNKNOWN` until the same place has changed twice."""

    NUMBER = "number"
    TIME = "time"
    DATE = "date"
    ID = "id"
    TEXT = "text"
    MOVED = "moved"
    """Nothing new: what was in front of it is gone, or something was put there."""
    UNKNOWN = "unknown"


_TOKEN: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_:.+-]*")
_KINDS: Final = (
    (
        re.compile(r"\d{4}-\d\d-\d\d[T_ ]?\d\d:\d\d\S*|\d\d?:\d\d(?::\d\d)?\S*|1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?"),
        Shape.TIME,
    ),
    (re.compile(r"\d{4}-\d\d-\d\d|\d\d?\.\d\d?\.\d{4}|\d\d?-\d\d?-\d{4}"), Shape.DATE),
    (re.compile(r"[+-]?\d{1,12}(?:[.,]\d+)?"), Shape.NUMBER),
    (re.compile(r"(?=.*\d)[0-9A-Za-z_-]{5,}(?:[.:][0-9A-Za-z_-]+)*"), Shape.ID),
)
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+\.(.+)")
_DAYS: Final = re.compile(
    r"(?:mon|tues?|wednes|thurs?|fri|satur|sun)(?:day)?|jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?"
    r"|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?",
    re.IGNORECASE,
)


def shape(before: bytes, now: bytes, text: bytes, at: int) -> Shape:
    """Return what differs between two blocks that stood in one place: `now`, at `at` in `text`, and the one before."""
    differs = next((n for n, (one, other) in enumerate(zip(before, now, strict=False)) if one != other), None)
    if differs is None:
        return Shape.UNKNOWN
    begin = max(0, at + differs - _AROUND)
    around = text[begin : at + differs + _AROUND].decode("utf-8", "replace")
    place = len(text[begin : at + differs].decode("utf-8", "replace"))
    token = next((found[0] for found in _TOKEN.finditer(around) if found.end() >= place >= found.start()), "")
    return _kind(token)


_AROUND: Final = 64
"""Bytes around a difference in which a number or an id that is there ends."""


def _kind(text: str) -> Shape:
    text = text.rstrip(".:-+_")
    if _DAYS.fullmatch(text):
        return Shape.DATE
    for pattern, kind in _KINDS:
        if pattern.fullmatch(text):
            return kind
    version = _VERSION.fullmatch(text)
    if version is not None:
        return _kind(version[1])
    return Shape.TEXT
