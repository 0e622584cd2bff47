"""Responses of the proxy's own: errors, empty ones, and those of the admin routes."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import orjson

from ollama_cache_proxy.policy.fields import about_cache
from ollama_cache_proxy.policy.messages import Fields, ResponseHead
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import CacheStatus

JSON: Final = "application/json; charset=utf-8"


@record
class Reply:
    """The response of an admin route; `kind` is its Content-Type."""

    status: int = 200
    body: bytes
    kind: str = JSON
    fields: Fields = ()


def json(document: object, status: int = 200, fields: Fields = ()) -> Reply:
    """Return a JSON response."""
    return Reply(status=status, body=orjson.dumps(document), fields=fields)


def error(status: int, text: str, fields: Fields = ()) -> Reply:
    """Return an error with one line of text, as JSON."""
    return json({"error": text}, status, fields)


def head(reply: Reply, now: float) -> ResponseHead:
    """Return the head of an admin route's response; `now` is Unix time in seconds."""
    length = (b"Content-Length", str(len(reply.body)).encode())
    return stream_head(reply.kind, now, (length, *reply.fields), reply.status)


def stream_head(kind: str, now: float, fields: Fields, status: int = 200) -> ResponseHead:
    """Return a head without a Content-Length, unless it is among `fields`; `now` is Unix time in seconds."""
    lines = (
        (b"Content-Type", kind.encode()),
        (b"Date", formatdate(now, usegmt=True).encode()),
        (b"Cache-Control", b"no-store"),
        *fields,
    )
    return ResponseHead(status=status, reason=HTTPStatus(status).phrase, fields=lines)


def reply(status: int, body: bytes, cache: CacheStatus, now: float, fields: Fields = ()) -> tuple[ResponseHead, bytes]:
    """Return head and body of an error: JSON, or an empty body; `now` is Unix time in seconds."""
    kind = ((b"Content-Type", JSON.encode()),) if body else ()
    lines = (
        *kind,
        (b"Date", formatdate(now, usegmt=True).encode()),
        (b"Content-Length", str(len(body)).encode()),
        *fields,
        *about_cache(cache),
    )
    return ResponseHead(status=status, reason=HTTPStatus(status).phrase, fields=lines), body
