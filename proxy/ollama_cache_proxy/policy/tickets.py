"""The lane that a request belongs to, and what it waits with; see lane_order.py for who goes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """Whether somebody waits for a response; a label of metrics."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(slots=True, eq=False)
class Ticket:
    """What one request of a client waits with; it goes with all that is asked of Ollama for it, one after the other."""

    lane: Lane
    client: bytes
    """Stands for who sent it: a keyed hash."""
    operation: str
    model: str
    """Empty where it is not known."""
    texts: int = 1
    """How many texts what is asked now has; 1 where it is no list."""
    size: int = 0
    """Bytes of what is asked now."""
    waiting: bool = False
    """Whether it waits now."""
    begun: bool = False
    """Whether Ollama was asked anything for it."""
    waited: float = 0.0
    """Seconds that what was asked last has waited."""
    waited_in_all: float = 0.0
    """Likewise all that was asked."""
    on_raise: Callable[[Ticket], None] | None = None
    """Called when its lane changes, while it waits or is under way."""

    @property
    def is_queued(self) -> bool:
        """Whether it waits, and Ollama has done nothing for it yet."""
        return self.waiting and not self.begun

    def raise_for(self, other: Ticket | None) -> None:
        """Make it interactive if another request that waits for the same response is."""
        if other is None or other.lane is not Lane.INTERACTIVE or self.lane is Lane.INTERACTIVE:
            return
        self.lane = Lane.INTERACTIVE
        if self.on_raise is not None:
            self.on_raise(self)
