"""How alike a quantized model is to its source, from what both said to the same prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_MIN_PROBABILITY: Final = 1e-6
"""The least probability that is told from none: log-probabilities come in single precision."""

Distribution = Mapping[str, float]
"""The likeliest next tokens by their text, with the natural logarithms of their probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completing:
    """Of a model that completes: shares from 0 to 1, divergences in nats; None where Ollama gives no probabilities."""

    same_answer: float
    same_next: float | None = None
    divergence: float | None = None
    divergence_high: float | None = None
    contexts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Of a model that embeds: the cosine of its vectors with the source's, on average and at worst."""

    cosine: float
    cosine_low: float
    texts: int


def completing(
    source: Sequence[Sequence[str]],
    other: Sequence[Sequence[str]],
    source_next: Sequence[Distribution],
    other_next: Sequence[Distribution],
) -> Completing:
    """Compare answers, token by token, and what was likeliest after the same contexts; raises ValueError for none."""
    same = same_answer(source, other)
    pairs = [pair for pair in zip(source_next, other_next, strict=True) if all(pair)]
    if not pairs:
        return Completing(same_answer=same)
    diverged = sorted(divergence(one, two) for one, two in pairs)
    return Completing(
        same_answer=same,
        same_next=sum(_first(one) == _first(two) for one, two in pairs) / len(pairs),
        divergence=sum(diverged) / len(diverged),
        divergence_high=diverged[math.ceil(0.95 * len(diverged)) - 1],
        contexts=len(pairs),
    )


def _first(distribution: Distribution) -> str:
    return max(distribution, key=lambda token: distribution[token])


def same_answer(source: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> float:
    """Give the share of the source's tokens that stand before the first one that differs; 1 for nothing said."""
    same = 0
    for one, two in zip(source, other, strict=True):
        differs = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        same += differs
    said = sum(map(len, source))
    return same / said if said else 1.0


def divergence(source: Distribution, other: Distribution) -> float:
    """Give the Kullback-Leibler divergence of `other` from `source`, in nats, as far as the likeliest tokens show it.

    Tokens that both name count one by one, all the rest of either as one: sum over the shared of p ln(p/q), and
    p' ln(p'/q') of what is left. Lumping can only lessen it, so this is a lower bound of the whole one.
    """
    shared = source.keys() & other.keys()
    pairs = [(math.exp(source[token]), math.exp(other[token])) for token in shared]
    pairs.append((1 - sum(p for p, _ in pairs), 1 - sum(q for _, q in pairs)))
    kept = [(max(p, _MIN_PROBABILITY), max(q, _MIN_PROBABILITY)) for p, q in pairs]
    return max(0.0, sum(p * math.log(p / q) for p, q in kept))


def embedding(source: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Embedding:
    """Compare vectors of the same texts; raises ValueError for none, and for a vector of nothing."""
    cosines = [cosine(one, two) for one, two in zip(source, other, strict=True)]
    if not cosines:
        raise ValueError("there are no vectors to compare")
    return Embedding(cosine=sum(cosines) / len(cosines), cosine_low=min(cosines), texts=len(cosines))


def cosine(one: Sequence[float], two: Sequence[float]) -> float:
    """Give the cosine of the angle between two vectors; raises ValueError where one has no direction."""
    lengths = math.hypot(*one) * math.hypot(*two)
    if not lengths:
        raise ValueError("a vector is all zeros")
    return sum(a * b for a, b in zip(one, two, strict=True)) / lengths


_WORD: Final = re.compile(r"\S+")


def contexts(prompts: Sequence[str], most: int) -> list[str]:
    """Cut prompts after their words into beginnings, the last `most` of each, the shorter ones first."""
    found = []
    for prompt in prompts:
        ends = [word.end() for word in _WORD.finditer(prompt)]
        found += [prompt[:end] for end in ends[-most:]]
    return found
