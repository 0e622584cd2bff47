"""An exchange that has ended: a hit, of which a test changes what it is about."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.core.facts import Exchange
from ollama_cache_proxy.policy.status import CacheStatus, FwdReason, Result

HIT: Final = CacheStatus(result=Result.HIT, ttl=5)
MISS: Final = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS)
COLLAPSED: Final = CacheStatus(result=Result.HIT, fwd=FwdReason.MISS, collapsed=True)
EXCHANGE: Final = Exchange(
    method="POST",
    operation="generate",
    model="tiny",
    cache=HIT,
    status=200,
    key="0123456789abcdef" * 4,
    seconds=0.0123,
    first_byte=0.01,
    bytes_sent=42,
)
