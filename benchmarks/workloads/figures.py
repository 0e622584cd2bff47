"""All figures of one repository as values for JSON: derived and measured ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from benchmarks.workloads import chunks, costs, requests
from benchmarks.workloads.diagnostics import diagnose, version
from benchmarks.workloads.history import History
from benchmarks.workloads.languages import language_of
from benchmarks.workloads.rates import (
    Bounded,
    Cache,
    Contents,
    Expiring,
    Idle,
    Tallies,
    Tally,
    Versions,
    count,
    percent,
    shared_beginning,
)
from benchmarks.workloads.replay import Measured, Row
from benchmarks.workloads.requests import CATEGORIES, EMBED, EXPLAIN, FIX, Asked

READERS: Final = (1, 2, 3)
LIFETIMES: Final[dict[str, int | None]] = {"1 h": 3_600, "24 h": 86_400, "7 d": 604_800, "none": None}
_DAY: Final = 86_400
KEPT: Final[dict[str, Callable[[], Contents]]] = {
    "fixed, 24 h": partial(Expiring, _DAY),
    "fixed, 90 d": partial(Expiring, 90 * _DAY),
    "idle, 24 h": partial(Idle, _DAY, 90 * _DAY),
    "idle, 7 d": partial(Idle, 7 * _DAY, 90 * _DAY),
    "idle, 30 d": partial(Idle, 30 * _DAY, 90 * _DAY),
    "idle, 90 d, max_lifetime 365 d": partial(Idle, 90 * _DAY, 365 * _DAY),
    "until-evicted": Expiring,
    "until-evicted, a new version of Ollama each month": partial(Versions, Expiring, 30 * _DAY),
}
"""What ends embeddings, by the settings that say so."""
ROOMS: Final = {"64 MB": 64 << 20, "256 MB": 256 << 20, "2 GB": 2 << 30}
"""Values of `maxmemory`; an MB of Redis is 1024 × 1024 bytes."""

_UNBOUNDED: Final = 1 << 62

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """The usual requests of a repository in the order of commits, and requests before them."""

    before: Sequence[Asked]
    asked: Sequence[Asked]

    def tail(self, number: int) -> Workload:
        """Return the last `number` requests, preceded by the earlier requests that they repeat.

        Whether an embedding was ever requested alone is preserved, since only then is its token count its own.
        """
        asked = self.asked[-number:]
        wanted = {(one.category, text) for one in asked for text in one.texts}
        before: list[Asked] = []
        for one in (*self.before, *self.asked[:-number]):
            alone = len(one.texts) == 1
            texts = tuple(text for text in dict.fromkeys(one.texts) if (one.category, text) in wanted)
            wanted.difference_update((one.category, text) for text in texts if alone or one.category != EMBED)
            if texts:
                before.append(Asked(at=one.at, category=one.category, texts=texts))
        return Workload(before, asked)


def usual(history: History) -> Workload:
    """Return the requests by the usual rule of each category."""
    before, lists = requests.embeds(history, chunks.USUAL)
    said = diagnose(requests.linted(history), history.blobs)
    readers = requests.explanations(history, requests.USUAL_EXPLANATION, 1)
    fixes = requests.fixes(history, said, requests.USUAL_FIX)
    return Workload(before, requests.together(lists, readers, fixes))


def lined(history: History) -> Workload:
    """Return lists and explanations that say line numbers."""
    before, lists = requests.embeds(history, chunks.LINED)
    return Workload(before, requests.together(lists, requests.explanations(history, requests.LINED_EXPLANATION, 1)))


def tallied(tally: Tally) -> Figures:
    """Return counts and rates."""
    return asdict(tally) | {"by_request": tally.by_request, "by_item": tally.by_item}


def _all(tallies: Tallies) -> Figures:
    each = {name: tallied(tally) for name, tally in tallies.by_category.items() if tally.requests}
    return each | {"overall": tallied(tallies.overall)}


def described(history: History) -> Figures:
    """Return a description of a history."""
    dates = [_date(commit.at) for commit in history.commits]
    languages = [
        language.name
        for commit in history.commits
        for change in commit.changes
        if (language := language_of(change.path)) is not None
    ]
    return {
        "name": history.name,
        "head": history.head,
        "commits": len(history.commits),
        "begun": _date(history.begun),
        "from": dates[0],
        "to": dates[-1],
        "language": statistics.mode(languages) if languages else "",
        "linter": version(),
    }


def _date(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def derived(history: History, workload: Workload, step: Callable[[], None]) -> Figures:
    """Return the rates by rule if nothing expires or is evicted."""

    def rate(category: str, before: Iterable[Asked], asked: Iterable[Asked]) -> Figures:
        step()
        return tallied(count(before, asked, Cache(Expiring())).by_category[category])

    said = diagnose(requests.linted(history), history.blobs)
    explained = {shape: requests.explanations(history, shape, 1) for shape in requests.EXPLANATIONS}
    alone = requests.USUAL_EXPLANATION
    return {
        "embed": {rule: rate(EMBED, *requests.embeds(history, rule)) for rule in chunks.RULES},
        "explain": {shape: rate(EXPLAIN, [], asked) for shape, asked in explained.items()},
        "readers": {str(n): rate(EXPLAIN, [], requests.explanations(history, alone, n)) for n in READERS},
        "fix": {shape: rate(FIX, [], requests.fixes(history, said, shape)) for shape in requests.FIXES},
        "beginning": {shape: shared_beginning(_missed(asked)) for shape, asked in explained.items()},
        "usual": {
            "itemwise": _all(count(workload.before, workload.asked, Cache(Expiring()))),
            "whole": _all(count(workload.before, workload.asked, Cache(Expiring(), itemwise=False))),
        },
        "lifetime": {
            name: _all(count(workload.before, workload.asked, Cache(Expiring(lifetime))))
            for name, lifetime in LIFETIMES.items()
        },
        "kept": kept(workload),
    }


def kept(workload: Workload) -> Figures:
    """Return the rates of embeddings by what ends them."""
    return {
        name: tallied(count(workload.before, workload.asked, Cache(make())).by_category[EMBED])
        for name, make in KEPT.items()
    }


def _missed(asked: Iterable[Asked]) -> Iterable[str]:
    cache = Cache(Expiring())
    return (text for one in asked for text in cache.ask(one))


def worked(workload: Workload, seed: int) -> Figures:
    """Return the seconds that Ollama works for the whole workload, without and with a cache, by category."""
    cache = Cache(Expiring())
    for one in workload.before:
        cache.ask(one)
    found = {name: {"without": 0.0, "with": 0.0} for name in CATEGORIES}
    for one in workload.asked:
        found[one.category]["without"] += costs.seconds(one.category, one.texts, seed)
        found[one.category]["with"] += costs.seconds(one.category, cache.ask(one), seed)
    return {name: {key: round(value, 1) for key, value in row.items()} for name, row in found.items() if row["without"]}


def entry_sizes(tail: Workload, measured: Measured) -> dict[str, int]:
    """Return the memory of an entry in a server by category, with a share of the memory beside entries."""
    most = max(measured.sizes.values())
    sizes = {name: size or most for name, size in measured.sizes.items()}
    kept = Bounded(_UNBOUNDED)
    count(tail.before, tail.asked, Cache(kept, sizes=sizes))
    beside = (measured.memory - measured.empty) / kept.held
    return {name: round(size * beside) for name, size in sizes.items()}


def halved(tail: Workload, measured: Measured, sizes: Mapping[str, int], bounded: Measured) -> Figures:
    """Return the measured and the derived hit rate of a server with half of the needed memory, in percent of texts."""
    kept = Bounded((measured.memory - measured.empty) // 2)
    tally = count(tail.before, tail.asked, Cache(kept, sizes=sizes)).overall
    real = percent(sum(row.known for row in bounded.rows), sum(row.items for row in bounded.rows))
    return {"real": real, "derived": tally.by_item, "evicted": bounded.evicted, "derived_evicted": kept.evicted}


def stored(workload: Workload, measured: Measured, sizes: Mapping[str, int]) -> Figures:
    """Return the memory of the whole workload in the store, and the rates with a bounded store.

    The size of an entry is the measured one; of the bound, the memory of an empty server is subtracted.
    """
    endless = Bounded(_UNBOUNDED)
    count(workload.before, workload.asked, Cache(endless, sizes=sizes))
    rooms = {}
    for name, room in ROOMS.items():
        kept = Bounded(room - measured.empty)
        tallies = count(workload.before, workload.asked, Cache(kept, sizes=sizes))
        rooms[name] = _all(tallies) | {"evicted": kept.evicted}
    return {"bytes": endless.held, "entries": endless.entries, "sizes": dict(sizes), "maxmemory": rooms}


# Measured


def _unscaled(row: Row, scale: float) -> tuple[float, float]:
    """Return the seconds of a request without and with the cache, with Ollama's time unscaled."""
    return (
        row.ollama_direct + row.direct - scale * row.ollama_direct,
        row.ollama_cached + row.cached - scale * row.ollama_cached,
    )


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Return average, median and 95th percentile in milliseconds, and the requests a second of one client."""
    ordered = sorted(seconds)
    return {
        "average": round(1000 * statistics.fmean(ordered), 1),
        "p50": round(1000 * statistics.median(ordered), 1),
        "p95": round(1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
        "rate": round(len(ordered) / sum(ordered), 2),
    }


def replayed(measured: Measured) -> Figures:
    """Return the measurements: in all, by category, and for each request."""
    groups: Mapping[str, list[Row]] = {
        "overall": list(measured.rows),
        **{name: [row for row in measured.rows if row.category == name] for name in CATEGORIES},
    }
    return {
        "scale": measured.scale,
        "requests": len(measured.rows),
        "unlike": sum(row.known != row.expected for row in measured.rows),
        "keys": measured.keys,
        "memory": measured.memory,
        "empty": measured.empty,
        "sizes": measured.sizes,
        "groups": {name: _group(rows, measured.scale) for name, rows in groups.items() if rows},
        "rows": [
            [row.category, row.items, row.known, row.expected, *(round(1000 * value, 3) for value in times)]
            for row in measured.rows
            for times in [(row.direct, row.cached, row.ollama_direct, row.ollama_cached)]
        ],
    }


def _group(rows: Sequence[Row], scale: float) -> Figures:
    pairs = [_unscaled(row, scale) for row in rows]
    hits = [row.cached for row in rows if row.known == row.items]
    return {
        "requests": len(rows),
        "by_request": percent(len(hits), len(rows)),
        "by_item": percent(sum(row.known for row in rows), sum(row.items for row in rows)),
        "derived_by_request": percent(sum(row.expected == row.items for row in rows), len(rows)),
        "derived_by_item": percent(sum(row.expected for row in rows), sum(row.items for row in rows)),
        "without": latency([plain for plain, _ in pairs]),
        "with": latency([cached for _, cached in pairs]),
        "hit": latency(hits) if hits else None,
        "ollama_without": round(sum(row.ollama_direct for row in rows), 1),
        "ollama_with": round(sum(row.ollama_cached for row in rows), 1),
    }
