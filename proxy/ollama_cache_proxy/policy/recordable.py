"""What of a candidate is recorded, so that `warm` can ask for it again (telemetry/request_recorder.py)."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.policy.credentials import CredentialRules, given
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.messages import Fields

_RECORDED: Final = {
    b"origin": "Origin",
    b"x-cache-namespace": "X-Cache-Namespace",
    b"x-cache-category": "X-Cache-Category",
    b"x-cache-ttl": "X-Cache-TTL",
}
"""What tells entries of equal bodies apart, and what their entry has from a request."""


def recordable(endpoint: Endpoint, fields: Fields, rules: CredentialRules) -> dict[str, str] | None:
    """Return the fields to record with a request, as it came; None where it is not to be recorded.

    One with credentials is not: with them the file would be a list of secrets, and without them `warm` would fill an
    entry that its client cannot get. An upload is not, since its body is no text.
    """
    if endpoint.multipart or given(rules, fields):
        return None
    found: dict[str, str] = {}
    for line, value in fields:
        name = _RECORDED.get(line.lower())
        if name is None:
            continue
        if name in found or not value.isascii() or not value.decode().isprintable():
            return None  # a line of JSON has one text under each name
        found[name] = value.decode()
    return found
