"""How similar a quantized model is to its source, by the output of both for the same prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_MIN_PROBABILITY: Final = 1e-6
"""The least probability that counts as more than 0: log-probabilities have single precision."""

Distribution = Mapping[str, float]
"""The most likely next tokens by text, with the natural logarithms of their probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completing:
    """The fidelity of a model that completes; None where Ollama sends no probabilities."""

    same_answer: float | None
    """The share of the source's tokens before the first difference, 0 to 1; None where it has none."""
    same_next: float | None = None
    """The share of contexts with the same most likely token, 0 to 1."""
    divergence: float | None = None
    """The mean Kullback-Leibler divergence in nats."""
    divergence_high: float | None = None
    """Its 95th percentile in nats."""
    contexts: int = 0
    """The number of contexts compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The fidelity of a model that embeds."""

    cosine: float
    """The mean cosine of its vectors with the source's."""
    cosine_low: float
    """The lowest cosine."""
    texts: int
    """The number of texts compared."""


def completing(
    source: Sequence[Sequence[str]],
    other: Sequence[Sequence[str]],
    source_next: Sequence[Distribution],
    other_next: Sequence[Distribution],
) -> Completing:
    """Compare completions token by token, and the most likely tokens after the same contexts."""
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


def same_answer(source: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> float | None:
    """Return the share of the source's tokens before the first difference, None if there are no tokens."""
    same = 0
    for one, two in zip(source, other, strict=True):
        differs = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        same += differs
    said = sum(map(len, source))
    return same / said if said else None


def divergence(source: Distribution, other: Distribution) -> float:
    """Return the Kullback-Leibler divergence of `other` from `source`, in nats, from the most likely tokens.

    Tokens in both distributions count one by one, all others as one: the sum of p ln(p/q) over the shared ones, and
    p' ln(p'/q') of the rest. Grouping can only lower the sum, so this is a lower bound.
    """
    shared = source.keys() & other.keys()
    pairs = [(math.exp(source[token]), math.exp(other[token])) for token in shared]
    pairs.append((1 - sum(p for p, _ in pairs), 1 - sum(q for _, q in pairs)))
    bounded = [(max(p, _MIN_PROBABILITY), max(q, _MIN_PROBABILITY)) for p, q in pairs]
    return max(0.0, sum(p * math.log(p / q) for p, q in bounded))


def embedding(source: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Embedding:
    """Compare vectors of the same texts. Raise ValueError if there are none, or as `cosine` does."""
    cosines = [cosine(one, two) for one, two in zip(source, other, strict=True)]
    if not cosines:
        raise ValueError("there are no vectors to compare")
    return Embedding(cosine=sum(cosines) / len(cosines), cosine_low=min(cosines), texts=len(cosines))


def cosine(one: Sequence[float], two: Sequence[float]) -> float:
    """Return the cosine of two vectors. Raise ValueError if one is all zeros, or if their widths differ."""
    if len(one) != len(two):
        raise ValueError(f"their widths are {len(one)} and {len(two)}")
    lengths = math.hypot(*one) * math.hypot(*two)
    if not lengths:
        raise ValueError("a vector is all zeros")
    return sum(a * b for a, b in zip(one, two, strict=True)) / lengths


_WORD: Final = re.compile(r"\S+")


def contexts(prompts: Sequence[str], most: int) -> list[str]:
    """Return the prefixes of prompts that end after a word: the `most` longest of each, shorter ones first."""
    found = []
    for prompt in prompts:
        ends = [word.end() for word in _WORD.finditer(prompt)]
        found += [prompt[:end] for end in ends[-most:]]
    return found
