"""Until when a model would be loaded if the audit did not ask it.

Each request starts a model's keep_alive anew (`server/sched.go`, 0.24). A keep_alive of the audit's own would hold for
all later requests without one, so it sends none, and has the model unloaded when it would have been: unless its time of
expiry shows that somebody else has used it since.
"""

from __future__ import annotations

from ollama_cache_proxy.policy.record import record


@record
class Stay:
    """Unix times in seconds, as /api/ps tells them: the same until the model is used."""

    natural: float
    """When the model will have been unloaded if only the audit has used it since."""
    ours: float | None = None
    """When it will be, after the audit's latest request; None before that."""


def before(stay: Stay | None, expires: float) -> Stay:
    """Return the stay of a model that is about to be asked, and is loaded until `expires`."""
    return stay if stay is not None and stay.ours == expires else Stay(natural=expires)


def after(stay: Stay, expires: float) -> Stay:
    """Return the stay of a model that has been asked, and is loaded until `expires` now."""
    return Stay(natural=stay.natural, ours=expires)


def is_over(stay: Stay, expires: float, now: float) -> bool:
    """Return whether a model that is loaded until `expires` would not be any more, but for the audit."""
    return now >= stay.natural and stay.ours == expires
