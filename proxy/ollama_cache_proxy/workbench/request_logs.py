"""The requests in a folder of logs: Ollama's own, or lines that the proxy has recorded.

Ollama writes such a folder with OLLAMA_DEBUG_LOG_REQUESTS (`server/inference_request_log.go`, the same from 0.18.3 to
0.34.3): `ollama-request-logs-…` in the folder for temporary files, with two files for each request, once its response
has ended, named by time, number and endpoint. `…_body.json` is the body as it came, whatever it was and whatever became
of it; `…_request.sh` is a call of curl that sends it again. Fields are not logged, and embeddings are not either.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.endpoints import REUSABLE
from ollama_cache_proxy.policy.reason import Reason
from ollama_cache_proxy.workbench.requests import Request, read, weight

_BODY: Final = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{9}Z-[0-9]{6,20}_([A-Za-z0-9_]{1,100})_body\.json")
_REPLAY: Final = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{9}Z-[0-9]{6,20}_[A-Za-z0-9_]{1,100}_request\.sh")
_LINES: Final = ".jsonl"
_PATHS: Final[Mapping[str, str]] = {
    re.sub(r"[^A-Za-z0-9]", "_", row.path[1:]): row.path for row in REUSABLE if not row.multipart
}
"""The paths of endpoints that can be cached, by what Ollama writes of them into names of files."""


class LeftOut(Reason):
    """Why something in a folder is not sent, with its `meaning`."""

    DUPLICATE = "duplicate", "the same request again"
    CUT_OFF = "cut-off", "not whole JSON: cut off, empty, or still being written"
    NO_REQUEST = "no-request", "JSON, but not a request"
    NOT_CACHED = "not-cached", "for an endpoint that is never cached"
    TOO_LARGE = "too-large", "larger than max_request_bytes"
    FOREIGN = "foreign", "not a file of requests by its name or kind; links are not followed"
    UNREADABLE = "unreadable", "could not be read"
    OLDER = "older", "older than the newest 100,000"
    CHANGED = "changed", "changed or gone since it was found"


def is_lines(name: str) -> bool:
    """Return whether a file of this name holds requests as lines of JSON."""
    return name.endswith(_LINES) and not name.startswith(".")


def is_replay(name: str) -> bool:
    """Return whether a file of this name is Ollama's call of curl, which says nothing that its body does not."""
    return _REPLAY.fullmatch(name) is not None


def is_body(name: str) -> bool:
    """Return whether a file of this name is a body that Ollama has logged."""
    return _BODY.fullmatch(name) is not None


def request_in(name: str, data: bytes, origin: str) -> Request | LeftOut:
    """Return the request in a body that Ollama has logged, or in one line of JSON.

    `name` is that of the file, `origin` is for messages.
    """
    document = _object(data)
    if isinstance(document, LeftOut):
        return document
    match = _BODY.fullmatch(name)
    if match is None:
        return _in_line(data, document.get("path"), origin)
    path = _PATHS.get(match[1])
    if path is None:
        return LeftOut.NOT_CACHED
    return Request(origin=origin, path=path, body=data, weight=weight(document), recorded=True)


def _in_line(line: bytes, path: Any, origin: str) -> Request | LeftOut:
    if path not in _PATHS.values():
        return LeftOut.NOT_CACHED if isinstance(path, str) else LeftOut.NO_REQUEST
    try:
        request = read(line, origin)
    except ValueError:
        return LeftOut.NO_REQUEST
    body = _object(request.body)
    return body if isinstance(body, LeftOut) else replace(request, weight=weight(body), recorded=True)


def _object(data: bytes) -> dict[str, Any] | LeftOut:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return LeftOut.CUT_OFF
    return document if isinstance(document, dict) else LeftOut.NO_REQUEST


def fingerprint(request: Request) -> bytes:
    """Return 16 bytes by which equal requests are found."""
    parts = [request.path, sorted((name.lower(), value) for name, value in request.headers.items())]
    return hashlib.blake2b(orjson.dumps(parts) + request.body, digest_size=16).digest()
