"""Which node of a cluster has which slots, by what its nodes say (CLUSTER SLOTS, CLUSTER INFO), and the slot of a name.

A node that is cut off from the others goes on naming itself for a while. So all of them are asked, and the view of the
latest epoch counts, of a node whose cluster is in order where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import InvalidResponse

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.redis_url import Place

SLOTS: Final = 16_384
_UNKNOWN: Final = ("", "?")
"""What stands for a host that a node does not know: it is that of the node itself."""


def slot_of(name: bytes | str | int) -> int:
    """Return the slot of a name in Redis."""
    return key_slot(name if isinstance(name, bytes) else str(name).encode("latin-1"))


@record
class View:
    """What one node says."""

    well: bool
    """Whether its cluster is in order (`cluster_state`)."""
    epoch: int
    """The latest epoch that it knows (`cluster_current_epoch`)."""
    ranges: tuple[tuple[int, int, Place], ...]
    """First and last slot, and where its primary is; in the order of the slots."""
    replicas: frozenset[Place]

    @property
    def primaries(self) -> tuple[Place, ...]:
        """Where the primaries are, in the order of their first slots."""
        return tuple(dict.fromkeys(place for _, _, place in self.ranges))

    @property
    def covered(self) -> int:
        """How many slots have a primary."""
        return sum(last - first + 1 for first, last, _ in self.ranges)


def read_view(asked: Place, info: Any, slots: Any) -> View:
    """Return what a node at `asked` says, by its replies; raise InvalidResponse for what it cannot have said."""
    try:
        told = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        ranges, replicas = [], set()
        for first, last, primary, *others in slots:
            ranges.append((int(first), int(last), _place(asked, primary)))
            replicas |= {_place(asked, other) for other in others}
        if not all(0 <= first <= last < SLOTS for first, last, _ in ranges):
            raise InvalidResponse
        return View(
            well=told["cluster_state"] == "ok",
            epoch=int(told["cluster_current_epoch"]),
            ranges=tuple(sorted(ranges)),
            replicas=frozenset(replicas),
        )
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidResponse from error


def _place(asked: Place, node: Any) -> Place:
    host = "" if node[0] is None else node[0].decode()
    return asked[0] if host in _UNKNOWN else host, int(node[1])


def latest(views: Iterable[View]) -> View | None:
    """Return the view that counts; None where there is none that has a slot."""
    usable = [view for view in views if view.ranges]
    return max(usable, key=lambda view: (view.well, view.epoch), default=None)


def owners(view: View) -> Mapping[int, Place]:
    """Return where the primary of each slot is that has one."""
    return {slot: place for first, last, place in view.ranges for slot in range(first, last + 1)}
