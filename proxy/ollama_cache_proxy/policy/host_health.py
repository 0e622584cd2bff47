"""Whether one of several Ollamas is ejected, and when it is looked at again: a state machine without a clock.

A failed look ejects it, and so does a connection that it refused, or that was lost before a response began. Then it is
looked at after growing pauses, and the first look that is well takes it back. Times are monotonic, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EVERY: Final = 0.5
"""Seconds between two looks at a host that is well."""
DEADLINE: Final = 1.0
"""Seconds that a look may take: with `EVERY`, a host that hangs is ejected within 1.5 s."""
PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each look at a host that is ejected; the last one holds from then on."""
HANGS: Final = 2
"""Failed looks in a row after which what waits for this host is sent to another one."""


@dataclass(slots=True)
class HostHealth:
    """One host. `failed_looks` is how many have failed in a row."""

    ejected: bool = False
    failed_looks: int = 0
    look_at: float = 0.0

    @property
    def hangs(self) -> bool:
        """Whether requests that wait for its response are lost."""
        return self.failed_looks >= HANGS

    def look_was_well(self, now: float) -> bool:
        """Note a look that was well; return whether that took the host back."""
        back, self.ejected = self.ejected, False
        self.failed_looks, self.look_at = 0, now + EVERY
        return back

    def look_failed(self, now: float) -> bool:
        """Note a look that failed; return whether that ejected the host."""
        self.failed_looks += 1
        self.look_at = now + PAUSES[min(self.failed_looks, len(PAUSES) - 1)]
        return self._eject()

    def request_failed(self, now: float) -> bool:
        """Note a connection that was refused or lost; return whether that ejected the host, which is looked at now."""
        if not self.ejected:
            self.look_at = now + PAUSES[0]
        return self._eject()

    def _eject(self) -> bool:
        was, self.ejected = self.ejected, True
        return not was
