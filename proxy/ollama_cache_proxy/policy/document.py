"""Reading a request's JSON body only where Go's encoding/json must read the same.

orjson refuses a BOM, lone surrogates, bytes after the value, NaN and invalid UTF-8. It keeps the last of duplicate
names, turns integers past 64 bits into floats and drops the sign of -0, so those are checked here. When in doubt the
result is a `Detail`, and the request is a bypass.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.status import Detail

MAX_DEPTH: Final = 64
"""Levels of nesting."""
MAX_EXACT: Final = 2**53
"""Integers up to this one are exact as float64."""
_MINUS_ZERO: Final = re.compile(rb"[\s:,\[]-0[\s,\]}]")
"""orjson reads an integer, which has no -0; Go reads a float, which has."""
STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
"""A string of valid JSON."""


def read(body: bytes, known: frozenset[str]) -> dict[str, Any] | Detail:
    """Return the object in `body`, or why Ollama might read another one.

    `known` are the names that Ollama reads at the top level, all in lower case.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Detail.NOT_JSON
    structure = STRING.sub(b'"', body) if b"-0" in body and _MINUS_ZERO.search(body) is not None else b""
    return judged(document, known, _texts_in(body), structure)


def judged(document: Any, known: frozenset[str], strings: int, structure: bytes) -> dict[str, Any] | Detail:
    """Return what orjson has read, or why Ollama might read another object.

    `strings` is how many strings the text spells out, `structure` what stands outside of them: it may be empty where
    that has no -0.
    """
    if not isinstance(document, dict):
        return Detail.NOT_AN_OBJECT
    if b"-0" in structure and _MINUS_ZERO.search(structure) is not None:
        return Detail.NUMBER
    texts = _survey(document)
    if isinstance(texts, Detail):
        return texts
    if texts != strings:
        return Detail.DUPLICATE_NAME
    return Detail.AMBIGUOUS_NAME if _ambiguous(document, known) else document


def rewritten(body: bytes) -> tuple[bytes, int] | None:
    """Return JSON as orjson writes what it has read, and how many strings the body spells out.

    Where both are those of a body that `judged` has taken, so is this one, and its object is the same. None is returned
    where that cannot be said: the body is no JSON, may have a -0, or spells out characters by their number, which is no
    matter here but where Ollama compares texts as they are written.
    """
    if b"-0" in body or b"\\u" in body:
        return None
    try:
        return orjson.dumps(orjson.loads(body)), _texts_in(body)
    except (orjson.JSONDecodeError, TypeError):
        return None


def _survey(document: dict[str, Any]) -> int | Detail:
    """Return how many strings are in the tree, names included, or what is wrong with its depth or its numbers."""
    texts = 0
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                texts += len(node)
                items: Any = node.values()
            else:
                items = node
            for item in items:
                kind = type(item)
                if kind is str:
                    texts += 1
                elif kind is dict or kind is list:
                    below.append(item)
                elif (kind is int or kind is float) and not (math.isfinite(item) and -MAX_EXACT <= item <= MAX_EXACT):
                    return Detail.NUMBER
        if not below:
            return texts
        level = below
    return Detail.DEPTH


def _texts_in(body: bytes) -> int:
    """Return how many strings valid JSON spells out. A dropped duplicate makes the tree's count smaller."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return body.count(b'"') // 2


def _ambiguous(document: dict[str, Any], known: frozenset[str]) -> bool:
    """Return whether Go, which folds case, could take one name for another (`STREAM`, `ſtream`, or `a` beside `A`)."""
    seen: set[str] = set()
    for name in document:
        folded = name if name.isascii() and name.islower() else name.casefold()
        if folded in seen or (folded in known and name not in known):
            return True
        seen.add(folded)
    return False
