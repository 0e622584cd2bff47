"""OpenAI's form of transcriptions (`openai/openai.go`, `TranscriptionResponse`): `{"text": "…"}`, or the text alone."""

from __future__ import annotations

from typing import Any, Final

from ollama_cache_proxy.policy.dialects import openai
from ollama_cache_proxy.policy.dialects.dialect import (
    INCOMPLETE,
    JSON_TYPES,
    Storable,
    Storing,
    has_error,
    no_end,
    no_stream,
    no_usage,
    no_vectors,
)

WHOLE_TYPES: Final = (*JSON_TYPES, b"application/x-ndjson")
"""Ollama sends the head before it knows what it will send."""
STREAM_TYPE: Final = b""
STREAM_DIRECTIVES: Final = ()
LISTS: Final = None
vectors = no_vectors
failed = has_error
stream = no_stream
ends = no_end
usage = no_usage
error = openai.error


def whole(document: dict[str, Any]) -> Storing:
    """See Dialect. Ollama tells no tokens of it."""
    return Storable(prompt_tokens=None, output_tokens=None) if isinstance(document.get("text"), str) else INCOMPLETE
