"""Changing one member of a JSON object and leaving all other bytes as they are, numbers and blanks among them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Final

import orjson

from ollama_cache_proxy.policy.outline import outline
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import Steps

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
    return _changed(body, _members(body.decode("latin-1")), name, value, without)  # a byte for each character


def changed_in_steps(body: bytes, name: str, value: bytes, *, without: str | None = None) -> Steps[bytes]:
    """Return likewise a large object that was changed, in steps."""
    members = yield from _members_in_steps(body)
    return _changed(body, members, name, value, without)


def _changed(body: bytes, members: Iterable[_Member], name: str, value: bytes, without: str | None) -> bytes:
    parts: list[bytes] = []
    at, left_out = 0, False
    for member in members:
        if left_out:  # the comma behind it goes, too
            at, left_out = member.begin, False
        if member.name == without:
            before = body[at : member.begin].rstrip(b" \t\r\n")
            left_out = not before.endswith(b",")
            parts.append(before.removesuffix(b","))
            at = member.end
        elif member.name == name:
            parts += (body[at : member.value], value)
            at = member.end
    return b"".join((*parts, body[at:]))


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


_TOKEN: Final = re.compile(rb'["{}\[\]:,]')
_A_STEP: Final = 10_000
"""Tokens that are looked at in one step."""


def _members_in_steps(body: bytes) -> Steps[list[_Member]]:
    """Return what `_members` yields, by the outline of the body."""
    seen = yield from outline(body, most=math.inf)
    assert seen is not None  # noqa: S101 - for the type checker; it has no bound here
    members: list[_Member] = []
    strings = depth = last = 0
    name = begin = value = 0
    for number, token in enumerate(_TOKEN.finditer(seen.structure)):
        kind = token[0]
        if kind == b'"':
            last = token.start()
            if value == 0:
                name = strings
            strings += 1
        elif kind in b"{[":
            depth += 1
        elif kind in b"}]" and depth > 1:
            depth -= 1
        elif depth == 1:
            at = (seen.place(body, 2 * strings - 1) if strings else 0) + token.start() - last  # in the body
            if kind == b":":
                begin, value = seen.place(body, 2 * name), at + 1
            elif value:
                read = orjson.loads(body[begin : seen.place(body, 2 * name + 1) + 1])
                members.append(_Member(name=read, begin=begin, value=value, end=_before_blanks(body, value, at)))
                value = 0
                yield
        if not number % _A_STEP:
            yield
    return members


def _before_blanks(body: bytes, value: int, at: int) -> int:
    """Return where the value ends that begins at `value`, and is followed by blanks up to `at`."""
    tail = body[max(value, at - _BLANK) : at]
    return at - (len(tail) - len(tail.rstrip(b" \t\r\n")))


_BLANK: Final = 4096
"""Bytes of blanks behind a value that are not counted to it, at most."""


def _behind_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return at if found is None else found.end()
