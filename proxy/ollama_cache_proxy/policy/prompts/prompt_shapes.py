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


def shape(before: bytes, now: bytes) -> Shape:
    """Return what differs between two blocks that stood in one place."""
    one, other = (block.decode("utf-8", "replace") for block in (before, now))
    found = {_kind(text) for text in _differing(one, other)}
    found.discard(None)
    if len(found) == 1:
        (kind,) = found
        return kind or Shape.UNKNOWN
    if found and found <= {Shape.DATE, Shape.TIME, Shape.NUMBER}:
        return Shape.TIME if Shape.TIME in found else Shape.DATE if Shape.DATE in found else Shape.NUMBER
    return Shape.TEXT if found else Shape.UNKNOWN


def _differing(one: str, other: str) -> list[str]:
    """Return the first token, of both texts, in which they differ; what the end of a block cuts off is left out."""
    first, second = list(_TOKEN.finditer(one)), list(_TOKEN.finditer(other))
    for left, right in zip(first, second, strict=False):
        if left[0] != right[0]:
            return [found[0] for found, text in ((left, one), (right, other)) if found.end() < len(text)] or [
                left[0],
                right[0],
            ]
    return []


def _kind(text: str) -> Shape | None:
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
