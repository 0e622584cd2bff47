"""Fingerprints of a request's fields, so that requests can be compared without storing their text.

A fingerprint is a keyed hash of one part of the key: a field of the body, an option, a message, or one of the parts
beside the body. The one under the empty name is of what must be equal for two requests to be compared at all: the
schema of keys, the namespace, what counts as a credential, and the credentials.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.credentials import given
from ollama_cache_proxy.policy.embeddings import item_document
from ollama_cache_proxy.policy.endpoints import Kind
from ollama_cache_proxy.policy.key import SCHEMA, Scope, framed, told
from ollama_cache_proxy.policy.messages import Fields, values

GROUP: Final = ""
"""The name of what must be equal for two requests to be compared."""
REST: Final = "(more)"
"""The name of all parts beyond the first ones."""
_MAX_FINGERPRINTS: Final = 64
_MAX_NAME: Final = 64
"""Characters."""
_DIGITS: Final = 16


def fingerprints(candidate: Candidate, text: str | None, scope: Scope, fields: Fields, secret: bytes) -> dict[str, str]:
    """Return fingerprints by name, in 16 hexadecimal digits, of a request or of one `text` of its list."""
    shown = given(scope.credentials, fields)
    group = framed(SCHEMA, scope.namespace.encode(), scope.credentials.digest.encode(), shown).encode()
    parts: dict[str, bytes] = {
        "(model digest)": scope.digest.encode(),
        "(Ollama version)": scope.version.encode(),
        "(epoch)": scope.epoch.encode(),
        "(Origin)": b"\n".join(values(fields, b"origin")),
    }
    if text is None:
        parts["(operation)"] = candidate.endpoint.operation.encode()
        parts["stream"] = b"%d" % candidate.stream
    for name, value in _members(candidate, text, scope):
        place = name[:_MAX_NAME] if len(parts) < _MAX_FINGERPRINTS else REST
        parts[place] = framed(parts.get(place, b""), name.encode(), orjson.dumps(value)).encode()
    return {name: _fingerprint(part, secret) for name, part in {**parts, GROUP: group}.items()}


def _members(candidate: Candidate, text: str | None, scope: Scope) -> list[tuple[str, Any]]:
    """Return the parts of the body by names that its author knows: fields, options, messages."""
    endpoint = candidate.endpoint
    if text is not None:
        document = {endpoint.prompt: text, **item_document(candidate, scope)}
    else:
        document = told(endpoint, candidate.document, scope.version)
    found: list[tuple[str, Any]] = []
    for name, value in sorted(document.items()):
        if name == endpoint.prompt and endpoint.kind is Kind.CHAT and isinstance(value, list):
            found += [(f"{name}[{place}]", message) for place, message in enumerate(value)]
        elif name == "options" and isinstance(value, dict):
            found += [(f"{name}.{option}", value[option]) for option in sorted(value)]
        else:
            found.append((name, value))
    return found


def _fingerprint(part: bytes, secret: bytes) -> str:
    return hmac.new(secret, part, hashlib.sha256).hexdigest()[:_DIGITS]


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the names of the parts that differ, or None where the two may not be compared."""
    if GROUP not in one or one[GROUP] != other.get(GROUP):
        return None
    return tuple(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))
