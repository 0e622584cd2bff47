"""Requests that are hits of the fast path in tests of heads: one as a client sends it, one that traces."""

from __future__ import annotations

import json
from typing import Final

from tests.support.heads import beside
from tests.support.rawhttp import request_bytes

_BODY: Final = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
_FIELDS: Final = {"User-Agent": "python-httpx/0.28", "Accept": "*/*", "Connection": "keep-alive"}
KNOWN: Final = request_bytes("POST", "/api/generate", host="localhost", body=_BODY, fields=_FIELDS)
TRACED: Final = beside(KNOWN, b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
