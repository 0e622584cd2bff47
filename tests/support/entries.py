"""Entries of the store: one where a test does not care what it is, and one with something in every field."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.policy.messages import StoredResponse

ENTRY: Final = StoredResponse(
    status=200,
    reason="OK",
    fields=(),
    body=b"{}",
    stored_at=0.0,
    lifetime=60,
    took=1.0,
    operation="generate",
    model="tiny",
    category="",
    namespace="",
    prompt_tokens=None,
    output_tokens=None,
)

FULL_ENTRY: Final = StoredResponse(
    status=200,
    reason="OK",
    fields=((b"Content-Type", b"application/json"), (b"Vary", b"Origin")),
    body=b'{"response":"hello","done":true}',
    stored_at=1000.25,
    lifetime=3600,
    took=1.5,
    operation="generate",
    model="registry.ollama.ai/library/tiny:latest",
    category="batch",
    namespace="team",
    prompt_tokens=7,
    output_tokens=None,
)
