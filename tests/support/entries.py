"""An entry of the store where a test does not care what it is."""

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
