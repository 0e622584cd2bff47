"""Whether a Redis makes room by dropping what never expires, by what its INFO says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def unbounded(about: Mapping[str, Any]) -> str:
    """Return why a server would keep for ever what does not expire, to follow its name; "" where it would not.

    `about` is the section "memory" of INFO. Only policies `allkeys-…` drop what does not expire; Dragonfly has a mode.
    """
    mode = about.get("cache_mode")
    policy = "allkeys" if mode == "cache" else f"cache_mode {mode}" if mode else str(about.get("maxmemory_policy", ""))
    if not policy:
        return "does not say what it does when it is full"
    if policy == "noeviction" or mode not in (None, "cache"):
        return f"evicts nothing when it is full ({policy})"
    if not policy.startswith("allkeys"):
        return f"evicts only what expires ({policy})"
    return "" if int(about.get("maxmemory", 0)) else "has no memory limit (maxmemory 0)"
