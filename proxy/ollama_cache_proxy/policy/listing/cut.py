"""A response to a list, cut into vectors: what own_form.py and any_form.py read, and what they write."""

from __future__ import annotations

from ollama_cache_proxy.policy.dialects.dialect import Text
from ollama_cache_proxy.policy.record import record


@record
class Cut:
    """The vectors of a response, in the order of its texts, and what it tells beside them."""

    vectors: tuple[Text, ...]
    numbers: int
    """How many numbers each vector has."""
    tokens: int | None
    """Prompt tokens of all texts; None where it tells none."""
    total_duration: int = 0
    """Nanoseconds; 0 where it tells none."""
    load_duration: int = 0
    """Likewise."""
    frame: bytes = b""
    """See Item."""
