"""Anthropic's form of token counts (`anthropic/anthropic.go`, `CountTokensResponse`): `{"input_tokens": 11}`."""

from __future__ import annotations

from typing import Any, Final

from ollama_cache_proxy.policy.dialects import anthropic
from ollama_cache_proxy.policy.dialects.dialect import (
    INCOMPLETE,
    JSON_TYPES,
    Storable,
    Storing,
    count,
    has_error,
    no_end,
    no_stream,
    no_usage,
    no_vectors,
)

WHOLE_TYPES: Final = JSON_TYPES
STREAM_TYPE: Final = b""
STREAM_DIRECTIVES: Final = ()
LISTS: Final = None
vectors = no_vectors
failed = has_error
stream = no_stream
ends = no_end
usage = no_usage
error = anthropic.error


def whole(document: dict[str, Any]) -> Storing:
    """See Dialect. The tokens were counted, and no model has worked on them."""
    if count(document, "input_tokens") is None:
        return INCOMPLETE
    return Storable(prompt_tokens=None, output_tokens=None)
