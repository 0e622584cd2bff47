"""How long Ollama is said to need: assumptions, the same for all that is compared, so that ratios are what counts."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from benchmarks.workloads.requests import EMBED, EXPLAIN, FIX, Asked

SECONDS: Final = {EMBED: 0.3, EXPLAIN: 2.0, FIX: 1.5}
"""For a prompt, or for each text of a list."""

SPREAD: Final = 0.25
"""By how much of that a text may take less or more."""


def seconds(category: str, texts: Iterable[str], seed: int) -> float:
    """Return how long texts take one after the other; seed and text alone decide how much of the spread each has."""
    return sum(SECONDS[category] * _factor(text, seed) for text in texts)


def total(asked: Iterable[Asked], seed: int) -> float:
    """Return how long Ollama works where nothing is cached."""
    return sum(seconds(one.category, one.texts, seed) for one in asked)


def _factor(text: str, seed: int) -> float:
    drawn = blake2b(text.encode(), digest_size=4, key=seed.to_bytes(8, "big")).digest()
    return 1 - SPREAD + 2 * SPREAD * int.from_bytes(drawn, "big") / 0xFFFFFFFF
