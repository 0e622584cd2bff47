"""The Protocols of the store: entries, values that are no entries, flights that proxies share, and gauges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import Enum, StrEnum
from typing import Final, Protocol, TypeAlias, runtime_checkable

from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.messages import Description, ResponseHead, StoredResponse
from ollama_cache_proxy.policy.record import record


@record
class Lookup:
    """The result of a lookup."""

    entry: StoredResponse | None
    generation: str | None
    """What a later `put` has to carry; None where the store did not answer."""


@record
class Lookups:
    """The result of a lookup of several keys, in their order."""

    entries: tuple[StoredResponse | None, ...]
    generation: str | None


Entries: TypeAlias = Sequence[tuple[str, StoredResponse]]
"""Keys, and the entries to store under them."""


@record
class KeyCount:
    """How many entries of the current generation there are."""

    keys: int | None
    """None where the store answers, but they cannot be counted, or not in time."""
    age: float
    """How old the figure is, in seconds; 0 for an exact one."""


class Uncounted(Enum):
    """Stands for a number of entries that could not be counted."""

    UNCOUNTED = "uncounted"


UNCOUNTED: Final = Uncounted.UNCOUNTED


@record
class Page:
    """Some entries of the current generation. Those that come and go meanwhile may be missing, or be on two pages."""

    entries: tuple[Description, ...]
    cursor: str | None
    """Leads to the next page; None after the last one."""


@record
class Tier:
    """How full a store is, or a part of it."""

    name: str
    entries: int | None
    size: int
    """Bytes."""
    evicted: int
    """Entries that had to make room for others."""


Matches: TypeAlias = Callable[[Description], bool]
"""Return whether an entry matches."""


@record
class StoreState:
    """How a store is, as the lookups, writes and probes of the last seconds tell."""

    answers: bool
    """Whether lookups are answered."""
    stores: bool
    """Whether entries can be stored."""
    reason: str = ""
    """What it said last, where one of these is not so: the name of an error, nothing secret."""


class EntryStore(Protocol):
    """Entries by key. No method raises for a fault of the store, and none holds a request longer than its deadline.

    `page` and `purge` go through all entries and take as long as that takes; they return None when the store failed.
    """

    @property
    def writable(self) -> bool:
        """Whether entries can be stored now, as far as is known without asking."""

    def held(self, key: str) -> StoredResponse | None:
        """Return the entry, which is fresh, where it is in this process's memory; else None."""

    def renew(self, renewals: Mapping[str, Renewal]) -> None:
        """Note that these entries, by key, were served: each stays for its idle time from now on. Waits for nothing.

        It brings no entry back, and none outlives the lifetime in its own bytes.
        """

    async def get(self, key: str) -> Lookup: ...
    async def get_many(self, keys: Sequence[str]) -> Lookups: ...
    async def peek_many(self, keys: Sequence[str]) -> Lookups:
        """Do what `get_many` does, but not as a client's request: what is read so takes no place in memory for it."""

    async def put(self, entries: Entries, generation: str) -> bool:
        """Store entries for their lifetimes, if the generation is current; return whether all were stored."""

    async def delete(self, keys: Sequence[str], generation: str) -> int | None:
        """Delete entries; return how many there were, None when the store failed."""

    async def page(self, cursor: str, limit: int) -> Page | None:
        """Return about `limit` entries after `cursor` (empty: from the first). Raises ValueError for a bad cursor."""

    async def purge(self, matches: Matches) -> int | None:
        """Delete the entries of the current generation that match; return how many there were."""

    async def clear(self) -> int | Uncounted | None:
        """Start a new generation; return how many entries the old one had, None when the store did not answer."""

    async def count(self) -> KeyCount | None:
        """Return how many entries there are; None when the store did not answer."""


class ValueStore(Protocol):
    """Values by name that are no entries; no clear touches them. No method raises for a fault of the store."""

    async def save(self, name: str, value: bytes) -> bool:
        """Store a value; return whether it was stored."""

    async def load(self, name: str) -> bytes | None: ...
    async def set_default(self, name: str, value: bytes) -> bytes | None:
        """Store `value` unless there is one under this name; return the one that is stored now."""

    async def add(self, name: str, deltas: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int] | None:
        """Add to named totals, and return all totals; None when the store failed.

        `known` are the totals as the caller last read them: where the store has lost one, it is added to that.
        """


class Ending(StrEnum):
    """How a flight that proxies share has ended."""

    STORED = "stored"
    FAILED = "failed"
    UNSHARED = "unshared"
    """With a response that is not in the store."""
    LEFT = "left"
    """Without a response: its clients, or its proxy, have left."""


@record
class Ended:
    """The end of a flight that proxies share."""

    ending: Ending
    asks: int
    """How often Ollama was asked in vain, by this flight and those whose failures led to it."""


class Lease(Protocol):
    """The right to ask for all proxies, held until `end`, or until its proxy is gone."""

    async def purged_elsewhere(self) -> bool:
        """Return whether another process has begun a purge since the lease was taken, as far as the store tells."""

    def show(self, head: ResponseHead, followed: Callable[[], None]) -> None:
        """Let others follow the response while it arrives; it begins with this head.

        `followed` is called when somebody does, once. As long as nobody does, nothing is sent.
        """

    def add(self, chunk: bytes) -> None:
        """Pass on one more chunk; an empty one is the end of a complete stream. Waits for nothing."""

    def close_to_new(self) -> None:
        """Let nobody follow from now on who does not already."""

    def end(self, ended: Ended) -> None:
        """Tell all who wait for it how it ended, and give it up. Waits for nothing; only the first call counts."""


@runtime_checkable
class Streamed(Protocol):
    """A response that another process passes on while it arrives. Whoever gets one has to close it."""

    head: ResponseHead

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the chunks, from the first to the last. Raises ProxyError where the stream breaks off."""

    def close(self) -> None:
        """Follow no longer."""


@runtime_checkable
class Held(Protocol):
    """A lease that another process holds. Whoever gets one has to wait for its end."""

    async def ended(self) -> Ended | None:
        """Wait for its end. Return None where that was not told: the lease, or the store, is gone."""

    async def streamed(self) -> Streamed | Ended | None:
        """Wait for the first chunk of the response, or what `ended` returns."""


class SharedFlights(Protocol):
    """Flights that the processes with one store share. No method raises for a fault of the store."""

    async def begin(self, name: str, *, streamed: bool = False) -> Lease | Held | None:
        """Take the lease of this name; return the one that is held already where there is one.

        With `streamed`, others may follow the response while it arrives.

        None means to ask without: the store does not answer, refuses, or there was a purge since that one began.
        """

    async def purge_begins(self) -> None:
        """Have no process wait any more for a flight that began before now, nor keep what such a one stores."""


class StoreGauges(Protocol):
    """The state of a store, or of a part of it, at this moment. No method waits."""

    def tiers(self, *, asking: bool) -> Sequence[Tier]:
        """Return how full each part is, the fastest one first.

        A part that has to be asked over a connection is as it last was; it is left out, and not asked, unless `asking`.
        """

    def breakers(self) -> Mapping[str, bool]:
        """Return by name whether each breaker is open."""
