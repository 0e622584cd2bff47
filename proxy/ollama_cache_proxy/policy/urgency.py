"""The urgency that a request asks for: `u` of the Priority field (RFC 9218, section 4.1)."""

from __future__ import annotations

import re
from typing import Final

from ollama_cache_proxy.policy.messages import Fields, values

USUAL: Final = 3
"""The urgency of a request that names none; 0 is the most urgent, 7 the least."""

_URGENCY: Final = re.compile(rb"[ \t]*u=([0-7])[ \t]*(?:;.*)?", re.DOTALL)


def urgency(fields: Fields) -> int:
    """Return the urgency of a request with these fields.

    The last member of a name counts (RFC 8941, section 3.2); what is no urgency is ignored (RFC 9218, section 4).
    """
    found = USUAL
    for value in values(fields, b"priority"):
        for member in value.split(b","):
            match = _URGENCY.fullmatch(member)
            if match is not None:
                found = int(match[1])
    return found
