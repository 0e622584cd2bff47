"""The trace that a request is part of, from its `traceparent` field (W3C Trace Context, level 1, section 3.2)."""

from __future__ import annotations

import re
from typing import Final

from ollama_cache_proxy.policy.messages import Fields, values

TRACE: Final = b"traceparent"
"""The name of the field. It changes no response, and is reported with the exchange."""
_PARENT: Final = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_FIRST: Final = b"00"


def trace_id(fields: Fields) -> str:
    """Return the trace id, 32 hexadecimal digits; empty where there is no valid field, or more than one.

    A later version of the field may have more parts after the first four.
    """
    given = values(fields, TRACE)
    found = _PARENT.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or (found[1] == _FIRST and found[3] is not None):
        return ""
    return found[2].decode()
