"""Sharing out the token count of a list among its texts, without the model's tokenizer.

The weight of a text is a constant, for the tokens that a model adds to each text ([CLS] and [SEP] of BERT), and the
pieces that a tokenizer would roughly make of it. The constant is learnt from the counts that the model's responses
tell. docs/token-counts.md has the errors that this leaves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ollama_cache_proxy.policy.steps import Steps, finish

_PIECE: Final = re.compile(r"[^\W\d_\u2e80-\U0010ffff]{1,8}|\d{1,3}|\S")
"""Up to eight letters of an alphabet, up to three digits, or one of any other character: CJK, punctuation."""
_CHARACTERS: Final = 400_000
"""How many characters of a list are looked at, about."""
_FEWEST_CHARACTERS: Final = 64
"""How many of each text are, at least."""
ADDED: Final = 2
"""The tokens that are added to a text, until a model's own are learnt: those of BERT."""
_MOST_ADDED: Final = 8
_MODELS: Final = 256
_FEWEST: Final = 16
"""Counts from which something is learnt."""
_FADING: Final = 0.999
_DISTINCT: Final = 0.01
"""How different the counts have to be: the part of a product of sums that their determinant has at least."""


def pieces(texts: Sequence[str]) -> list[int]:
    """Return about how many tokens each text has, without those that are added to each.

    Of long texts only the beginning is looked at, so that a list takes milliseconds.
    """
    return finish(_pieces_in_steps(texts))


def _pieces_in_steps(texts: Sequence[str]) -> Steps[list[int]]:
    """Return what `pieces` does, in steps."""
    limit = max(_FEWEST_CHARACTERS, _CHARACTERS // max(1, len(texts)))
    counts: list[int] = []
    looked = 0
    for text in texts:
        part = text if len(text) <= limit else text[:limit]
        count = 0
        for begin in range(0, len(part), _IN_ONE_STEP):
            count += _pieces(part[begin : begin + _IN_ONE_STEP])
            if len(part) > _IN_ONE_STEP:
                yield
        counts.append(count if len(text) <= limit else count * len(text) // limit)
        looked += len(part)
        if looked >= _IN_ONE_STEP:
            looked = 0
            yield
    return counts


_IN_ONE_STEP: Final = 40_000
"""Characters that are looked at in one step: 2.5 ms where each is a token."""


def _pieces(text: str) -> int:
    return _PIECE.subn("", text)[1]


def shares(tokens: int, texts: Sequence[str], added: int = ADDED) -> list[int]:
    """Return the tokens of each text, whole ones that add up; no text gets 0 where there are enough.

    `added` is how many the model adds to each text.
    """
    return finish(shares_in_steps(tokens, texts, added))


def shares_in_steps(tokens: int, texts: Sequence[str], added: int = ADDED) -> Steps[list[int]]:
    """Return what `shares` does, in steps."""
    if len(texts) == 1:
        return [tokens]
    found = yield from _pieces_in_steps(texts)
    weights = [max(1, added + count) for count in found]
    yield
    counts = _in_proportion(tokens, weights)
    if 0 in counts and tokens >= len(texts):
        return [count + 1 for count in _in_proportion(tokens - len(texts), weights)]
    return counts


def _in_proportion(tokens: int, weights: Sequence[int]) -> list[int]:
    """Return shares by weight: the largest remainders get one more, the earlier one first."""
    whole = sum(weights)
    parts = [divmod(tokens * weight, whole) for weight in weights]
    counts = [part for part, _ in parts]
    order = sorted(range(len(weights)), key=lambda place: -parts[place][1])
    for place in order[: tokens - sum(counts)]:
        counts[place] += 1
    return counts


class AddedTokens:
    """How many tokens each model adds to a text, learnt by least squares from counts that its responses told.

    A count is `added` times the number of texts, and their pieces times a factor of the tokenizer. Relative errors are
    kept small, so that long lists do not outweigh short ones. Bounded: the model that was not seen for longest is
    forgotten.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def learn(self, model: str, texts: Sequence[str], tokens: int) -> None:
        """Take a count into account that a response told for all these texts together."""
        finish(self.learn_in_steps(model, texts, tokens))

    def learn_in_steps(self, model: str, texts: Sequence[str], tokens: int) -> Steps[None]:
        """Do what `learn` does, in steps."""
        if tokens < 1 or not texts:
            return
        found = yield from _pieces_in_steps(texts)
        count, weight = len(texts) / tokens, sum(found) / tokens
        sums = self._sums.pop(model, None) or [0.0] * 6
        for place, more in enumerate((1.0, count * count, count * weight, weight * weight, count, weight)):
            sums[place] = sums[place] * _FADING + more
        self._sums[model] = sums
        if len(self._sums) > _MODELS:
            del self._sums[next(iter(self._sums))]

    def of(self, model: str) -> int:
        """Return how many tokens a model adds to a text, a whole number."""
        seen, counts, mixed, weights, count, weight = self._sums.get(model) or [0.0] * 6
        determinant = counts * weights - mixed * mixed
        if seen < _FEWEST or determinant <= _DISTINCT * counts * weights:
            return ADDED
        added = count * weights - weight * mixed
        factor = weight * counts - count * mixed
        return min(max(round(added / factor), 0), _MOST_ADDED) if factor > 0 else ADDED
