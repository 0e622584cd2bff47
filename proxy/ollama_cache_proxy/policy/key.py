"""The cache key: SHA-256 over length-framed parts, so that no two different lists of parts give the same bytes.

The parts, in order: schema, operation, namespace, model digest, Ollama's version, epoch, a hash of what counts as a
credential, a hash of the credentials, Origin, and the normalised body. Names are sorted at the top level and inside the
options; every other value keeps its members' order, since in `format` and `tools` the order changes the response.
Unknown fields are part of the key: they may split what could be shared, and never merge what differs.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.credentials import DEFAULT_RULES, CredentialRules, given
from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.framing import frame, frames, length
from ollama_cache_proxy.policy.messages import Fields, values
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.silent_options import without_silent
from ollama_cache_proxy.policy.steps import Steps

SCHEMA: Final = b"2"


@record
class Scope:
    """What a response depends on beside the request; `digest` and `version` are as Ollama writes them."""

    digest: str
    version: str
    epoch: str = ""
    namespace: str = ""
    credentials: CredentialRules = DEFAULT_RULES
    width: int | None = None
    """How many numbers a vector of the model has, where that is known; no part of a key."""


def cache_key(candidate: Candidate, scope: Scope, fields: Fields) -> str:
    """Return the key of a candidate, in 64 hexadecimal digits; `fields` are those that Ollama will get.

    A stream and a whole response to the same request have two keys.
    """
    return cache_key_within(begin_of(candidate, scope, fields), candidate, scope.version)


def cache_key_within(begin: bytes, candidate: Candidate, version: str) -> str:
    """Return the key of a candidate; `begin` is `begin_of` its like, `version` that of Ollama in its scope."""
    body = normalised(candidate.endpoint, candidate.document, version)
    odd = (part for place, (_, raw) in sorted(candidate.odd.items()) for part in (b"%d" % place, raw))
    return framed(body, *odd, begin=begin)


def begin_of(candidate: Candidate, scope: Scope, fields: Fields) -> bytes:
    """Return what the keys have in common of all candidates of an endpoint that are as this one: streams, or not."""
    return scoped(candidate.endpoint.operation + ("/stream" if candidate.stream else ""), scope, fields)


def cache_key_in_steps(candidate: Candidate, scope: Scope, fields: Fields) -> Steps[str]:
    """Return likewise the key of a candidate whose body is large, in steps."""
    parts = yield from written_in_steps(told(candidate.endpoint, candidate.document, scope.version))
    digest = hashlib.sha256(begin_of(candidate, scope, fields) + length(sum(map(len, parts))))
    for part in parts:
        digest.update(part)
        yield
    for number, (place, (_, raw)) in enumerate(sorted(candidate.odd.items())):
        digest.update(frames(b"%d" % place, raw))
        if number % _ODD_TEXTS == _ODD_TEXTS - 1:
            yield
    return digest.hexdigest()


_ODD_TEXTS: Final = 1000
"""Odd texts that are hashed in one step."""
_PART: Final = 1 << 18
"""Characters that are written as JSON in one step."""


def written_in_steps(document: dict[str, Any]) -> Steps[list[bytes]]:
    """Return `orjson.dumps(document)` in parts. Texts and lists of texts at its top are written in steps."""
    parts = [b"{"]
    for name, value in document.items():
        parts.append(b"%b%b:" % (b"," if len(parts) > 1 else b"", orjson.dumps(name)))
        if isinstance(value, str):
            yield from _text(value, parts)
        elif isinstance(value, list) and value and all(type(text) is str for text in value):
            parts.append(b"[")
            yield from _texts(value, parts)
            parts.append(b"]")
        else:
            parts.append(orjson.dumps(value))
        yield
    parts.append(b"}")
    return parts


def _text(text: str, parts: list[bytes]) -> Steps[None]:
    """Append a string in slices: each character is written by itself."""
    parts.append(b'"')
    for begin in range(0, len(text), _PART):
        parts.append(orjson.dumps(text[begin : begin + _PART])[1:-1])
        yield
    parts.append(b'"')


def _texts(texts: list[str], parts: list[bytes]) -> Steps[None]:
    """Append strings, several in each part."""
    begin = 0
    while begin < len(texts):
        end, size = begin, 0
        while end < len(texts) and size < _PART:
            size += len(texts[end])
            end += 1
        if begin:
            parts.append(b",")
        if end == begin + 1:
            yield from _text(texts[begin], parts)
        else:
            parts.append(orjson.dumps(texts[begin:end])[1:-1])
            yield
        begin = end


def scoped(kind: str, scope: Scope, fields: Fields) -> bytes:
    """Return the parts of a key that are not from the request's body, framed; `kind` is the first of them."""
    shown = given(scope.credentials, fields)
    common = _common(kind, scope.namespace, scope.digest, scope.version, scope.epoch, scope.credentials.digest)
    return common + frames(hashlib.sha256(shown).digest() if shown else b"", b"\n".join(values(fields, b"origin")))


@lru_cache(maxsize=256)
def _common(*parts: str) -> bytes:
    """Return the parts that many requests have in common, framed."""
    return frames(SCHEMA, *(part.encode() for part in parts))


def normalised(endpoint: Endpoint, document: dict[str, Any], version: str) -> bytes:
    """Return what a body tells this version of Ollama, as JSON."""
    return orjson.dumps(told(endpoint, document, version))


def told(endpoint: Endpoint, document: dict[str, Any], version: str) -> dict[str, Any]:
    """Return a body without what tells this version of Ollama nothing: inert fields, and `silent_options.py`.

    Names are sorted at the top level and inside the options.
    """
    body = {name: document[name] for name in sorted(document) if name not in endpoint.inert}
    if endpoint.options and endpoint.options in body:
        return without_silent(body, endpoint.options, version, embedding=endpoint.kind is Kind.EMBEDDING)
    return body


def framed(*parts: bytes, begin: bytes = b"") -> str:
    """Return the SHA-256 of parts, each after its length in eight bytes, in 64 hexadecimal digits.

    `begin` is hashed first, and is framed already.
    """
    return hashlib.sha256(begin + frames(*parts)).hexdigest()


class Frame:
    """The first parts of several keys, hashed once: `begin` is framed already, `parts` are not."""

    def __init__(self, begin: bytes, *parts: bytes) -> None:
        self._digest = hashlib.sha256(begin + frames(*parts))

    def key(self, *more: bytes) -> str:
        """Return the key of these parts and `more`."""
        digest = self._digest.copy()
        for part in more:
            digest.update(frame(part))
        return digest.hexdigest()
