"""Which server programs can keep what they hold as the proxy has them do it, by what they say to `--version`."""

from __future__ import annotations

import re
from typing import Final

_VERSION: Final = re.compile(r"(Valkey|Redis) server v=([0-9]+)\.([0-9]+)\.")
_OLDEST: Final = (7, 0)
"""Append-only files of several parts, in a folder of their own, are in Redis since 7.0; Valkey began with 7.2."""


def can_keep(said: str) -> bool:
    """Return whether a server that says this can keep its entries."""
    match = _VERSION.match(said)
    return match is not None and (int(match[2]), int(match[3])) >= _OLDEST
