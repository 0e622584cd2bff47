"""Ghosts: sampled keys without their entries, and under which settings each would be known at a time.

The sample is spatial (SHARDS): a key is in it if a hash of what it is about is below the limit of its kind. Whenever
the room is used up, the limit of the kind that takes most of it halves, so many texts of lists do not push out few
completions. It also halves where requests come so fast that sampling would cost them too much. Keys that another
setting would take for one have the same hash, so they are in the sample together.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import repeat
from typing import Final

from ollama_cache_proxy.policy.forecast.distances import Distances

ROOM: Final = 4 * 1024 * 1024
"""Bytes of memory that a sample takes at most, all of its counts included."""
CAPACITY: Final = 15_000
"""Ghosts that fit into that."""
_REFUSED: Final = 2_000
"""Keys that are remembered as not in the sample, so that their hashes are not made again and again."""
_BURST: Final = 1000
"""Keys of one kind, asked for alone and no hits, that are looked at however fast they come."""
_PACE: Final = 100
"""Those that are in a second, beside them: of more, a part tells as much."""
_SWEPT: Final = 64
"""Ghosts that are looked at with each new one, while some have to go."""
NEAR: Final = 1 << 19
"""Bytes of traffic, to which distances need not be exact."""
_FEW: Final = 60
"""Measured ghosts that a store must hold so that its size is told from others."""
MEASURED: Final = 8
"""Of one in so many sampled keys the distance is measured, too: it takes longer than all else."""

HOUR: Final = 3600
DAY: Final = 24 * HOUR
FIXED: Final = (HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 90 * DAY)
"""Lifetimes from storing, in seconds."""
IDLE: Final = FIXED[:-1]
"""Lifetimes from the last hit; as `MOST` ends these too, one of 90 days would be the same as from storing."""
MOST: Final = 90 * DAY
"""Seconds from storing after which every idle entry ends: the default of `max_lifetime`."""

NOW: Final = 1
"""Whether a key is known under the settings as they are."""
NEVER: Final = 1 << (1 + len(FIXED) + len(IDLE))
"""Whether it is known where nothing expires."""
SHARED: Final = NEVER << 1
"""… where clients share one Authorization."""
PLAIN: Final = NEVER << 2
"""… where texts have no line numbers."""
ALL: Final = (PLAIN << 1) - 1
BITS: Final = ALL.bit_length()

_ALWAYS: Final = (1 << 32) - 1
SCALE: Final = 1 << 32
"""Hashes are below this."""

EMBEDDINGS, COMPLETIONS, BYPASSED = KINDS = (0, 1, 2)
"""Kinds of keys."""
_OUTSIDE: Final = 0
"""The slot of all keys that are not in the sample."""


class Ghosts:
    """Columns of ghosts by slot. Times are whole Unix seconds; a key is a number of 64 bits."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.limits = [SCALE] * len(KINDS)
        """What hashes of sampled keys are below of, by kind."""
        self._counts = [0] * len(KINDS)
        self._second = 0
        self._left = [_BURST] * len(KINDS)  # that may be looked at then
        self.distances = Distances(NEAR // MEASURED)
        self.slots: dict[int, int] = {}
        self.dropped = 0
        """Grows whenever a slot may have become that of another ghost."""
        self._capacity = capacity
        self._most = capacity + capacity // _SWEPT + 1
        self._unswept: list[int] = []
        self._refused: set[int] = set()
        self._free: list[int] = []
        self._hash = array("L" if array("L").itemsize == 4 else "I")  # noqa: PLR2004 - bytes
        self._kind, self._size, self._until = array("B"), array("I"), array("I")
        self._place: list[int] = []  # lists where each hit looks: they are four times as fast as arrays
        self._last: list[int] = []
        self._soon: list[int] = []
        self._shared, self._plain, self._exact = array("I"), array("I"), array("H")
        self._fixed = tuple((NOW << 1 + n, seconds, array("I")) for n, seconds in enumerate(FIXED))
        self._idle = tuple((NOW << 1 + len(FIXED) + n, seconds, array("I")) for n, seconds in enumerate(IDLE))
        self._stored = tuple((bit, column) for bit, _, column in (*self._fixed, *self._idle))
        self._columns: tuple[array[int] | list[int], ...] = (
            *(self._hash, self._kind, self._size, self._place, self._last, self._until, self._soon),
            *(self._shared, self._plain, self._exact, *(column for _, column in self._stored)),
        )
        for column in self._columns:
            column.append(0)  # of `_OUTSIDE`

    def rate(self, kind: int) -> float:
        """Return the share of the keys of a kind that is in the sample."""
        return self.limits[kind] / SCALE

    @property
    def _common(self) -> int:
        """What hashes of keys with distances are below of, which need one rate for all."""
        return min(self.limits[EMBEDDINGS], self.limits[COMPLETIONS])

    @property
    def measured_rate(self) -> float:
        """The share of keys of which distances are measured."""
        return self._common / SCALE / MEASURED

    def admits(self, kind: int, hashed: int, now: int) -> bool:
        """Return whether a key with this hash, asked for alone, is in the sample: the next step is to add it."""
        if hashed >= self.limits[kind]:
            return False
        if now != self._second:
            more = _PACE * max(0, now - self._second)
            self._second, self._left = now, [min(_BURST, left + more) for left in self._left]
        self._left[kind] -= 1
        if self._left[kind] < 0 and not self._unswept:
            self._left[kind] = _PACE
            self._halve(kind)
        return hashed < self.limits[kind]

    def add(self, key: int, hashed: int, kind: int = EMBEDDINGS) -> int | None:
        """Return the slot of a key, which is new where it was not known; None where the sample has no place for it."""
        slot = self.slots.get(key)
        if slot is not None:
            return slot
        if self._unswept:
            self._sweep()
        elif len(self.slots) >= self._capacity:
            self._halve(self._counts.index(max(self._counts)))
        if hashed >= self.limits[kind] or len(self.slots) >= self._most:
            self.refuse(key)
            return None
        if self._free:
            slot = self._free.pop()
            for column in self._columns:
                column[slot] = 0
        else:
            slot = len(self._hash)
            for column in self._columns:
                column.append(0)
        self._hash[slot], self._kind[slot] = hashed, kind
        self._counts[kind] += 1
        self.slots[key] = slot
        return slot

    def refuse(self, key: int) -> None:
        """Remember that a key is not in the sample."""
        if len(self._refused) >= _REFUSED:
            self._refused.clear()
        self._refused.add(key)

    def _halve(self, kind: int) -> None:
        """Halve the limit of a kind; the ghosts that are not below it go with those that come."""
        self.limits[kind] //= 2
        self.distances.near = int(NEAR * self.measured_rate)
        self._unswept = list(self.slots)

    def _sweep(self) -> None:
        """Drop those of some ghosts that are over the limit."""
        common = self._common
        for key in self._unswept[-_SWEPT:]:
            slot = self.slots[key]
            hashed, kind = self._hash[slot], self._kind[slot]
            if self._place[slot] and hashed >= common:
                self.distances.remove(self._place[slot], self._size[slot])
                self._place[slot] = 0
            if hashed >= self.limits[kind]:
                del self.slots[key]
                self._counts[kind] -= 1
                self._free.append(slot)
        del self._unswept[-_SWEPT:]
        self.dropped += 1

    def link(self, slot: int, shared: int | None, plain: int | None) -> None:
        """Note the slots of the ghosts that this one would be, if clients or texts were alike; None: of itself."""
        self._shared[slot], self._plain[slot] = shared or 0, plain or 0

    def known(self, slot: int) -> bool:
        """Return whether the ghost stands for an entry that was stored at some time."""
        return self._last[slot] > 0

    def holds(self, slot: int, now: int) -> bool:
        """Return whether the ghost is known under all settings, as far as time goes; false where that is not sure."""
        return now < self._soon[slot]

    def exact(self, slot: int) -> int:
        """Return under which settings the token count of the entry is its own, as a list of one needs it."""
        return self._exact[slot]

    def fresh(self, slot: int, now: int) -> int:
        """Return under which settings the ghost is known now."""
        if now < self._soon[slot]:
            return ALL
        mask = 0
        if self._last[slot]:
            mask = NEVER
            for bit, lifetime, stored in self._fixed:
                if now - stored[slot] < lifetime:
                    mask |= bit
            gap = now - self._last[slot]
            for bit, lifetime, stored in self._idle:
                if gap < lifetime and now - stored[slot] < MOST:
                    mask |= bit
            if now < self._until[slot]:
                mask |= NOW
        for bit, links in ((SHARED, self._shared), (PLAIN, self._plain)):
            other = links[slot]
            if (now < self._until[other]) if other else mask & NOW:
                mask |= bit
        return mask

    @property
    def smallest(self) -> float:
        """The size of a store, in bytes, below which too few ghosts are measured to say what it would have known."""
        measured = sum(1 for slot in self.slots.values() if self._place[slot])
        return _FEW * self.distances.total / measured / self.measured_rate if measured else 0.0

    def measures(self, slot: int) -> bool:
        """Return whether distances of the ghost are measured."""
        return not self._hash[slot] % MEASURED and self._hash[slot] < self._common

    def distance(self, slot: int) -> float:
        """Return the bytes of all traffic, as the sample tells it, that a store must hold to know the ghost.

        It is 0 where they are few, or not measured.
        """
        place = self._place[slot]
        if not place or place >= self.distances.front:
            return 0.0
        return (self.distances.distance(place) + self._size[slot]) / self.measured_rate

    def is_new(self, key: int) -> bool:
        """Return whether a key is neither in the sample nor remembered as outside of it."""
        return key not in self.slots and key not in self._refused

    def used_again(self, key: int, now: int) -> bool:
        """Count a use of a ghost that is known under all settings, in all sizes; return False if more is to be done."""
        slot = self.slots.get(key, _OUTSIDE)
        if now >= self._soon[slot] or 0 < self._place[slot] < self.distances.front:
            return False
        self._last[slot] = now
        return True

    def used(self, keys: Sequence[int], now: int) -> tuple[list[float], list[int]]:
        """Count uses of those ghosts that are known under all settings.

        Return the distances, where they are not 0, and the places among the keys of all others that may be sampled.
        """
        soon, last, places, front = self._soon, self._last, self._place, self.distances.front
        size, use = self._size, self.distances.use
        found: list[int] = []
        others: list[int] = []
        slots = [*map(self.slots.get, keys, repeat(_OUTSIDE))]
        for number, slot in enumerate(slots):
            if now >= soon[slot]:
                if slot != _OUTSIDE or keys[number] not in self._refused:
                    others.append(number)
                continue
            last[slot] = now
            if 0 < places[slot] < front:
                distance, places[slot] = use(places[slot], size[slot])
                found.append(distance + size[slot])
                front = self.distances.front
        rate = self.measured_rate
        return [distance / rate for distance in found], others

    def _move(self, slot: int) -> None:
        """Count a ghost as used now, as far as distances go."""
        if 0 < self._place[slot] < self.distances.front:
            _, self._place[slot] = self.distances.use(self._place[slot], self._size[slot])

    def touch(self, slot: int, now: int) -> None:
        """Count a use."""
        self._last[slot] = now
        self._move(slot)

    def keep(  # noqa: PLR0913 - what is known of an entry
        self, slot: int, now: int, mask: int, *, stored: int, until: int | None, size: int
    ) -> None:
        """Count a use, and store the ghost at `stored` under the settings where it was not known: those not in `mask`.

        `until` is when it ends under the settings as they are; None where that stays as it is.
        """
        if until is None:
            until = self._until[slot]
        for bit, column in self._stored:
            if not mask & bit:
                column[slot] = stored
        self._until[slot] = until = min(until, _ALWAYS)
        self._last[slot] = now
        place = self._place[slot]
        if place:
            self.distances.remove(place, self._size[slot])
        self._size[slot] = size
        self._place[slot] = self.distances.add(size) if self.measures(slot) else 0
        soon = min(now + IDLE[0], until, *[column[slot] + lifetime for _, lifetime, column in self._fixed])
        soon = min(soon, MOST + min([column[slot] for _, _, column in self._idle]))
        for bit, links in ((SHARED, self._shared), (PLAIN, self._plain)):
            other = links[slot]
            if other:
                if not mask & bit or self._until[other] < now:
                    self._until[other] = until
                soon = min(soon, self._until[other])
        self._soon[slot] = soon

    def set_exact(self, slot: int, mask: int) -> None:
        """Note under which settings the token count of the entry is its own."""
        self._exact[slot] = mask & 0xFFFF

    def put(self, slot: int, until: int) -> None:
        """Keep a ghost that stands for one setting only, until then."""
        self._until[slot] = min(until, _ALWAYS)

    def lasts(self, slot: int, now: int) -> bool:
        """Return whether a ghost that stands for one setting only is known."""
        return now < self._until[slot]

    def forget(self) -> None:
        """Drop all ghosts: what was stored has been cleared."""
        self.slots.clear()
        self._unswept.clear()
        self._counts = [0] * len(KINDS)
        self._free = list(range(_OUTSIDE + 1, len(self._hash)))
        self.distances = Distances(self.distances.near)
        self.dropped += 1
