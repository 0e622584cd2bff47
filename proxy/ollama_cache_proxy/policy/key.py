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
from ollama_cache_proxy.policy.framing import frames
from ollama_cache_proxy.policy.messages import Fields, values
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.silent_options import without_silent

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
    body = normalised(candidate.endpoint, candidate.document, scope.version)
    kind = candidate.endpoint.operation + ("/stream" if candidate.stream else "")
    odd = (part for place, (_, raw) in sorted(candidate.odd.items()) for part in (b"%d" % place, raw))
    return framed(body, *odd, begin=scoped(kind, scope, fields))


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
        digest.update(frames(*more))
        return digest.hexdigest()
