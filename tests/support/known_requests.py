"""Requests that are hits of the fast path in tests of heads: one as a client sends it, one that traces, and a stream."""

from __future__ import annotations

import json
from typing import Final

from tests.support.heads import beside
from tests.support.rawhttp import request_bytes

_QUESTION: Final = {"model": "tiny", "prompt": "why"}
_BODY: Final = json.dumps(_QUESTION | {"stream": False}).encode()
_FIELDS: Final = {"User-Agent": "python-httpx/0.28", "Accept": "*/*", "Connection": "keep-alive"}
KNOWN: Final = request_bytes("POST", "/api/generate", host="localhost", body=_BODY, fields=_FIELDS)
TRACED: Final = beside(KNOWN, b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
STREAMED: Final = request_bytes(
    "POST", "/api/generate", host="localhost", body=json.dumps(_QUESTION).encode(), fields=_FIELDS
)
ALL: Final = (KNOWN, TRACED, STREAMED)
SETTINGS: Final = {"cache_streams": True}
"""What makes all of them hits."""
