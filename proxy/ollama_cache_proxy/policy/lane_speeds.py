"""How long batches take Ollama, by what earlier ones took; so lists can be cut into parts that take about so long.

A list of n texts takes a + b·n seconds: a request costs something by itself, and a GPU works on several texts at once.
Both are from a regression over what was measured, in which later measurements count for more. As long as all that were
measured had the same length, a is not known, and taken for 0; then a longer one is tried once, if it cannot be long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.policy.tickets import Ticket

_MOST: Final = 256
"""Models and operations that are remembered."""
_KEPT: Final = 0.97
"""What a measurement still counts for when the next one has come."""
_GUESS: Final = 0.02
"""Seconds that a text takes where that is not known."""
_VARIED: Final = 0.01
"""The least relative variance of lengths from which a and b are told apart."""
_TRIED: Final = 1.0
"""Seconds that a longer part may take, as far as is known, to be tried."""
_LONGER: Final = 1.25
"""Times that a part may take longer than one text alone, which nobody can cut."""
_ROUNDING: Final = 0.25
"""A text that takes a little longer than was measured last does not make its part a text shorter."""


@dataclass(slots=True)
class _Measured:
    """The sums of a regression: of weights, texts, seconds, squares of texts, and products of both."""

    weight: float = 0.0
    texts: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    longest: int = 1

    def note(self, texts: int, seconds: float) -> None:
        self.weight = self.weight * _KEPT + 1
        self.texts = self.texts * _KEPT + texts
        self.seconds = self.seconds * _KEPT + seconds
        self.squares = self.squares * _KEPT + texts * texts
        self.products = self.products * _KEPT + texts * seconds
        self.longest = max(self.longest, texts)

    @property
    def is_varied(self) -> bool:
        mean = self.texts / self.weight
        return self.squares / self.weight - mean * mean >= _VARIED * mean * mean

    def fit(self) -> tuple[float, float]:
        """Return a and b, neither of them negative."""
        mean, seconds = self.texts / self.weight, self.seconds / self.weight
        if not self.is_varied:
            return 0.0, seconds / mean
        slope = (self.products / self.weight - mean * seconds) / (self.squares / self.weight - mean * mean)
        slope = min(max(slope, 0.0), seconds / mean)
        return seconds - slope * mean, slope


class LaneSpeeds:
    """What lists take, by model and operation. Times are seconds."""

    def __init__(self) -> None:
        self._measured: dict[tuple[str, str], _Measured] = {}

    def note(self, ticket: Ticket, seconds: float) -> None:
        """Take in how long Ollama worked on what was asked last."""
        name = (ticket.operation, ticket.model)
        measured = self._measured.pop(name, None) or _Measured()
        measured.note(ticket.texts, seconds)
        self._measured[name] = measured
        if len(self._measured) > _MOST:
            del self._measured[next(iter(self._measured))]

    def seconds(self, ticket: Ticket) -> float:
        """Return how long what is asked now is expected to take."""
        measured = self._of(ticket)
        if measured is None:
            return ticket.texts * _GUESS
        fixed, each = measured.fit()
        return fixed + each * ticket.texts

    def is_known(self, ticket: Ticket) -> bool:
        """Return whether anything was measured."""
        return self._of(ticket) is not None

    def texts_within(self, ticket: Ticket, seconds: float) -> int | None:
        """Return how many texts take so long, one at least; None where any number does, or nothing is known."""
        measured = self._of(ticket)
        if measured is None:
            return None
        fixed, each = measured.fit()
        if fixed + each <= 0:
            return None
        most = max(seconds, _LONGER * (fixed + each))
        texts = int((most - fixed) / each + _ROUNDING) if each > 0 else 2 * measured.longest
        if measured.is_varied:
            return max(1, min(texts, 2 * measured.longest))
        usual = round(measured.texts / measured.weight)
        if texts == usual and 2 * usual * each <= _TRIED:
            return 2 * usual
        return max(1, texts)

    def _of(self, ticket: Ticket) -> _Measured | None:
        return self._measured.get((ticket.operation, ticket.model))


def even_part(texts: int, most: int) -> int:
    """Return how many of so many texts to ask for now, where about `most` at a time are wanted.

    Parts are as long as each other, and none is made for a few texts that are left over.
    """
    return -(-texts // max(1, round(texts / most)))
