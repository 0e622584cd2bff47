"""What the proxy's forecast says of a workload, beside what a replay of it with that setting gives.

The traffic that the sample sees is that of a cache with `TTL`; the clock is that of the requests, as in `rates`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from benchmarks.workloads import costs
from benchmarks.workloads.rates import Bounded, Cache, Contents, Expiring, ExpiringBounded, Idle, count
from benchmarks.workloads.requests import EMBED, EXPLAIN, FIX, Asked
from ollama_cache_proxy.policy.forecast import traffic_sample
from ollama_cache_proxy.policy.forecast.alternatives import hashed
from ollama_cache_proxy.policy.forecast.ghosts import CAPACITY, MOST
from ollama_cache_proxy.policy.forecast.line_numbers import without_line_numbers
from ollama_cache_proxy.policy.forecast.outlook import InForce, forecast
from ollama_cache_proxy.policy.forecast.traffic_sample import ENTRY, TrafficSample

TTL: Final = 86_400
"""The lifetime of the cache whose traffic is sampled, in seconds."""
SIZE: Final = 4_096
"""Bytes of the body of an entry."""
_WITHOUT: Final = "without line numbers"
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {"embeddings": (EMBED,), "completions": (EXPLAIN, FIX)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting: the rate that the forecast says, and that of a replay, in percent of texts or of requests."""

    setting: str
    of: str
    forecast: float
    replay: float

    @property
    def plain(self) -> bool:
        """Whether it is about texts without their line numbers."""
        return self.setting.endswith(_WITHOUT)

    @property
    def points(self) -> float:
        """How far the forecast is off."""
        return self.forecast - self.replay


def sampled(
    before: Iterable[Asked],
    asked: Iterable[Asked],
    *,
    ttl: int = TTL,
    capacity: int = CAPACITY,
    room: int | None = None,
) -> dict[str, Any]:
    """Return the forecast of a proxy through which a workload went; `before` is sent before it starts counting."""
    cache = Cache(Expiring(ttl) if room is None else Bounded(room), sizes=_sizes())
    sample, last = TrafficSample(0, capacity), 0
    for one in before:
        sample.add(_seen(one, cache, ttl))
    _begin(sample)
    for one in asked:
        sample.since = sample.since or one.at
        sample.add(_seen(one, cache, ttl))
        last = one.at
    force = InForce(
        lifetime="fixed", ttl_embedding=ttl, ttl_completion=ttl, room=room, room_setting="private_redis_bytes"
    )
    return forecast(sample, force, last)


def _begin(sample: TrafficSample) -> None:
    """Count from now on, with what is known already."""
    sample.embeddings, sample.completions = traffic_sample.Kind(), traffic_sample.Kind()


def _sizes() -> Mapping[str, int]:
    return dict.fromkeys(costs.SECONDS, SIZE + ENTRY)


def _seen(one: Asked, cache: Cache, ttl: int) -> traffic_sample.Asked:
    """Return what the sample sees of a request, after the cache has answered it."""
    missing, listed = set(cache.ask(one)), one.category == EMBED
    texts = Counter(one.texts)
    unique = tuple(texts)

    def alike(place: int) -> tuple[int | None, int | None]:
        text = unique[place]
        plain = without_line_numbers(text)
        return None, None if plain == text else _key(one.category, plain)

    return traffic_sample.Asked(
        embedding=listed,
        keys=[_key(one.category, text) for text in unique],
        known=[text not in missing for text in unique],
        weights=None if len(unique) == len(one.texts) else list(texts.values()),
        hashed=lambda place: hashed(unique[place].encode()),
        alike=alike,
        now=one.at,
        until=one.at + ttl,
        ends=one.at + ttl,
        stored=True,
        exact=listed,
        alone=len(one.texts) == 1,
        saved=costs.SECONDS[one.category],
        spent=costs.SECONDS[one.category],
        size=SIZE,
    )


def _key(category: str, text: str) -> int:
    return int.from_bytes(blake2b(f"{category}\n{text}".encode(), digest_size=8).digest(), "big") >> 4


Change: TypeAlias = Callable[[Asked], Asked]


def compared(before: Iterable[Asked], asked: Iterable[Asked], *, ttl: int = TTL, capacity: int = CAPACITY) -> list[Row]:
    """Return every forecast of a workload beside its replay."""
    before, asked = list(before), list(asked)
    found = sampled(before, asked, ttl=ttl, capacity=capacity)
    rows: list[Row] = []

    def replay(setting: str, kind: str, said: Mapping[str, Any], contents: Contents, change: Change = _same) -> None:
        cache = Cache(contents, sizes=_sizes())
        tally = count(map(change, before), map(change, asked), cache).of(_KINDS[kind])
        for of, real in (("texts", tally.by_item), ("requests", tally.by_request)):
            if said[of] is not None and real is not None:
                rows.append(Row(setting=f"{kind}: {setting}", of=of, forecast=said[of], replay=real))

    for kind in _KINDS:
        if not found[kind]["enough"]:
            continue
        for row in found[kind]["lifetimes"]:
            replay(_lifetime(row), kind, row, _contents(row))
        replay(_WITHOUT, kind, found[kind]["withoutLineNumbers"], Expiring(ttl), _plain)
        for row in found[kind]["sizes"]:
            replay(f"a store of {row['bytes'] >> 20} MiB", kind, row, ExpiringBounded(ttl, row["bytes"]))
    return rows


def _lifetime(row: Mapping[str, Any]) -> str:
    """Return a lifetime as it is said."""
    return row["lifetime"] if row["ttl"] is None else f"{row['lifetime']}, {row['ttl'] // 3600} h"


def _contents(row: Mapping[str, Any]) -> Contents:
    """Return a cache with this lifetime."""
    return Idle(row["ttl"], MOST) if row["lifetime"] == "idle" else Expiring(row["ttl"])


def _same(one: Asked) -> Asked:
    return one


def _plain(one: Asked) -> Asked:
    return replace(one, texts=tuple(map(without_line_numbers, one.texts)))
