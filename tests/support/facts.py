"""Facts as observers are told them, where a test does not care what is in the rest of one."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.core.ports import Exchange, Levels
from ollama_cache_proxy.policy.status import CacheStatus, FwdReason, Result

HIT: Final = CacheStatus(result=Result.HIT, ttl=5)
COLLAPSED: Final = CacheStatus(result=Result.HIT, fwd=FwdReason.MISS, collapsed=True)
MISS: Final = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS)
EXCHANGE: Final = Exchange(
    method="POST",
    operation="generate",
    model="tiny",
    cache=HIT,
    status=200,
    key="0123456789abcdef" * 4,
    seconds=0.003,
    first_byte=0.002,
    bytes_sent=42,
)
LEVELS: Final = Levels(serving=3, asking=2, connections=7, tiers=(), broken={}, residents=())
