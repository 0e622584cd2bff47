"""Facts, which observers are told, each once; and levels, which gauges show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, TypeAlias, get_args

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.store_ports import Tier
from ollama_cache_proxy.policy.audit_causes import Cause
from ollama_cache_proxy.policy.audit_comparison import Kind
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.prompts.prompt_memory import Reading
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import CacheStatus, Detail
from ollama_cache_proxy.policy.tickets import Lane


@record
class Saved:
    """Work that Ollama did not have to do again: seconds of its time, and tokens."""

    seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


NOTHING: Final = Saved()


@record
class Exchange:
    """One exchange that has ended."""

    method: str
    operation: str
    model: str
    category: str = ""
    cache: CacheStatus
    status: int
    """0 where no head was sent."""
    key: str = ""
    """Empty for a bypass."""
    seconds: float
    """From the head of the request to the end of the response."""
    first_byte: float | None
    """Seconds from the head of the request to the first byte of the response."""
    first_token: float | None = None
    """Seconds from the head of the request to the first chunk of a stream with output of the model."""
    upstream_seconds: float | None = None
    """None where Ollama was not asked."""
    items: int = 0
    """Texts of a list of embeddings."""
    items_known: int = 0
    """Those of them that were in the store."""
    bytes_sent: int
    """Bytes of the response's body."""
    prompt_tokens: int | None = None
    """As Ollama counted them for this exchange; None where it was not asked, or did not tell. See `saved`."""
    output_tokens: int | None = None
    """Likewise."""
    saved: Saved = NOTHING
    """What was served without Ollama."""
    error: Source | None = None
    rule: str = ""
    """The rule of `stable_prefix` that fitted, if one did."""
    trace: str = ""
    """The trace id of the request, for exemplars of metrics alone."""


@record
class Worked:
    """Work of Ollama, as the end of a response tells it: one fact, however many clients got that response."""

    operation: str
    model: str
    """Empty where neither the request nor the response names it in a place that is searched."""
    usage: Usage


@record
class PromptRead:
    """What became of the prompt of a request that Ollama has answered."""

    operation: str
    model: str
    reading: Reading


@record
class Repeated:
    """Exchanges that differ from this one only in the time that they took."""

    exchange: Exchange
    seconds: Sequence[float]
    """Of each, from its head to its end."""


@record
class Stored:
    """Entries have been stored: one, or one for each text of a list."""

    key: str
    operation: str
    model: str
    ttl: int
    """Their lifetime, in seconds."""
    size: int
    """Bytes of their bodies."""
    entries: int = 1


@record
class NotStored:
    """A response was not stored, for a reason that was known only after its head: mostly the end of a stream."""

    key: str
    operation: str
    model: str
    detail: Detail


class Unaudited(StrEnum):
    """Why a drawn hit was not audited; a label of a metric."""

    FULL = "full"
    LATE = "late"
    FAILED = "failed"
    CHANGED = "model-changed"
    TOO_LARGE = "too-large"


@record
class Audited:
    """A hit was drawn for the audit, or several texts of one list; each counts in one of these figures."""

    operation: str
    model: str
    same: int = 0
    wrong: int = 0
    not_reproducible: int = 0
    """Those of which Ollama's own fresh responses differed from each other."""
    left_out: int = 0
    """Those that were not audited, for the reason `why`."""
    why: Unaudited | None = None
    kind: Kind | None = None
    """In what wrong ones differ; likewise `cause`."""
    cause: Cause | None = None

    @property
    def checked(self) -> int:
        """How many were compared with what Ollama says now."""
        return self.same + self.wrong + self.not_reproducible


class Fault(StrEnum):
    """What can go wrong with the store; a label of a metric."""

    FAILED = "failed"
    DAMAGED = "damaged"
    FOREIGN = "foreign"
    DROPPED = "dropped"


@record
class StoreFault:
    """An operation failed, an entry was damaged or is of another seal key, or was dropped: too many were waiting."""

    kind: Fault


@record
class CommandRefused:
    """The server of the store does not permit, or does not know, a command; told once for each."""

    command: str
    effect: str
    """What happens without it."""


@record
class StoreCall:
    """One operation of a store over a connection; what its breaker stopped is none."""

    operation: str
    seconds: float
    failed: bool


@record
class Resident:
    """A model that Ollama has loaded."""

    model: str
    size: int | None
    """Bytes in memory; None where Ollama does not tell."""
    vram: int | None
    """Those of them in the memory of GPUs; None likewise."""


@record
class UpstreamLevel:
    """One of several Ollamas. Requests are counted since the start."""

    name: str
    up: bool
    """Whether it takes requests."""
    in_flight: int
    answered: int
    failed: int
    """Those that it refused, lost, or gave no response to."""


@record
class LaneLevel:
    """One lane of one Ollama, whose name is empty where there is one."""

    upstream: str
    lane: Lane
    waiting: int
    under_way: int


@record
class Levels:
    """What gauges show, at this moment. What is polled in the background is as it last was, empty after a failure."""

    serving: int
    """Requests that the proxy is serving."""
    asking: int
    """Requests that Ollama is serving."""
    connections: int
    """Connections of clients."""
    idle: int
    """Those of them without a request in progress."""
    places: int
    """How many there may be."""
    tiers: Sequence[Tier]
    broken: Mapping[str, bool]
    """Whether each breaker of the store is open, by name."""
    residents: Sequence[Resident]
    upstreams: Sequence[UpstreamLevel] = ()
    """Empty where there is one Ollama."""
    lanes: Sequence[LaneLevel] = ()
    """Empty where there are no lanes."""


class Part(StrEnum):
    """A neighbour whose health is watched."""

    STORE = "store"
    STORE_WRITES = "store-writes"
    UPSTREAM = "upstream"


LOADING: Final = "LOADING"
"""The reason why a store is unwell that is still loading what it kept; the word is Redis' own."""


@record
class Health:
    """A neighbour became well or unwell; one fact for each change. `reason` has no secret and nothing of a request."""

    part: Part
    well: bool
    name: str
    reason: str = ""
    refused: bool = False
    """Whether it answers, but refuses the proxy's own requests."""


class UpstreamState(StrEnum):
    """What has become of one of several Ollamas."""

    EJECTED = "ejected"
    BACK = "back"
    DRAINED = "drained"
    RESUMED = "resumed"


@record
class UpstreamChanged:
    """One of several Ollamas takes no more requests, or does again. `reason` has nothing of a request."""

    name: str
    state: UpstreamState
    reason: str = ""


@record
class ContextChanged:
    """A model is loaded with another context length than before; told by the process that saw it, once."""

    model: str
    before: int
    """Tokens."""
    now: int


class LaneEnd(StrEnum):
    """What has ended a request's waiting in a lane; a label of a metric."""

    SENT = "sent"
    LEFT = "left"
    FULL = "lane-full"
    LATE = "lane-wait"


@record
class LaneWaited:
    """A request, or a part of a list, waits no longer for its turn at Ollama; many have waited for 0 seconds."""

    operation: str
    model: str
    upstream: str
    """Empty where there is one."""
    lane: Lane
    end: LaneEnd
    seconds: float
    ahead: int
    """How many others waited when it came that would go before it."""


@record
class OwnRefusal:
    """A request for one of the proxy's own routes was refused; nothing of it is told."""

    detail: Detail


Event: TypeAlias = (
    Exchange
    | Repeated
    | Worked
    | PromptRead
    | Stored
    | NotStored
    | Audited
    | StoreFault
    | StoreCall
    | CommandRefused
    | ContextChanged
    | UpstreamChanged
    | Health
    | LaneWaited
    | OwnRefusal
)


Observer: TypeAlias = Callable[[Event], None]


KINDS: Final[frozenset[type]] = frozenset(get_args(Event))


def fan_out(observers: Sequence[Observer]) -> Observer:
    """Return one observer that passes each fact to all of these.

    One with an attribute `takes`, a set of kinds of facts, is told of no others: a miss has five facts.
    """
    told = {kind: [one for one in observers if kind in getattr(one, "takes", KINDS)] for kind in KINDS}

    def observe(event: Event) -> None:
        for observer in told[type(event)]:
            observer(event)

    return observe
