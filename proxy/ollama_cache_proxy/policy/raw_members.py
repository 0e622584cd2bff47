"""Changing one member of a JSON object and leaving all other bytes as they are, numbers and blanks among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import orjson

from ollama_cache_proxy.policy.record import record

_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]')


@record
class _Member:
    """Where a member of an object is: the places of its name, of its value, and behind it."""

    name: str
    begin: int
    value: int
    end: int


def changed(body: bytes, name: str, value: bytes, *, without: str | None = None) -> bytes:
    """Return the object in `body` with another value of one member, which it has, and without another member.

    `body` is valid JSON, but for its texts, which need not be UTF-8; the values of `name` and `without` are at the top.
    """
    parts: list[bytes] = []
    at, left_out = 0, False
    for member in _members(body):
        if member.name == without:
            before = body[at : member.begin].rstrip(b" \t\r\n")
            left_out = not before.endswith(b",")  # then the comma behind it goes
            parts.append(before.removesuffix(b","))
            at = member.end
            continue
        if left_out:
            at, left_out = member.begin, False
        if member.name == name:
            parts += (body[at : member.value], value)
            at = member.end
    return b"".join((*parts, body[at:]))


def _members(body: bytes) -> Iterator[_Member]:
    """Yield the members at the top of the object in `body`."""
    depth, named, value, name = 0, 0, 0, b""
    for token in _TOKEN.finditer(body):
        sign = token[0]
        if sign in b"{[":
            depth += 1
        elif depth == 1 and sign == b":" and not value:
            value = token.end()
        elif depth == 1 and sign in (b",", b"}"):
            if name:
                yield _Member(name=_text(name), begin=named, value=value, end=token.start())
            value, name = 0, b""
            depth -= sign == b"}"
        elif sign in b"}]":
            depth -= 1
        elif depth == 1 and not value:
            name, named = sign, token.start()


def _text(raw: bytes) -> str:
    """Return a name; a name that is no UTF-8 is no name that is looked for."""
    try:
        text: str = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return ""
    return text
