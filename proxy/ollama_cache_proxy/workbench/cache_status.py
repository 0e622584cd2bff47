"""Which member of a Cache-Status list is that of the proxy that was asked (RFC 9211)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ollama_cache_proxy.policy.status import CACHE_NAME

_MEMBER: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
"""A member of a list; a comma within a quoted string is part of it."""


def own_member(lines: Iterable[str]) -> str:
    """Return the last member of our name, empty if there is none; `lines` are the values of the field's lines.

    The list begins with the cache nearest to the origin (section 2). Of several proxies of ours in a row the last one
    is therefore the one that was asked; behind it there may be caches of others.
    """
    members = (member.strip() for line in lines for member in _MEMBER.findall(line))
    own = [member for member in members if member.partition(";")[0].strip() == CACHE_NAME]
    return own[-1] if own else ""
