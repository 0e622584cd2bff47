"""Entries made wrong, as if another model had answered."""

from __future__ import annotations

import json
from dataclasses import replace

from ollama_cache_proxy.policy.listing.items import decode, encode
from ollama_cache_proxy.policy.messages import StoredResponse


def wrong(entry: StoredResponse) -> StoredResponse:
    """Give the entry with what another model might have said."""
    item = decode(entry.body)
    if item is not None:
        numbers = json.loads(bytes(item.vector))
        return replace(
            entry, body=encode(replace(item, vector=json.dumps(numbers[::-1], separators=(",", ":")).encode()))
        )
    said = json.loads(entry.body)
    if "embedding" in said:
        return replace(entry, body=json.dumps(said | {"embedding": said["embedding"][::-1]}).encode())
    return replace(entry, body=json.dumps(said | {"response": "planted"}).encode())
