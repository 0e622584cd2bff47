"""The assumed times of Ollama; they are the same for all that is compared, so ratios are what counts."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from benchmarks.workloads.requests import EMBED, EXPLAIN, FIX, Asked

SECONDS: Final = {EMBED: 0.3, EXPLAIN: 2.0, FIX: 1.5}
"""Seconds for a prompt, or for each text of a list."""

SPREAD: Final = 0.25
"""The share by which a text may take less or more."""


def seconds(category: str, texts: Iterable[str], seed: int) -> float:
    """Return the seconds for texts in sequence; the deviation of each depends only on seed and text."""
    return sum(SECONDS[category] * _factor(text, seed) for text in texts)


def total(asked: Iterable[Asked], seed: int) -> float:
    """Return the seconds that Ollama works without a cache."""
    return sum(seconds(one.category, one.texts, seed) for one in asked)


def _factor(text: str, seed: int) -> float:
    drawn = blake2b(text.encode(), digest_size=4, key=seed.to_bytes(8, "big")).digest()
    return 1 - SPREAD + 2 * SPREAD * int.from_bytes(drawn, "big") / 0xFFFFFFFF
