"""What other settings would have given: rates, seconds of Ollama's time, and one sentence of advice.

Nothing here looks ahead: every figure is about the requests that have been, as if the setting had been another one
since the sample began. Before that nothing is known, so a figure for a longer lifetime is too low rather than too high.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ollama_cache_proxy.policy.forecast.ghosts import (
    COMPLETIONS,
    DAY,
    EMBEDDINGS,
    FIXED,
    HOUR,
    IDLE,
    NEVER,
    NOW,
    PLAIN,
    SHARED,
)
from ollama_cache_proxy.policy.forecast.traffic_sample import (
    IN_STORE,
    SIZES,
    Counts,
    Kind,
    Needed,
    Outcome,
    TrafficSample,
    Unused,
    outcome,
)
from ollama_cache_proxy.policy.record import record

ENOUGH: Final = 200
"""Texts, or requests, that have to be seen of a kind before anything is said of it."""
_UNLIMITED: Final = len(SIZES)
_WORTH: Final = 1.0
"""Points of the hit rate that advice has to be worth."""
_NEARLY: Final = 0.95
"""The share of the most seconds that a smaller change has to be worth to be advised in its place."""


@record
class InForce:
    """The settings as they are. Lifetimes are seconds, sizes bytes."""

    lifetime: str
    """How embeddings live: `fixed`, `idle` or `until-evicted`; empty where that cannot be chosen."""
    ttl_embedding: int
    ttl_completion: int
    room: int | None
    """The size of the store; None where it is not known."""
    room_setting: str
    """The setting that says so, or empty."""
    workers: int = 1


@record
class Advice:
    """One change of the settings, or of what clients send, and what it is worth."""

    sentence: str
    settings: Mapping[str, Any]
    """Empty where clients have to change."""
    seconds: float
    """Of Ollama's time, since the sample began."""


def forecast(sample: TrafficSample, force: InForce, now: float) -> dict[str, Any]:
    """Return all figures at Unix time `now`, as values for JSON."""
    kinds = {"embeddings": sample.embeddings, "completions": sample.completions}
    smallest = sample.ghosts.smallest
    shown = {name: _kind(name, kind, force, now - sample.since, smallest) for name, kind in kinds.items()}
    what_if = list(_what_if(sample))
    found = _advice(sample, shown, what_if, force)
    return {
        "since": round(sample.since, 3),
        "seconds": round(now - sample.since, 3),
        "requests": sum(kind.totals.requests for kind in kinds.values()),
        "bypasses": round(sum(one.requests for one in sample.unused.values())),
        "workers": force.workers,
        "sample": {"rate": min(map(sample.ghosts.rate, (EMBEDDINGS, COMPLETIONS))), "keys": len(sample.ghosts.slots)},
        "store": {"bytes": force.room, "setting": force.room_setting or None},
        **shown,
        "whatIf": what_if,
        "advice": {"sentence": found.sentence, "settings": dict(found.settings), "seconds": round(found.seconds, 1)},
    }


def _kind(name: str, kind: Kind, force: InForce, elapsed: float, smallest: float) -> dict[str, Any]:
    """Return the figures of embeddings, or of completions; `smallest` is the least size of a store that is told."""
    totals, embedding = kind.totals, name == "embeddings"
    if totals.items < ENOUGH:
        return {"enough": False, "requests": totals.requests, "texts": totals.items, "needed": ENOUGH}
    room = _place(force.room)
    mode = force.lifetime if embedding and force.lifetime else "fixed"
    ttl = force.ttl_embedding if embedding else force.ttl_completion
    return {
        "enough": True,
        "requests": totals.requests,
        "texts": totals.items,
        "now": {
            "lifetime": mode,
            "ttl": ttl,
            "texts": percent(totals.item_hits, totals.items),
            "requests": percent(totals.request_hits, totals.requests),
            "savedSeconds": round(totals.saved, 1),
            "spentSeconds": round(totals.spent, 1),
        },
        "lifetimes": [
            {
                "lifetime": way,
                "ttl": seconds,
                "inForce": way == mode and (seconds is None or seconds == ttl),
                "atLeast": seconds is None or seconds > elapsed,
                **_figures(kind, bit, room, room, embedding=embedding),
            }
            for way, seconds, bit in lifetimes(embedding=embedding)
        ],
        "sizes": [
            {
                "bytes": size,
                "inForce": place == room and force.room is not None,
                **_figures(kind, NOW, place, room, embedding=embedding),
            }
            for place, size in enumerate(SIZES)
            if size >= smallest and _matters(kind, place)
        ],
        "sharedAuthorization": _figures(kind, SHARED, room, room, embedding=embedding),
        "withoutLineNumbers": _figures(kind, PLAIN, room, room, embedding=embedding),
    }


def lifetimes(*, embedding: bool) -> Iterator[tuple[str, int | None, int]]:
    """Yield the lifetimes that are told apart: how it counts, its seconds (None: no end), and its bit."""
    for place, seconds in enumerate(FIXED):
        yield "fixed", seconds, NOW << 1 + place
    if embedding:  # completions are never renewed, and always expire
        for place, seconds in enumerate(IDLE):
            yield "idle", seconds, NOW << 1 + len(FIXED) + place
        yield "until-evicted", None, NEVER


def _place(room: int | None) -> int:
    """Return the place in `SIZES` of the largest size that is not above the store's."""
    return _UNLIMITED if room is None else max(0, sum(size <= room for size in SIZES) - 1)


def _matters(kind: Kind, place: int) -> bool:
    """Return whether a store of this size differs from one of half of it."""
    sizes = [found.size for found in map(outcome, kind.sized) if found.size != IN_STORE]
    return bool(sizes) and place <= max(sizes)


def _figures(kind: Kind, bit: int, place: int, room: int, *, embedding: bool) -> dict[str, Any]:
    """Return the rates under a setting and in a store of this size, and the seconds that Ollama would work less."""
    totals = kind.totals
    scale, sized_scale = _ratio(totals.stored, kind.stored), _ratio(totals.stored, kind.sized_stored)
    more, seconds = _difference(kind.items, bit, _UNLIMITED, _UNLIMITED, scale)
    fewer, less = _difference(kind.sized, bit, place, room, sized_scale)
    unlimited = _difference(kind.sized, bit, _UNLIMITED, _UNLIMITED, sized_scale)
    more, seconds = more + fewer - unlimited[0], seconds + less - unlimited[1]
    by_request: float | None = None
    if not embedding:
        by_request = percent(totals.item_hits + more, totals.items)
    elif kind.whole and place == room:
        more_requests, _ = _difference(kind.requests, bit, _UNLIMITED, _UNLIMITED, 1.0)
        by_request = percent(totals.request_hits + more_requests, totals.requests)
    return {
        "texts": percent(totals.item_hits + more, totals.items),
        "requests": by_request,
        "seconds": round(seconds, 1),
    }


def _ratio(real: float, sampled: float) -> float:
    """Return by what a count of the sample has to be multiplied, by a count of which the real one is known."""
    return real / sampled if sampled else 1.0


def _difference(counts: Counts, bit: int, place: int, room: int, scale: float) -> tuple[float, float]:
    """Return how many more would have been known than were, and the seconds of Ollama's time.

    `scale` is for what was not known: a ratio estimate, which sways less than the plain one.
    """
    more = seconds = 0.0
    for name, (weight, worth) in counts.items():
        found = outcome(name)
        factor = _differs(found, bit, place, room) * (1.0 if found.known else scale)
        more += factor * weight
        seconds += factor * worth
    return more, seconds


def _differs(found: Outcome, bit: int, place: int, room: int) -> int:
    """Return 1 where something would have been known that was not, -1 where it is the other way round, else 0.

    What was not known, although it would be by the settings as they are, has been purged or withdrawn, and would be
    gone under any others too.
    """
    size = room if found.size == IN_STORE else found.size
    alike = bit in (SHARED, PLAIN)
    if found.known:
        as_now = bit == NOW or (alike and not found.mask & NOW)
        return 0 if place >= min(size, room) and (as_now or found.mask & bit) else -1
    gone = found.mask & NOW and size <= room
    return 1 if found.mask & bit and size <= place and not gone else 0


def percent(part: float, whole: float) -> float:
    """Return a share in percent with one decimal, between 0 and 100."""
    return round(min(100.0, max(0.0, 100 * part / whole)), 1) if whole else 0.0


def _what_if(sample: TrafficSample) -> Iterator[dict[str, Any]]:
    """Yield what caching bypassed requests would have given, by the settings that it takes."""
    for operation, policy, streams in sorted(sample.unused):
        parts = list(_let_in(sample.unused, operation, policy, streams=streams))
        requests = round(sum(one.requests for one in parts))
        settings: dict[str, Any] = {}
        if policy:
            settings["cache_" + operation.replace("-", "_")] = policy
        if streams:
            settings["cache_streams"] = True
        enough = requests >= ENOUGH
        yield {
            "operation": operation,
            "settings": settings,
            "enough": enough,
            "requests": requests,
            "hits": percent(sum(one.hits for one in parts), requests) if enough else None,
            "seconds": round(sum(one.saved for one in parts), 1) if enough else None,
        }


def _let_in(unused: Mapping[Needed, Unused], operation: str, policy: str, *, streams: bool) -> Iterator[Unused]:
    """Yield what these settings would let in of one operation: the more lenient ones, that of the stricter too."""
    policies = {"": ("",), "deterministic": ("", "deterministic"), "always": ("", "deterministic", "always")}
    for (name, needs, streamed), found in unused.items():
        if name == operation and needs in policies[policy] and (streams or not streamed):
            yield found


# Advice


def _advice(
    sample: TrafficSample, shown: Mapping[str, Any], what_if: Iterable[Mapping[str, Any]], force: InForce
) -> Advice:
    """Return the change that is worth the most seconds, or a smaller one that is worth nearly as many."""
    since = datetime.fromtimestamp(sample.since, UTC).strftime("%d %B, %H:%M UTC").lstrip("0")
    found = [*_of_settings(shown, force, since), *_of_bypasses(what_if, since)]
    if not found:
        if not any(kind["enough"] for kind in shown.values()) and not any(one["enough"] for one in what_if):
            return Advice(sentence=f"Too little traffic yet to say, since {since}.", settings={}, seconds=0.0)
        text = f"No other setting would have given {_WORTH:g} point more hits since {since}."
        return Advice(sentence=text, settings={}, seconds=0.0)
    best = max(one.seconds for one in found)
    return next(one for one in found if one.seconds >= _NEARLY * best)


def _of_settings(shown: Mapping[str, Any], force: InForce, since: str) -> Iterator[Advice]:
    """Yield what gives more of what is cached already, the smaller changes first."""
    for name, kind in shown.items():
        if not kind["enough"]:
            continue
        before, unit = kind["now"]["texts"], "texts" if name == "embeddings" else "requests"
        for change, settings, row in _changes(name, kind, force):
            if row["texts"] >= before + _WORTH and row["seconds"] > 0:
                text = (
                    f"{change}, {row['texts']:.1f} % of {unit} would have been known, not {before:.1f} %:"
                    f" {duration(row['seconds'])} of Ollama's time since {since}."
                )
                yield Advice(sentence=text, settings=settings, seconds=row["seconds"])


def _changes(
    name: str, kind: Mapping[str, Any], force: InForce
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield what can be changed for embeddings, or completions: in words, as settings, and the figures with it."""
    ttl = "ttl_embedding" if name == "embeddings" else "ttl_completion"
    for row in sorted(kind["lifetimes"], key=_change):
        if not row["inForce"] and (row["lifetime"] == "fixed" or force.lifetime):
            settings = _settings(row, ttl, kind["now"]["lifetime"])
            yield f"With {_written(settings)}", settings, row
    for row in kind["sizes"]:
        if force.room is not None and row["bytes"] > force.room:
            settings = {force.room_setting: row["bytes"]}
            yield f"With {_written(settings)}", settings, row
    yield "If clients sent texts without their line numbers", {}, kind["withoutLineNumbers"]
    yield "If clients shared one Authorization", {}, kind["sharedAuthorization"]


def _of_bypasses(what_if: Iterable[Mapping[str, Any]], since: str) -> Iterator[Advice]:
    for row in what_if:
        if row["enough"] and row["hits"] >= _WORTH and row["settings"]:
            text = (
                f"With {_written(row['settings'])}, {row['hits']:.1f} % of {row['requests']:,} requests that bypassed"
                f" the cache would have been hits: {duration(row['seconds'])} of Ollama's time since {since}."
            )
            yield Advice(sentence=text, settings=row["settings"], seconds=row["seconds"])


def _change(row: Mapping[str, Any]) -> tuple[bool, int, bool]:
    """Return by what lifetimes are ordered: first those that keep an entry that nobody asks for the least time."""
    return row["ttl"] is None, row["ttl"] or 0, row["lifetime"] != "fixed"


def _settings(row: Mapping[str, Any], ttl: str, mode: str) -> dict[str, Any]:
    """Return the settings that a lifetime takes."""
    settings: dict[str, Any] = {}
    if ttl == "ttl_embedding" and row["lifetime"] != mode:
        settings["lifetime"] = row["lifetime"]
    if row["ttl"] is not None:
        settings[ttl] = row["ttl"]
    return settings


def _written(settings: Mapping[str, Any]) -> str:
    """Return settings as they are written in the file of settings."""
    return " and ".join(f"{name} = {_value(value)}" for name, value in settings.items())


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case _:
            return str(value)


def duration(seconds: float) -> str:
    """Return a time as it is said."""
    for unit, length in (("days", DAY), ("hours", HOUR), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
