"""How long batches take Ollama, by what earlier ones took; so lists can be cut into parts that take about so long."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.policy.tickets import Ticket

_MOST: Final = 256
"""Models and operations that are remembered."""
_WEIGHT: Final = 0.3
"""What the latest measurement counts for."""
_GUESS: Final = 0.02
"""Seconds that a text takes where that is not known."""


class LaneSpeeds:
    """Seconds per text, by model and operation."""

    def __init__(self) -> None:
        self._per_text: dict[tuple[str, str], float] = {}

    def note(self, ticket: Ticket, seconds: float) -> None:
        """Take in how long Ollama worked on what was asked last."""
        name, measured = (ticket.operation, ticket.model), seconds / ticket.texts
        before = self._per_text.pop(name, measured)
        self._per_text[name] = before + _WEIGHT * (measured - before)
        if len(self._per_text) > _MOST:
            del self._per_text[next(iter(self._per_text))]

    def per_text(self, ticket: Ticket) -> float | None:
        """Return the seconds per text; None where that is not known."""
        return self._per_text.get((ticket.operation, ticket.model))

    def seconds(self, ticket: Ticket) -> float:
        """Return how long what is asked now is expected to take."""
        known = self.per_text(ticket)
        return ticket.texts * (_GUESS if known is None else known)
