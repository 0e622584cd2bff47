"""Sessions in files: lines of JSON, as the proxy records them, and folders of Ollama's own logs. See docs/agents.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson

from ollama_cache_proxy.workbench.request_logs import is_body, is_lines, request_in
from ollama_cache_proxy.workbench.requests import Request

_CONVERSATIONS = frozenset(
    {"/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"}
)


def read(place: Path) -> list[Request]:
    """Return the requests of a file, or of the files in a folder by name, in order; embeddings are left out.

    Raise OSError, and ValueError where there are none.
    """
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    found = [request for request in _all(files) if isinstance(request, Request) and request.path in _CONVERSATIONS]
    if not found:
        raise ValueError(f"{place}: no requests with prompts")
    return found


def _all(files: Iterable[Path]) -> Iterator[object]:
    for file in files:
        if is_body(file.name):
            yield request_in(file.name, file.read_bytes(), file.name)
        elif is_lines(file.name):
            for number, line in enumerate(file.read_bytes().splitlines(), 1):
                yield request_in(file.name, line, f"{file.name}:{number}")


def line(request: Request) -> bytes:
    """Return the line of a request, as `--record-requests` writes it."""
    row = {"path": request.path, "body": request.body.decode(), "headers": request.headers}
    return orjson.dumps(row) + b"\n"


def for_model(request: Request, model: str) -> Request:
    """Return the request for another model; its bytes are otherwise the same where the name stands there once."""
    body = orjson.loads(request.body)
    old = b'"model":' + orjson.dumps(body.get("model"))
    if request.body.count(old) == 1:
        return replace(request, body=request.body.replace(old, b'"model":' + orjson.dumps(model)))
    return replace(request, body=orjson.dumps({**body, "model": model}))
