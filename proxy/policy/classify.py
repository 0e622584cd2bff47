"""Whether a request may be answered from the cache: a `Candidate`, or a `Bypass` with its one reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from proxy.policy import document, names
from proxy.policy.endpoints import Endpoint, Kind, Reuse
from proxy.policy.messages import Fields, Request
from proxy.policy.reuse import Directives
from proxy.policy.status import Detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A request that the cache may answer. `items` counts the vectors that an embeddings answer must hold."""

    endpoint: Endpoint
    model: str
    document: dict[str, Any]
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """A request that is passed on as it came. `model` is its model's name where it was understood, else empty."""

    detail: Detail
    model: str = ""


Classification: TypeAlias = Candidate | Bypass

_DURATION: Final = re.compile(
    r"[+-]?(?:0|(?:(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:ns|us|µs|μs|ms|s|m|h)){1,8})"
)
_PARTS: Final = re.compile(r"([0-9]*)\.?([0-9]*)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_INT64: Final = 2**63


def by_head(endpoint: Endpoint, request: Request, wishes: Directives, *, exact: bool) -> Bypass | None:
    """Give the reason to pass the request on that shows before its body is read, or None."""
    detail = _head_detail(endpoint, request.fields, wishes, exact=exact)
    return None if detail is None else Bypass(detail=detail)


_BARRED: Final = {
    b"content-encoding": Detail.CONTENT_ENCODING,
    b"range": Detail.RANGE,
    b"cookie": Detail.COOKIE,
}


def _head_detail(endpoint: Endpoint, fields: Fields, wishes: Directives, *, exact: bool) -> Detail | None:
    if endpoint.reuse is Reuse.NEVER:
        return Detail.ENDPOINT
    if endpoint.reuse is Reuse.OPT_IN:
        return Detail.OPT_IN
    if not exact:
        return Detail.SPELLING
    for name, _ in fields:
        detail = _BARRED.get(name.lower())
        if detail is not None:
            return detail
    return Detail.NO_STORE if wishes.no_store else None


def by_body(endpoint: Endpoint, body: bytes) -> Classification:
    """Classify a request whose head allows reuse, by its whole body."""
    read = document.read(body, endpoint.known)
    if isinstance(read, Detail):
        return Bypass(detail=read)
    model = read.get("model")
    if not isinstance(model, str) or not model:
        return Bypass(detail=Detail.NO_MODEL)
    if names.is_remote(model):
        return Bypass(detail=Detail.REMOTE_MODEL, model=model)
    items = _items(endpoint, read)
    if isinstance(items, Detail):
        return Bypass(detail=items, model=model)
    detail = _streaming(endpoint, read) or _inert(endpoint, read) or _raw(read, body)
    if detail is not None:
        return Bypass(detail=detail, model=model)
    return Candidate(endpoint=endpoint, model=model, document=read, items=items)


def _streaming(endpoint: Endpoint, body: dict[str, Any]) -> Detail | None:
    """Give a reason where no whole answer is asked for; `null` is the default, a string is Ollama's to refuse."""
    if endpoint.stream_default is None:
        return None
    stream = body.get("stream")
    if stream is None:
        return Detail.STREAM if endpoint.stream_default else None
    if not isinstance(stream, bool):
        return Detail.FIELD_TYPE
    return Detail.STREAM if stream else None


def _items(endpoint: Endpoint, body: dict[str, Any]) -> int | Detail:
    """Count the answers asked for; an absent or empty prompt is a command to load or unload, not a question."""
    prompt = body.get(endpoint.prompt)
    if isinstance(prompt, str):
        return 1 if prompt else Detail.NO_PROMPT
    if endpoint.prompt == "input" and isinstance(prompt, list):
        if not prompt:
            return Detail.NO_PROMPT
        if all(type(item) is str and item for item in prompt):
            return len(prompt)
        return Detail.FIELD_TYPE
    return Detail.NO_PROMPT if prompt is None else Detail.FIELD_TYPE


def _inert(endpoint: Endpoint, body: dict[str, Any]) -> Detail | None:
    """A field that is left out of the key must be valid, or Ollama has to say what is wrong with it."""
    if "keep_alive" in endpoint.inert and not _keeps(body.get("keep_alive")):
        return Detail.KEEP_ALIVE
    if "encoding_format" in endpoint.known and body.get("encoding_format") not in (None, "", "float", "base64"):
        return Detail.ENCODING_FORMAT
    return None


_ESCAPED: Final = re.compile(rb"\\u00(?:6[aAeEfF]|73)")


def _raw(document: dict[str, Any], body: bytes) -> Detail | None:
    """Ollama compares a `format` of text byte for byte, so "json" spelled with escapes is another one."""
    if isinstance(document.get("format"), str) and _ESCAPED.search(body) is not None:
        return Detail.FIELD_TYPE
    return None


def _keeps(keep_alive: object) -> bool:
    """Whether `keep_alive` is valid and no command to unload: null, a number other than 0, or a Go duration."""
    if keep_alive is None:
        return True
    if isinstance(keep_alive, bool):
        return False
    if isinstance(keep_alive, int | float):
        return keep_alive < 0 or 1 <= keep_alive * 1e9 < _INT64
    return isinstance(keep_alive, str) and 0 < _nanoseconds(keep_alive) < _INT64


def _nanoseconds(duration: str) -> int:
    """Give the size of a Go duration (`time.ParseDuration`), fractions of a nanosecond cut off; 0 for no duration."""
    if _DURATION.fullmatch(duration) is None:
        return 0
    return sum(
        int(whole or 0) * (unit := _NANOSECONDS[name]) + int(part or 0) * unit // 10 ** len(part)
        for whole, part, name in _PARTS.findall(duration)
    )


def is_embedding(endpoint: Endpoint) -> bool:
    """Whether the endpoint answers with vectors: another lifetime, another limit, and worth finishing unasked."""
    return endpoint.kind is Kind.EMBEDDING


def changed_model(endpoint: Endpoint, body: bytes | None) -> str | None:
    """Give the canonical name of the model that a pull, create, copy or delete is about.

    None means that it cannot be told, and then it may be any model.
    """
    read = document.read(body or b"", endpoint.known)
    if isinstance(read, Detail):
        return None
    name = next((value for field in endpoint.changes if (value := read.get(field))), None)
    return names.canonical(name) if isinstance(name, str) else None
