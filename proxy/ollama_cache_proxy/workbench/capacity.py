"""What `plan` computes: how busy each part is at a rate of requests, how many are needed, and which is full first.

Each request costs the proxy and the store CPU time by what becomes of it, and by the bytes of its response. Beside a
miss there are three kinds of hits: *noted*, where a process has a note of the request (core/fast_notes.py); *posed*,
where the question is known without the parser (core/known_questions.py), as long as most requests without a note are
hits; else *parsed*. Each is found in the hot tier, or in the store for some more. Each write is told to each other
process with a hot tier. The coefficients are measured (coefficients.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

TARGET: Final = 0.7
"""How busy a part may be where one says how many are needed: above it, requests wait for each other."""
MOSTLY: Final = 0.9
"""The share of hits, among requests without a note, from which on these are posed."""
DISTURBING: Final = 0.1
"""The share of misses from which on they take the processor's caches from hits."""
ONCE: Final = 8192
"""Questions that are remembered to have been posed, about: one that is posed again gets a note."""
_MICRO: Final = 1e-6


class Basis(StrEnum):
    """What a figure rests on."""

    GIVEN = "your figures"
    MEASURED = "measured"
    EXTRAPOLATED = "extrapolated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What grows with the bytes of a response: `fixed` for none, and `byte` for each."""

    fixed: float
    byte: float = 0.0

    def of(self, body: float) -> float:
        """Return the cost for a response of `body` bytes."""
        return self.fixed + self.byte * body


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What something costs: microseconds of CPU of the proxy and of the store, commands, bytes between them."""

    proxy: float
    store: float
    commands: float
    wire: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What was measured, and within which bounds. Times are microseconds of CPU."""

    noted: Cost
    """Of the proxy, for a noted hit in the hot tier, where all are hits."""
    disturbed: float
    """More for it, where misses come between and take the processor's caches."""
    posed: float
    """Of the proxy, for a hit without a note, as long as most of these are hits."""
    noting: float
    """More for it, where it gets a note."""
    parsed: float
    """Of the proxy, for a hit without a note where many of these are misses."""
    stored: Cost
    """Of the proxy, more for a hit in the store than for one in the hot tier."""
    missed: Cost
    """Of the proxy, for a miss that is stored."""
    lease: Costs
    """More for a miss that takes a lease, as it does where several proxies share a store."""
    several: float
    """Times all that with several workers on a host."""
    notice: float
    """Of each process with a hot tier, for each entry that another one writes."""
    notes: int
    """The most notes of a process."""
    store_found: Cost
    """Of the store, for a hit that is noted or posed: these are looked up together."""
    store_parsed: float
    """Of the store, for one that is parsed."""
    store_missed: Cost
    """Of the store, for a miss: a lookup, a write, and telling its writer."""
    store_notice: float
    """Of the store, for each entry that is written, for each other process that is told."""
    commands_found: float
    """Of the store, for a hit that is noted or posed."""
    commands_missed: float
    """Of the store, for a miss."""
    wire_found: float
    """Bytes between proxy and store for a hit, beside the response."""
    wire_missed: float
    """Bytes between proxy and store for a miss, beside the response."""
    entry: float
    """Bytes of the store's memory for an entry, beside the response."""
    hot_entry: float
    """Bytes that the hot tier counts for an entry, beside the response."""
    bodies: tuple[int, int]
    """The smallest and the largest response, in bytes."""
    entries: int
    """The most entries."""
    workers: int
    """The most workers."""
    store_busy: float
    """The most cores that the store used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A mix of requests: the share of hits, of these those in the hot tier and with a note; bytes of a response."""

    hit: float
    hot: float
    noted: float
    body: float
    again: float = 1.0
    """Of hits without a note, the share that gets one."""
    tier: bool = True
    """Whether each process has a hot tier, and so is told of writes."""
    leased: bool = False
    """Whether each miss takes a lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What there is to serve, and what there is to serve it with."""

    rate: float
    """Requests a second."""
    mix: Mix
    request: float
    """Bytes of a request."""
    entries: float
    lifetime: float | None
    """Seconds after which as many entries end as are stored; None where their number does not follow the rate."""
    miss_seconds: float
    """How long a GPU works on a miss."""
    parallel: float
    """Requests that a GPU works on at once."""
    gpus: int
    hosts: int
    workers: int
    """Of each host."""
    nodes: int
    """Primaries of the store, a core each."""
    node_bytes: float
    """Memory of a node for entries."""
    link: float
    """Bytes a second in each direction that the network of a host carries."""

    @property
    def misses(self) -> float:
        """Misses a second."""
        return self.rate * (1 - self.mix.hit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the whole: how busy it is, and how many are needed so that it is so for 70 % at most."""

    name: str
    have: int
    needed: int | None
    """None where more of them do not help."""
    busy: float
    """The share of its time, or of its room; above 1 it is not enough."""
    full_at: float | None
    """The requests a second at which it is full; None where that does not depend on them."""
    basis: Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts, and what they follow from. Rates are by the second."""

    parts: tuple[Part, ...]
    misses: float
    costs: Costs
    """With what there is."""
    commands: float
    traffic: float
    """Bytes between proxies and store."""
    entry: float
    """Bytes of the store's memory for an entry."""
    memory: float
    """Bytes of the store's memory for all."""
    hosts: int | None
    """How many of the proxy are needed."""

    @property
    def first(self) -> Part:
        """The part that is full first when the rate grows, or is so at any rate."""
        return min(self.parts, key=_full_at)


def _full_at(part: Part) -> float:
    if part.full_at is None:
        return 0.0 if part.busy > 1 else math.inf
    return part.full_at


def mix_of(*, hit: float, body: float, entries: float, hot_bytes: float, known: Coefficients) -> Mix:
    """Return the mix where all entries are asked for equally often, which gives notes and hot tier the least.

    `hot_bytes` is the hot tier of a process, 0 for none.
    """
    entries = max(entries, 1.0)
    unnoted = max(entries - known.notes, 1.0)
    return Mix(
        hit=hit,
        hot=min(1.0, hot_bytes / (entries * (body + known.hot_entry))),
        noted=min(1.0, known.notes / entries),
        body=body,
        again=min(1.0, ONCE / unnoted),
        tier=hot_bytes > 0,
    )


def favouring(mix: Mix, hot: float) -> Mix:
    """Return a mix of which `hot` of the hits are in the hot tier; those with a note are as many more, or less."""
    return replace(mix, hot=hot, noted=min(1.0, mix.noted * hot / mix.hot)) if mix.hot else mix


def costs(mix: Mix, known: Coefficients, *, processes: int, several: bool) -> Costs:
    """Return what a request costs; `several`: hosts have several workers."""
    missed, noted, unnoted = 1 - mix.hit, mix.hit * mix.noted, mix.hit * (1 - mix.noted)
    stored = mix.hit * (1 - mix.hot)
    told, leased = missed * (processes - 1) * mix.tier, missed * mix.leased
    posed = unnoted >= MOSTLY * (unnoted + missed)
    proxy = (
        noted * (known.noted.of(mix.body) + known.disturbed * min(1.0, missed / DISTURBING))
        + unnoted * (known.posed + known.noting * mix.again if posed else known.parsed)
        + unnoted * known.noted.byte * mix.body
        + stored * known.stored.of(mix.body)
        + missed * known.missed.of(mix.body)
        + leased * known.lease.proxy
    )
    alone = 0.0 if posed else stored * (1 - mix.noted)
    together = stored - alone
    return Costs(
        proxy=proxy * (known.several if several else 1) + told * known.notice,
        store=together * known.store_found.of(mix.body)
        + alone * (known.store_parsed + known.store_found.byte * mix.body)
        + missed * known.store_missed.of(mix.body)
        + told * known.store_notice
        + leased * known.lease.store,
        commands=together * known.commands_found
        + alone
        + missed * known.commands_missed
        + leased * known.lease.commands,
        wire=stored * (known.wire_found + mix.body)
        + missed * (known.wire_missed + mix.body)
        + leased * known.lease.wire,
    )


def plan(demand: Demand, known: Coefficients) -> Plan:
    """Return how busy each part is, and how many are needed."""
    mix, processes = demand.mix, demand.hosts * demand.workers
    cost = costs(mix, known, processes=processes, several=demand.workers > 1)
    workers = _workers_needed(demand, known)
    entry = mix.body + known.entry
    parts = (
        _gpus(demand),
        _proxies(demand, known, cost, workers),
        _store(demand, known, cost, workers),
        _memory(demand, known, entry),
        _host_network(demand, known, cost),
        _store_network(demand, known, cost),
    )
    return Plan(
        parts=parts,
        misses=demand.misses,
        costs=cost,
        commands=demand.rate * cost.commands,
        traffic=demand.rate * cost.wire,
        entry=entry,
        memory=demand.entries * entry,
        hosts=None if workers is None else math.ceil(workers / demand.workers),
    )


def _workers_needed(demand: Demand, known: Coefficients) -> int | None:
    """Return the processes that serve it all, None where each would be busy with notices alone."""
    told = demand.misses * demand.mix.tier * known.notice * _MICRO
    if told >= TARGET:
        return None
    alone = costs(demand.mix, known, processes=1, several=demand.workers > 1).proxy * demand.rate * _MICRO
    return max(1, math.ceil((alone - told) / (TARGET - told)))


def _within(demand: Demand, known: Coefficients, *, processes: bool = True) -> bool:
    """Return whether all of this was measured; `processes`: the number of the proxy's, too."""
    least, most = known.bodies
    few = demand.hosts * demand.workers <= known.workers or not processes
    return few and least <= demand.mix.body <= most and demand.entries <= known.entries


def _basis(*, measured: bool) -> Basis:
    return Basis.MEASURED if measured else Basis.EXTRAPOLATED


def _part(name: str, have: int, busy: float, demand: Demand, basis: Basis) -> Part:
    """Return a part of which each does its share, and whose use grows with the rate."""
    needed = math.ceil(busy * have / TARGET)
    return Part(
        name=name,
        have=have,
        needed=max(1, needed),
        busy=busy,
        full_at=demand.rate / busy if busy else None,
        basis=basis,
    )


def _gpus(demand: Demand) -> Part:
    busy = demand.misses * demand.miss_seconds / (demand.gpus * demand.parallel)
    return _part("GPUs", demand.gpus, busy, demand, Basis.GIVEN)


def _proxies(demand: Demand, known: Coefficients, cost: Costs, needed: int | None) -> Part:
    have = demand.hosts * demand.workers
    busy = demand.rate * cost.proxy * _MICRO / have
    measured = _within(demand, known) and needed is not None and needed <= known.workers
    return Part(
        name="Proxy workers",
        have=have,
        needed=needed,
        busy=busy,
        full_at=demand.rate / busy,
        basis=_basis(measured=measured),
    )


def _store(demand: Demand, known: Coefficients, cost: Costs, workers: int | None) -> Part:
    """Return the store's cores; those that are needed serve as many workers as are needed."""
    cores = demand.rate * cost.store * _MICRO
    measured = _within(demand, known) and demand.nodes == 1 and cores <= known.store_busy
    part = _part("Store, cores", demand.nodes, cores / demand.nodes, demand, _basis(measured=measured))
    if workers is None:
        return part
    served = demand.rate * costs(demand.mix, known, processes=workers, several=False).store * _MICRO
    return replace(part, needed=max(1, math.ceil(served / TARGET)))


def _memory(demand: Demand, known: Coefficients, entry: float) -> Part:
    used = demand.entries * entry / demand.node_bytes
    busy = used / demand.nodes
    return Part(
        name="Store, memory",
        have=demand.nodes,
        needed=max(1, math.ceil(used / TARGET)),
        busy=busy,
        full_at=demand.rate / busy if demand.lifetime is not None and busy else None,
        basis=_basis(measured=_within(demand, known, processes=False) and demand.nodes == 1),
    )


def _host_network(demand: Demand, known: Coefficients, cost: Costs) -> Part:
    """Return the network of the proxies: clients, Ollama and the store, in the direction that carries more."""
    out = demand.rate * demand.mix.body + demand.misses * (demand.request + known.wire_missed + demand.mix.body)
    into = demand.rate * (demand.request + cost.wire) + demand.misses * demand.mix.body
    busy = max(out, into) / (demand.hosts * demand.link)
    return _part(
        "Network, proxies", demand.hosts, busy, demand, _basis(measured=_within(demand, known, processes=False))
    )


def _store_network(demand: Demand, known: Coefficients, cost: Costs) -> Part:
    busy = demand.rate * cost.wire / (demand.nodes * demand.link)
    measured = _within(demand, known, processes=False) and demand.nodes == 1
    return _part("Network, store", demand.nodes, busy, demand, _basis(measured=measured))


def document(made: Plan) -> dict[str, Any]:
    """Return the JSON document of a plan; bytes, seconds, and shares from 0 to 1."""
    return {
        "first": made.first.name,
        "parts": [dict(_members(part)) for part in made.parts],
        "missesPerSecond": made.misses,
        "proxyHosts": made.hosts,
        "proxyMicroseconds": made.costs.proxy,
        "storeMicroseconds": made.costs.store,
        "storeCommandsPerSecond": made.commands,
        "storeBytesPerSecond": made.traffic,
        "bytesPerEntry": made.entry,
        "storeBytes": made.memory,
    }


def _members(part: Part) -> Iterator[tuple[str, Any]]:
    yield "name", part.name
    yield "have", part.have
    yield "needed", part.needed
    yield "busy", part.busy
    yield "fullAt", part.full_at
    yield "basis", part.basis.value
