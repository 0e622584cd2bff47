"""What the store has to offer, as three Protocols: entries, values that are no entries, and gauges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from ollama_cache_proxy.policy.messages import Description, StoredResponse
from ollama_cache_proxy.policy.record import record


@record
class Lookup:
    """What the store said: the entry or None, and the generation that a later `put` has to carry.

    `generation` None means that the store did not answer.
    """

    entry: StoredResponse | None
    generation: str | None


@record
class Lookups:
    """A Lookup of several keys at once, in their order."""

    entries: tuple[StoredResponse | None, ...]
    generation: str | None


Entries: TypeAlias = Sequence[tuple[str, StoredResponse]]
"""Keys, and what to keep under them."""


@record
class KeyCount:
    """How many entries of the current generation there are, and how old that figure is in seconds (0: exact)."""

    keys: int
    age: float


@record
class Page:
    """Some entries of the current generation. `cursor` gives the next page; None where there is none.

    Entries that come and go meanwhile may be missing or stand on two pages.
    """

    entries: tuple[Description, ...]
    cursor: str | None


@record
class Tier:
    """How full a store, or a part of it, is: entries, bytes that it takes, entries that had to leave for others."""

    name: str
    entries: int | None
    size: int
    evicted: int


Matches: TypeAlias = Callable[[Description], bool]
"""Whether an entry is meant."""


class EntryStore(Protocol):
    """Entries by key. No method raises for a fault of the store, and none holds a request longer than its deadline.

    `page` and `purge` look at every entry and may take as long as that takes; they give None when the store failed.
    """

    def held(self, key: str) -> StoredResponse | None:
        """Give the entry of the current generation where that is known without asking; it is fresh. Else None."""

    async def get(self, key: str) -> Lookup: ...
    async def get_many(self, keys: Sequence[str]) -> Lookups: ...
    async def put(self, entries: Entries, generation: str) -> bool:
        """Keep entries for their lifetimes, where the generation is still current; whether all were kept."""

    async def delete(self, keys: Sequence[str], generation: str) -> int | None:
        """Delete entries; how many there were, None when the store failed."""

    async def page(self, cursor: str, limit: int) -> Page | None:
        """Give about `limit` entries after `cursor` (empty: from the first); raises ValueError for no cursor."""

    async def purge(self, matches: Matches) -> int | None:
        """Delete the entries of the current generation that match; how many there were."""

    async def clear(self) -> int | None:
        """Start a new generation; how many entries the old one held, None when the store did not answer."""

    async def count(self) -> KeyCount | None: ...


class ValueStore(Protocol):
    """Values by name that are no entries, beyond every clear. No method raises for a fault of the store."""

    async def save(self, name: str, value: bytes) -> bool:
        """Keep a value; whether it was kept."""

    async def load(self, name: str) -> bytes | None: ...
    async def set_default(self, name: str, value: bytes) -> bytes | None:
        """Keep `value` unless there is one under this name; give the one that is kept now."""

    async def add(self, name: str, deltas: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int] | None:
        """Add to named totals, and give all totals; None when the store failed.

        `known` are the totals that the caller saw last: where the store has lost one, that is what is added to.
        """


class StoreGauges(Protocol):
    """How a store, or a part of it, is at this moment; nobody waits for that."""

    def tiers(self, *, asking: bool) -> Sequence[Tier]:
        """Say how full each part is, the fastest one first.

        Where somebody else has to be asked, that is what was found last, and left out where not `asking`.
        """

    def breakers(self) -> Mapping[str, bool]:
        """Say which breakers there are, and whether they are open."""
