"""The requests of `warm`, read from lines of JSON or made from texts, and their outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.endpoints import REUSABLE

PATHS: Final = frozenset(row.path for row in REUSABLE)
_NAMES: Final = frozenset({"path", "headers", "body"})
_FORM: Final = '{"path": text, "body": object or text, "headers": {name: text}}, headers optional'
_FIELD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KNOWN: Final = re.compile(r"; known=([0-9]+); of=([0-9]+)")
_DETAIL: Final = re.compile(r"; detail=([a-z-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request."""

    origin: str
    """Where it comes from, for messages."""
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1
    """The number of its texts, 1 for a completion."""
    recorded: bool = False
    """Whether somebody sent it once, and it was logged; it may have been wrong then."""


def read(line: bytes, origin: str) -> Request:
    """Return the request in a line. Raise ValueError with a message that quotes no values of the request."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ValueError(f"{origin}: not JSON") from None
    is_object = isinstance(document, dict) and set(document) <= _NAMES
    path, body, headers = map(document.get, ("path", "body", "headers")) if is_object else (None, None, None)
    headers = {} if headers is None else headers
    if not (isinstance(path, str) and isinstance(body, dict | str) and isinstance(headers, dict)):
        raise ValueError(f"{origin}: a line must be {_FORM}")  # noqa: TRY004 - a wrong value, not a wrong type
    if path not in PATHS:
        raise ValueError(f"{origin}: the path must be one of {', '.join(sorted(PATHS))}")
    for name, value in headers.items():
        if not _FIELD.fullmatch(name) or not isinstance(value, str) or not value.isprintable():
            raise ValueError(f"{origin}: {name!r} in the headers must be a name and a text without line breaks")
    sent = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return Request(origin=origin, path=path, body=sent, headers=headers, weight=weight(body))


def weight(body: dict[str, Any] | str) -> int:
    """Return the number of texts in a body, 1 for a completion."""
    texts = body.get("input") if isinstance(body, dict) else None
    return max(1, len(texts)) if isinstance(texts, list) else 1


def embeddings(texts: Iterable[str], model: str, batch: int) -> Iterator[Request]:
    """Yield requests to /api/embed with `batch` texts each; duplicate texts are left out."""
    distinct = list(dict.fromkeys(texts))
    for start in range(0, len(distinct), batch):
        part = distinct[start : start + batch]
        body = orjson.dumps({"model": model, "input": part})
        origin = f"texts {start + 1} to {start + len(part)}"
        yield Request(origin=origin, path="/api/embed", body=body, weight=len(part))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a request, counted in texts."""

    known: int = 0
    """Already stored."""
    asked: int = 0
    """Sent to Ollama, and stored."""
    unkept: int = 0
    """Sent to Ollama, and not stored."""
    failed: int = 0
    skipped: int = 0
    """Not sent, since it would never be stored; or recorded, and refused by Ollama."""
    why: str = ""
    """The reason why something was not stored, was skipped or failed."""


_OK: Final = 200
_LATER: Final = frozenset({"only-if-cached", "no-digest", "dated-template", "buffers-full", "body-timeout"})
"""What a 504 to `only-if-cached` says of a request whose response may be stored."""
_OWN: Final = frozenset({401, 403, 429})
"""Statuses that are no fault of a request."""


def never_stored(cache_status: str) -> str:
    """Return why the response to a request would never be stored, by the Cache-Status of a 504; empty if it may be."""
    detail = _DETAIL.search(cache_status)
    return detail[1] if detail and detail[1] not in _LATER else ""


def outcome(request: Request, status: int, x_cache: str, cache_status: str) -> Outcome:
    """Return what the cache did, by the status and fields of a response (docs/cache-rules.md).

    One that was recorded and that Ollama refuses was wrong already when it was recorded, or its model is gone.
    """
    weight = request.weight
    if status != _OK:
        refused = request.recorded and 400 <= status < 500 and status not in _OWN  # noqa: PLR2004 - RFC 9110, 15.5
        why = f"status {status}"
        return Outcome(skipped=weight, why=why) if refused else Outcome(failed=weight, why=why)
    if x_cache == "HIT":
        return Outcome(known=weight)
    partly = _KNOWN.search(cache_status)
    known = weight * int(partly[1]) // int(partly[2]) if partly else 0
    if "; stored" in cache_status or "; detail=recording" in cache_status:
        return Outcome(known=known, asked=weight - known)
    detail = _DETAIL.search(cache_status)
    return Outcome(known=known, unkept=weight - known, why=detail[1] if detail else "no Cache-Status")


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the sum, with an empty `why`."""
    return Outcome(
        known=sum(one.known for one in outcomes),
        asked=sum(one.asked for one in outcomes),
        unkept=sum(one.unkept for one in outcomes),
        failed=sum(one.failed for one in outcomes),
        skipped=sum(one.skipped for one in outcomes),
    )
