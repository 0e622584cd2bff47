"""What one exchange needs of the world, as Protocols, and the facts that it gives back.

Adapters implement the Protocols; exchange.py, flights.py and the adapters know only these.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.messages import Description, Fields, Request, ResponseHead, StoredResponse
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.replies import Reply
from ollama_cache_proxy.policy.status import CacheStatus, Detail


class Clock(Protocol):
    """Time, in seconds: `now` is Unix time, `monotonic` only measures."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


Room: TypeAlias = Callable[[int], bool]
"""Whether so many bytes more may be held in memory."""
Take: TypeAlias = Callable[[bytes, bytes | None], bool]
"""What is given a piece of a body, and that piece framed as a chunk (RFC 9112, section 7.1) where it came so.

Says whether more may follow at once; raises nothing.
"""


class Client(Protocol):
    """The client's side of one exchange.

    `length` is the Content-Length that the head announces, None for a body of unknown length. Each `write` goes out at
    once, as one chunk where the body is chunked, and waits while the client reads too slowly. Every method but `abort`
    may raise ClientLeft.
    """

    @property
    def first_byte_at(self) -> float | None:
        """Monotonic time of the first byte of the answer; None before."""

    @property
    def sent(self) -> int:
        """Bytes of the answer's body so far."""

    @property
    def raw(self) -> bytes | None:
        """The whole request as it came, body included; None where the next one like it might mean something else."""

    async def body(self, limit: int, room: Room) -> bytes | None:
        """Read the whole body; None when it is larger than `limit` bytes or finds no `room`.

        Then `stream` gives all of it. Raises ProxyError when it does not come in time.
        """

    def stream(self) -> AsyncIterator[bytes] | None:
        """Give the body as it arrives, what `body` read included; None for a request without one."""

    async def begin(self, head: ResponseHead, length: int | None) -> None: ...
    async def write(self, chunk: bytes) -> None: ...
    def put(self, chunk: bytes, framed: bytes | None) -> bool:
        """Write without waiting; whether more may follow at once, see Take. Else `flush` is to be waited for."""

    async def flush(self) -> None: ...
    async def finish(self, last: bytes = b"") -> None:
        """End the body, with its `last` chunk in one piece; who has left by then has had all of the others."""

    async def send(self, head: ResponseHead, body: bytes) -> None:
        """Send a whole answer in one piece; `head` already says its Content-Length."""

    def abort(self) -> None:
        """End with a reset, so that no one can take what was sent for a whole answer."""


class Answer(Protocol):
    """Ollama's answer while it arrives. `length` is its Content-Length, None where it is not known ahead."""

    head: ResponseHead
    length: int | None

    def arrived(self) -> bytes | None:
        """Give the whole body where all of it has come already, and its length was told; raises ProxyError."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body piece by piece as it arrives; raises ProxyError when it breaks off."""

    async def pour(self, take: Take) -> bool:
        """Let `take` have each piece in the very turn in which it arrives, as long as it says True.

        Gives True at the end of the body; raises ProxyError when it breaks off.
        """


Body: TypeAlias = bytes | AsyncIterator[bytes] | None


class Upstream(Protocol):
    """Ollama. Leaving the context early closes the connection, which makes Ollama stop generating."""

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request whose fields are already those for the upstream; raises ProxyError.

        A request is sent once more if a pooled connection closes before any byte of the answer; one that is
        `repeatable` also where that is only likely. Of the time that Ollama has, so many seconds are `spent`.
        """


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


class Stability(Protocol):
    """Whether a model has stayed what it was since a digest was handed out."""

    def unchanged(self) -> bool: ...


@record
class Identity:
    """What a model's name stands for now: its digest and Ollama's version, and a look at whether that still holds."""

    model: str
    digest: str
    version: str
    stability: Stability


class Models(Protocol):
    """Model names to digests, kept fresh."""

    async def identify(self, name: str) -> Identity | None:
        """Give what `name` stands for; None when that is not known."""

    async def still(self, identity: Identity) -> bool:
        """Look now, and say whether the name still stands for this digest."""

    def edition(self, moment: float) -> int | None:
        """Give a number that changes whenever a name may stand for something else; None where a look is due.

        `moment` is the monotonic time at which somebody wants to know.
        """

    def change_begins(self, name: str | None) -> object:
        """A request that changes this model (None: some model) will go upstream; returns a token for `change_ends`."""

    async def change_known(self, token: object) -> None:
        """Return when every process that serves here knows that it has begun, or has had time enough to."""

    def change_ends(self, token: object) -> None: ...

    def confirm(self, identity: Identity, withdraw: Callable[[], None]) -> None:
        """Call `withdraw` if the first look begun after this moment shows another digest."""


class Topic(StrEnum):
    """What the processes of one proxy tell each other, and what comes with it.

    A change is `[token, model]` when it begins, and its token when it has ended; a purge is its filter; totals are
    those of the statistics by name.
    """

    CHANGE_BEGINS = "change-begins"
    CHANGE_ENDS = "change-ends"
    PURGE = "purge"
    FORGET = "forget"
    FLUSH = "flush"
    TOTALS = "totals"


class Siblings(Protocol):
    """The other processes of a proxy that has several. Nothing is raised where one of them does not hear."""

    def say(self, topic: Topic, value: Any = None) -> None:
        """Tell all of them, without waiting."""

    async def tell(self, topic: Topic, value: Any = None) -> None:
        """Tell all of them, and wait until they have done what it asks for: a quarter of a second at most."""


class Shortcut(Protocol):
    """Answers for requests that are known by their bytes alone, on a connection on which nothing else is under way."""

    def answer(self, raw: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        """Give the whole answer to a whole request, now or in a moment; None where it has to be read."""

    def begins(self, data: bytes) -> bool:
        """Whether these bytes are the head of a known request, of which the body is still to come."""


@record
class Saved:
    """What Ollama did not have to do again: seconds of its time, and tokens."""

    seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


NOTHING: Final = Saved()


@record
class Exchange:
    """One exchange, ended. Times are seconds; `upstream_seconds` is None where Ollama was not asked.

    `first_byte` and `first_token` are counted from the request's begin, `first_token` to the first chunk of a stream
    that holds something of what the model says. `trace` is the trace id that the request brought: it is for exemplars
    of metrics alone.

    `items` counts the texts of a list of embeddings, `items_known` those of them that the store knew.

    `status` is 0 where no head was sent. `key` is empty for a bypass. Tokens are those that Ollama counted for this
    exchange, None where it was not asked or named none; those of what was known before are in `saved`.
    """

    method: str
    operation: str
    model: str
    category: str = ""
    cache: CacheStatus
    status: int
    key: str = ""
    seconds: float
    first_byte: float | None
    first_token: float | None = None
    upstream_seconds: float | None = None
    items: int = 0
    items_known: int = 0
    bytes_sent: int
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    saved: Saved = NOTHING
    error: Source | None = None
    trace: str = ""


@record
class Worked:
    """Ollama has worked, and said so at the end of an answer: told once, however many got that answer.

    `model` is empty where neither request nor answer named it in a place that is looked at.
    """

    operation: str
    model: str
    usage: Usage


@record
class Repeated:
    """Exchanges that were all like this one but for the time that they took, in seconds: of each from head to end."""

    exchange: Exchange
    seconds: Sequence[float]


@record
class Stored:
    """Entries have reached the store: one, or one for each text of a list. `ttl` is in seconds, `size` in bytes."""

    key: str
    operation: str
    model: str
    ttl: int
    size: int
    entries: int = 1


@record
class Unkept:
    """An answer was not kept, for this reason, which showed too late to say so in its head: a stream's end, mostly."""

    key: str
    operation: str
    model: str
    detail: Detail


@record
class Stream:
    """What a route of the proxy's own answers piece by piece, for as long as somebody takes it.

    `kind` is its Content-Type. Whoever takes nothing of a piece for `patience` seconds is cut off.
    """

    kind: str
    pieces: AsyncGenerator[bytes, None]
    patience: float
    fields: Fields = ()


Route: TypeAlias = Callable[[Request, bytes], Awaitable[Reply | Stream]]
"""One route of the proxy's own: a request and its whole body to what it answers."""


class Fault(StrEnum):
    """What can go wrong with the store, as a metric names it."""

    FAILED = "failed"
    DAMAGED = "damaged"
    DROPPED = "dropped"


@record
class StoreFault:
    """An operation of the store failed, an entry was damaged, or one was dropped because too many were waiting."""

    kind: Fault


@record
class StoreCall:
    """One operation of a store that is asked over a connection; an attempt that its breaker stopped is none."""

    operation: str
    seconds: float
    failed: bool


@record
class Resident:
    """A model that Ollama has loaded: bytes of it in all, and those of them in the memory of GPUs."""

    model: str
    size: int
    vram: int


@record
class Levels:
    """How things stand at this moment.

    `serving` are requests that the proxy answers, `asking` those that Ollama does, `connections` those of clients.
    `broken` says of a store's breakers, by name, whether they are open. What is asked for in the background is what was
    found last, nothing where that failed.
    """

    serving: int
    asking: int
    connections: int
    tiers: Sequence[Tier]
    broken: Mapping[str, bool]
    residents: Sequence[Resident]


class Part(StrEnum):
    """A neighbour whose health is watched."""

    STORE = "store"
    STORE_WRITES = "store-writes"
    UPSTREAM = "upstream"


@record
class Health:
    """A neighbour became well or unwell; said once a change. `reason` holds no secret and nothing of a request."""

    part: Part
    well: bool
    name: str
    reason: str = ""


Event: TypeAlias = Exchange | Repeated | Worked | Stored | Unkept | StoreFault | StoreCall | Health
Observer: TypeAlias = Callable[[Event], None]


def fan_out(observers: Sequence[Observer]) -> Observer:
    """Give one observer that tells all of these."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe
