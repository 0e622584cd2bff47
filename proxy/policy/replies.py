"""Answers of the proxy's own: errors in the form that Ollama's have, and empty ones."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

import orjson

from proxy.policy.fields import about_cache
from proxy.policy.messages import ResponseHead
from proxy.policy.status import CacheStatus


def reply(status: int, message: str | None, cache: CacheStatus, now: float) -> tuple[ResponseHead, bytes]:
    """Give head and body: `{"error": message}`, or nothing where there is no message. `now` is Unix time."""
    body = b"" if message is None else orjson.dumps({"error": message})
    kind = () if message is None else ((b"Content-Type", b"application/json; charset=utf-8"),)
    lines = (
        *kind,
        (b"Date", formatdate(now, usegmt=True).encode()),
        (b"Content-Length", str(len(body)).encode()),
        *about_cache(cache),
    )
    return ResponseHead(status=status, reason=HTTPStatus(status).phrase, fields=lines), body
