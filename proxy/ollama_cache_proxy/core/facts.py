"""What observers are told: facts, each frozen and told once, and how things stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, TypeAlias

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.store_ports import Tier
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import CacheStatus, Detail


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
class NotStored:
    """An answer was not kept, for this reason, which showed too late to say so in its head: a stream's end, mostly."""

    key: str
    operation: str
    model: str
    detail: Detail


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


Event: TypeAlias = Exchange | Repeated | Worked | Stored | NotStored | StoreFault | StoreCall | Health


Observer: TypeAlias = Callable[[Event], None]


def fan_out(observers: Sequence[Observer]) -> Observer:
    """Give one observer that tells all of these."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe
