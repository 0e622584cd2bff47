"""How fast a server reads prompts, from cold runs, and how much of a prompt it cannot have read in a time. Pure.

Reading n tokens takes a·n + b·n² seconds: each token looks back at all before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpeed:
    """Seconds by token, and by token and token before it."""

    each: float
    looking_back: float = 0.0

    def seconds(self, tokens: float) -> float:
        """Return how long a prompt takes of which nothing was there."""
        return self.each * tokens + self.looking_back * tokens**2

    def reused(self, prompt: int, seconds: float) -> int:
        """Return how many tokens of a prompt were there already, if the others took so long; the last one never was."""
        saved = min(max(self.seconds(prompt) - seconds, 0.0), self.seconds(prompt))
        if self.looking_back:
            found = (sqrt(self.each**2 + 4 * self.looking_back * saved) - self.each) / (2 * self.looking_back)
        else:
            found = saved / self.each
        return max(0, min(round(found), prompt - 1))


def fitted(runs: Sequence[tuple[int, float]]) -> PromptSpeed:
    """Return the speed of cold runs (tokens, seconds), by the least squares of relative errors.

    With one run, or where longer prompts are no slower by token, every token takes the same.
    """
    points = [(float(tokens), seconds / tokens) for tokens, seconds in runs]
    mean = sum(tokens for tokens, _ in points) / len(points)
    each = sum(rate for _, rate in points) / len(points)
    spread = sum((tokens - mean) ** 2 for tokens, _ in points)
    slope = sum((tokens - mean) * (rate - each) for tokens, rate in points) / spread if spread else 0.0
    if slope <= 0 or each - slope * mean <= 0:
        return PromptSpeed(each=each)
    return PromptSpeed(each=each - slope * mean, looking_back=slope)
