"""Changing one member of a JSON object and leaving all other bytes as they are, numbers and blanks among them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from ollama_cache_proxy.policy.record import record

_BLANKS: Final = re.compile(r"[ \t\r\n]*")
_VALUE_AT: Final = json.JSONDecoder().raw_decode


@record
class _Member:
    """A member of an object: where its name begins, where its value may begin, and where that has ended."""

    name: str
    begin: int
    value: int
    end: int


def changed(body: bytes, name: str, value: bytes, *, without: str | None = None) -> bytes:
    """Return the object in `body` with another value of one member, which it has, and without another member.

    `body` is valid JSON, but for its texts, which need not be UTF-8; `name` and `without` are ASCII names at the top.
    """
    text, new = body.decode("latin-1"), value.decode("latin-1")  # a byte for each character, also where one is wide
    parts: list[str] = []
    at, left_out = 0, False
    for member in _members(text):
        if left_out:  # the comma behind it goes, too
            at, left_out = member.begin, False
        if member.name == without:
            before = text[at : member.begin].rstrip(" \t\r\n")
            left_out = not before.endswith(",")
            parts.append(before.removesuffix(","))
            at = member.end
        elif member.name == name:
            parts += (text[at : member.value], new)
            at = member.end
    return "".join((*parts, text[at:])).encode("latin-1")


def _members(text: str) -> Iterator[_Member]:
    """Yield the members at the top of the object in `text`."""
    at = _behind_blanks(text, text.index("{") + 1)
    while text[at] != "}":
        name, end = _VALUE_AT(text, at)
        value = _behind_blanks(text, end) + 1
        _, end = _VALUE_AT(text, _behind_blanks(text, value))
        yield _Member(name=name, begin=at, value=value, end=end)
        at = _behind_blanks(text, end)
        if text[at] == ",":
            at = _behind_blanks(text, at + 1)


def _behind_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return at if found is None else found.end()
