"""How wrong admin tokens are answered: at once, late, or with a 429. Who has the right token is never counted here.

An address has `FREE` wrong ones; later ones are answered late, a bounded number at a time, and the rest is refused. So
that many addresses are not as many guessers, all together have `FREE_OF_ALL`. What was counted is forgotten a step
every `FORGETS_AFTER` seconds. At most `MAX_ADDRESSES` are remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address
from typing import Final

FREE: Final = 5
"""Wrong tokens of an address that are answered at once."""
FREE_OF_ALL: Final = 50
"""Those of all addresses together."""
FORGETS_AFTER: Final = 60.0
"""Seconds after which one wrong token fewer counts."""
WAITS: Final = 1.0
"""Seconds by which an answer is late."""
MAX_WAITING: Final = 8
"""Answers that are late at the same time."""
MAX_WAITING_OF_ONE: Final = 2
"""Those of one address."""
MAX_ADDRESSES: Final = 1024


class Treatment(Enum):
    """How a request with a wrong token is answered."""

    AT_ONCE = "at once"
    LATE = "late"
    """After `WAITS` seconds; then `waited` has to be called."""
    REFUSED = "refused"
    """With a 429, at once."""


@dataclass(slots=True)
class _Guesser:
    """What is known of an address, or of all."""

    count: float = 0.0
    at: float = 0.0
    waiting: int = 0

    def add(self, now: float, free: int) -> bool:
        """Count one more; return whether it is over what is free."""
        self.count = max(0.0, self.count - (now - self.at) / FORGETS_AFTER)
        self.at = now
        over = self.count + 1 > free
        self.count = min(self.count + 1, free + 1.0)
        return over


class Guesses:
    """The wrong tokens of all addresses. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._all = _Guesser()
        self._of: dict[str, _Guesser] = {}

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many answers to each address are late at the moment."""
        return {name: guesser.waiting for name, guesser in self._of.items() if guesser.waiting}

    def wrong(self, address: str, now: float) -> Treatment:
        """Count a wrong token from an IP address, and return how to answer it."""
        name = network(address)
        guesser = self._of.pop(name, None) or _Guesser(at=now)
        self._of[name] = guesser  # the last one now
        self._forget()
        over, over_all = guesser.add(now, FREE), self._all.add(now, FREE_OF_ALL)
        if not (over or over_all):
            return Treatment.AT_ONCE
        if self._all.waiting >= MAX_WAITING or guesser.waiting >= MAX_WAITING_OF_ONE:
            return Treatment.REFUSED
        self._all.waiting += 1
        guesser.waiting += 1
        return Treatment.LATE

    def waited(self, address: str) -> None:
        """End a late answer, also one whose client has left."""
        self._all.waiting -= 1
        self._of[network(address)].waiting -= 1

    def _forget(self) -> None:
        """Forget the address that was heard of least recently, unless it is waited for."""
        if len(self._of) > MAX_ADDRESSES:
            oldest = next(name for name, guesser in self._of.items() if not guesser.waiting)
            del self._of[oldest]


def network(address: str) -> str:
    """Return what counts as one address: itself, of IPv6 the /64 that one customer has (RFC 6177, section 2)."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address)
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
