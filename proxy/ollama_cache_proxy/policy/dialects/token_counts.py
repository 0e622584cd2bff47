"""Anthropic's form of token counts (`anthropic/anthropic.go`, `CountTokensResponse`): `{"input_tokens": 11}`."""

from __future__ import annotations

from typing import Any, Final

from ollama_cache_proxy.policy.dialects import anthropic
from ollama_cache_proxy.policy.dialects.dialect import (
    INCOMPLETE,
    Storable,
    Storing,
    Usage,
    count,
    has_error,
    no_stream,
    no_vectors,
)

STREAM_TYPE: Final = b""
STREAM_DIRECTIVES: Final = ()
LISTS: Final = None
vectors = no_vectors
failed = has_error
stream = no_stream
error = anthropic.error


def whole(document: dict[str, Any]) -> Storing:
    """See Dialect. The tokens were counted, and no model has worked on them."""
    if count(document, "input_tokens") is None:
        return INCOMPLETE
    return Storable(prompt_tokens=None, output_tokens=None)


def ends(_chunk: bytes) -> bool:
    """See Dialect."""
    return False


def usage(_tail: bytes) -> Usage | None:
    """See Dialect."""
    return None
