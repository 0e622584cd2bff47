"""A sample of traffic: which requests other settings would have answered, counted as they come.

Of each sampled key is counted whether the cache had it, and under which settings its ghost was known. A forecast is
what the cache really did, plus the difference between both, so that a key with many hits weighs as little in the sample
as the settings differ for it. Keys that the sample drops later stay counted with the weight that they had.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Final, TypeAlias

from ollama_cache_proxy.policy.forecast.ghosts import (
    ALL,
    BITS,
    BYPASSED,
    CAPACITY,
    COMPLETIONS,
    EMBEDDINGS,
    FIXED,
    IDLE,
    NEVER,
    NOW,
    PLAIN,
    SHARED,
    Ghosts,
)
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import A_STEP, Steps, finish

AT_ONCE: Final = 16
"""Texts that are looked up in one step: one that is new to the sample takes up to a millisecond."""

SIZES: Final = tuple(1 << power for power in range(20, 37))
"""Sizes of a store that are told apart, in bytes: 1 MiB to 64 GiB."""
IN_STORE: Final = 31
"""The place among sizes of what was stored before the sample began: a store as large as now has it."""
ENTRY: Final = 640
"""Bytes that an entry takes in a store beside the body of its response."""

Hashed: TypeAlias = Callable[[int], int]
"""Returns the hash that decides whether a key is in the sample, by its place among those asked for."""
Alike: TypeAlias = Callable[[int], tuple[int | None, int | None]]
"""Returns the keys that it would have if clients shared one Authorization, and if texts had no line numbers.

None stands for the same key. It takes longer, and is asked only for keys that are new in the sample.
"""


@dataclass(slots=True, kw_only=True)
class Asked:
    """What one request asked for, and what came of it. Times are Unix seconds."""

    embedding: bool
    listed: bool = False
    """Whether the keys are those of texts, of which a list of one needs an exact token count; see `exact`."""
    keys: Sequence[int]
    """One for each different text, or the one of the request."""
    known: Sequence[bool]
    """Which of them the cache had."""
    weights: Sequence[int] | None = None
    """How often each occurs; None for once."""
    hashed: Hashed
    alike: Alike
    now: int
    age: int = 0
    """Of what was known, in seconds."""
    until: int = 0
    """When what is stored now ends."""
    ends: int = 0
    """When what was known ends, for those of which that is not known yet."""
    renewed: bool = False
    """Whether what was known lasts as long as what is stored now, since a hit renews it."""
    forced: bool = False
    """Whether the cache was not to be asked, whatever it has."""
    stored: bool
    """Whether what was not known is stored now."""
    exact: bool = False
    """Whether a list of one is answered only by an item that was asked for alone."""
    alone: bool = False
    """Whether it is a list of one."""
    saved: float = 0.0
    """Seconds of Ollama's time that each known one saved, on average."""
    spent: float = 0.0
    """Those that each other one took."""
    size: int = 0
    """Bytes of the body of one of them."""

    @property
    def kind(self) -> int:
        """See `KINDS`."""
        return EMBEDDINGS if self.embedding else COMPLETIONS


@dataclass(slots=True)
class Totals:
    """What the cache really did, of all requests of a kind."""

    requests: int = 0
    request_hits: int = 0
    items: int = 0
    item_hits: int = 0
    stored: int = 0
    """Items that were not known, and were stored then."""
    saved: float = 0.0
    """Seconds."""
    spent: float = 0.0

    def add(self, asked: Asked) -> None:
        """Count a request."""
        items, hits = len(asked.keys), sum(asked.known)
        if asked.weights is not None:
            items = sum(asked.weights)
            hits = sum(weight for weight, known in zip(asked.weights, asked.known, strict=True) if known)
        self.requests += 1
        self.request_hits += hits == items
        self.items += items
        self.item_hits += hits
        self.stored += items - hits if asked.stored else 0
        self.saved += hits * asked.saved
        self.spent += (items - hits) * asked.spent


@record
class Outcome:
    """Whether the cache had something, and under which settings, and in which sizes of a store, it would have been."""

    known: bool
    size: int
    """A place in `SIZES`, after the last of them, or `IN_STORE`."""
    mask: int


Counts: TypeAlias = dict[int, list[float]]
"""By `_name` of an outcome: how many, and the seconds of Ollama's time that they are worth."""
_KNOWN: Final = 1 << (BITS + 5)
_KNOWN_TO_ALL: Final = _KNOWN | ALL


@dataclass(slots=True)
class Kind:
    """What is counted of embeddings, or of completions. Hits that every setting would have had are in totals alone."""

    totals: Totals = field(default_factory=Totals)
    items: Counts = field(default_factory=dict)
    """Of texts, or of requests that are no lists; their sizes are 0."""
    sized: Counts = field(default_factory=dict)
    """The same, of those whose distances are measured."""
    stored: float = 0.0
    """What `items` say that `totals.stored` is."""
    sized_stored: float = 0.0
    """What `sized` say that it is."""
    requests: Counts = field(default_factory=dict)
    """Of requests for embeddings as a whole, whose seconds count as 0. Of lists only those whose texts were all in the
    sample."""
    whole: bool = True
    """Whether that was so of all lists."""


@dataclass(slots=True)
class Unused:
    """Requests that bypassed the cache and that a setting would have let in."""

    requests: float = 0.0
    """As the sample tells; likewise `hits`."""
    hits: float = 0.0
    saved: float = 0.0
    """Seconds of Ollama's time that they would have saved."""


Needed: TypeAlias = tuple[str, str, bool]
"""What a bypassed request needs: of this operation, another policy (empty: none), and whether streams are cached."""


class TrafficSample:
    """The sample. Arguments named `now` are Unix seconds."""

    def __init__(self, since: float, capacity: int = CAPACITY) -> None:
        self.since = since
        self.ghosts = Ghosts(capacity)
        self.embeddings = Kind()
        self.completions = Kind()
        self.unused: dict[Needed, Unused] = {}
        self._generation: str | None = None

    def note_generation(self, generation: str | None) -> None:
        """Note the generation of the store; with a new one, all entries are gone."""
        if generation is None or generation == self._generation:
            return
        if self._generation is not None:
            self.ghosts.forget()
        self._generation = generation

    def again(self, keys: Sequence[int], now: int, seconds: float, times: int = 1, *, embedding: bool) -> list[int]:
        """Count a request that was a hit, or several that are alike, by its keys; `seconds` is what each key saved.

        Return the places of the keys of which more has to be known, for `add` with `places`. Most hits need no more:
        every setting would have had them, so nothing but their number, and now and then their distance, counts.
        """
        kind, number = self.embeddings if embedding else self.completions, times * len(keys)
        found: Sequence[float] = ()
        others: list[int] = []
        if number == times and self.ghosts.is_new(keys[0]):  # what is not a list has one key
            others = [0]
        elif number != times or not self.ghosts.used_again(keys[0], now):
            found, others = self.ghosts.used(keys, now)
        if found:
            sizes, weight = [*map(_size, found)], times / self.ghosts.measured_rate
            for size in set(sizes):
                _count(kind.sized, _KNOWN_TO_ALL | size << BITS, weight * sizes.count(size), seconds)
        totals = kind.totals
        totals.requests += times
        totals.request_hits += times
        totals.items += number
        totals.item_hits += number
        totals.saved += number * seconds
        return others

    def admits(self, key: int, hashed: int, now: int, *, embedding: bool) -> bool:
        """Return whether a request for one key may be in the sample: it is, or is new; `hashed` is of what it says."""
        ghosts = self.ghosts
        if key in ghosts.slots or ghosts.admits(EMBEDDINGS if embedding else COMPLETIONS, hashed, now):
            return True
        ghosts.refuse(key)
        return False

    def missed(self, spent: float, *, stored: bool, embedding: bool) -> None:
        """Count a request for one key outside of the sample, which the cache did not have and which took `spent` s."""
        totals = (self.embeddings if embedding else self.completions).totals
        totals.requests += 1
        totals.items += 1
        totals.stored += stored
        totals.spent += spent

    def add(self, asked: Asked, places: Sequence[int] | None = None) -> None:
        """Count a request; with `places`, those of its keys alone, after `again` has counted the others."""
        finish(self.add_in_steps(asked, places))

    def add_in_steps(self, asked: Asked, places: Sequence[int] | None = None) -> Steps[None]:
        """Count likewise a request with many texts, in steps."""
        kind = self.embeddings if asked.embedding else self.completions
        if places is None:
            kind.totals.add(asked)
            places = range(len(asked.keys))
        masks: list[int] = []
        for begin in range(0, len(places), AT_ONCE):
            if begin:
                yield
            masks += self._look_up(asked, places[begin : begin + AT_ONCE], kind)
        every, only = _under_all(masks), self._missing_alone(asked, masks)
        for begin in range(0, len(masks), A_STEP):  # as the cache does, after all have been looked up
            if begin:
                yield
            self._keep(asked, places[begin : begin + A_STEP], masks[begin : begin + A_STEP], only)
        if not asked.embedding:
            return
        if len(asked.keys) == 1:
            if self.ghosts.slots.get(asked.keys[0]) is None:
                return
        elif self.ghosts.rate(EMBEDDINGS) < 1:
            kind.whole = False
            return
        _count(kind.requests, _name(all(asked.known), 0, every), 1 / self.ghosts.rate(EMBEDDINGS), 0.0)

    def _look_up(self, asked: Asked, places: Sequence[int], kind: Kind) -> list[int]:
        """Count some keys of a request; return of each under which settings it would have been known."""
        ghosts, dropped = self.ghosts, self.ghosts.dropped
        slots = [self._slot(asked, place) for place in places]
        if ghosts.dropped != dropped:
            slots = [ghosts.slots.get(asked.keys[place]) for place in places]
        rate, measured_rate = ghosts.rate(asked.kind), ghosts.measured_rate
        masks, sizes = self._looked_up(asked, places, slots)
        for place, slot, mask, size in zip(places, slots, masks, sizes, strict=True):
            if slot is None:
                continue
            known, weight = asked.known[place], 1 if asked.weights is None else asked.weights[place]
            seconds, anew = asked.saved if known else asked.spent, asked.stored and not known
            _count(kind.items, _name(known, 0, mask), weight / rate, seconds)
            kind.stored += weight / rate if anew else 0
            if ghosts.measures(slot):
                _count(kind.sized, _name(known, size, mask), weight / measured_rate, seconds)
                kind.sized_stored += weight / measured_rate if anew else 0
        return masks

    def _slot(self, asked: Asked, place: int) -> int | None:
        """Return the slot of a key; None where it is not in the sample."""
        ghosts, key = self.ghosts, asked.keys[place]
        slot = ghosts.slots.get(key)
        if slot is not None:
            return slot
        if not asked.known[place] and not asked.stored:
            return None  # nothing is stored under it, so it need not be remembered
        hashed = asked.hashed(place)
        slot = ghosts.add(key, hashed, asked.kind)
        if slot is not None:
            others = [None if other is None else ghosts.add(other, hashed, asked.kind) for other in asked.alike(place)]
            if ghosts.slots.get(key) is None:  # dropped while room was made
                return None
            ghosts.link(slot, *others)
        return slot

    def _looked_up(
        self, asked: Asked, places: Sequence[int], slots: Sequence[int | None]
    ) -> tuple[list[int], list[int]]:
        """Return of each key under which settings it would have been known, and the size of a store that has it."""
        ghosts, now, masks, sizes = self.ghosts, asked.now, [], []
        for place, slot in zip(places, slots, strict=True):
            mask, size, known = 0, 0, asked.known[place]
            if slot is not None and not asked.forced:
                if ghosts.known(slot):
                    mask, size = ghosts.fresh(slot, now), _size(ghosts.distance(slot))
                    if asked.alone and asked.exact and not known:
                        mask &= ghosts.exact(slot)
                elif known:
                    mask, size = _stored_before(asked.age), IN_STORE
                else:
                    mask = ghosts.fresh(slot, now)
            masks.append(mask)
            sizes.append(size)
        return masks, sizes

    def _keep(self, asked: Asked, places: Sequence[int], masks: Sequence[int], only: int) -> None:
        """Store what was not known, under each setting, and count the use of all.

        `only` are the settings under which a single text was missing.
        """
        ghosts, now, size = self.ghosts, asked.now, asked.size + ENTRY
        for place, mask in zip(places, masks, strict=True):
            known, slot = asked.known[place], ghosts.slots.get(asked.keys[place])
            if slot is None or not (known or asked.stored):
                continue
            if mask == ALL and ghosts.holds(slot, now):
                ghosts.touch(slot, now)
                continue
            before = ghosts.known(slot)
            exact = ghosts.exact(slot) & mask | ~mask & only if before or not known else ALL
            until: int | None = asked.until
            if known and not asked.renewed:
                until = None if before and mask & NOW else asked.ends
            anew, stored = asked.forced, now  # all columns are set
            if known and not before:
                anew, stored = True, now - asked.age
            ghosts.keep(slot, now, 0 if anew else mask, stored=stored, until=until, size=size)
            ghosts.set_exact(slot, exact)

    def _missing_alone(self, asked: Asked, masks: Sequence[int]) -> int:
        """Return the settings under which only one text is missing, whose token count is then its own."""
        once = twice = 0
        for mask in masks:
            missing = ALL & ~mask
            twice |= once & missing
            once |= missing
        if len(asked.keys) > 1 and (
            self.ghosts.rate(EMBEDDINGS) < 1 or len(masks) < len(asked.keys)
        ):  # others may be missing
            return ALL if sum(asked.known) == len(asked.known) - 1 else 0
        return once & ~twice

    def passed(self, name: Needed, key: int, hashed: int, now: int, *, seconds: float, ttl: int) -> None:  # noqa: PLR0913 - what is known of a bypass
        """Count a request that bypassed the cache, which is in the sample, and what it took Ollama."""
        counted, weight = self.unused.setdefault(name, Unused()), 1 / self.ghosts.rate(BYPASSED)
        counted.requests += weight
        slot = self.ghosts.add(key, hashed, BYPASSED)
        if slot is None:
            return
        if self.ghosts.lasts(slot, now):
            counted.hits += weight
            counted.saved += weight * seconds
        else:
            self.ghosts.put(slot, now + ttl)


def _stored_before(age: int) -> int:
    """Return under which settings an entry of this age, which the cache had, would have been known."""
    mask = NOW | NEVER | SHARED | PLAIN
    for place, lifetime in enumerate((*FIXED, *IDLE)):
        if age < lifetime:
            mask |= NOW << 1 + place
    return mask


def _under_all(masks: Sequence[int]) -> int:
    """Return the settings under which everything would have been known."""
    return reduce(and_, masks, ALL)


def _size(distance: float) -> int:
    return bisect_left(SIZES, distance)


def _name(known: bool, size: int, mask: int) -> int:  # noqa: FBT001 - called for each key
    return mask | size << BITS | (_KNOWN if known else 0)


def outcome(name: int) -> Outcome:
    """Return what a name in `Counts` stands for."""
    return Outcome(known=bool(name & _KNOWN), size=name >> BITS & 31, mask=name & ALL)


def _count(counts: Counts, name: int, weight: float, seconds: float) -> None:
    found = counts.get(name)
    if found is None:
        counts[name] = [weight, weight * seconds]
    else:
        found[0] += weight
        found[1] += weight * seconds
