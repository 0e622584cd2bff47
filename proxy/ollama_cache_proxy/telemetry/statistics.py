"""Totals since the store was first used, by operation, category and model; they live in the store.

Every process adds its counts once a second to totals that all proxies of one store share. A total that the store has
lost continues from the latest value that this process or a sibling knows. If it is not certain that the store took an
addition, it is added again: a second may count twice, but none is lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from ollama_cache_proxy.core.facts import Audited, Event, Exchange, Repeated
from ollama_cache_proxy.core.ports import Siblings, Topic
from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.status import Result

_NAME: Final = "statistics"
_EVERY: Final = 1.0
"""Seconds between two additions."""
_OPERATION, _CATEGORY, _MODEL = "operation", "category", "model"
_AUDIT, _HITS = "audit", "hits"
_AUDITED_SINCE: Final = "audited-since"
_BOUNDS: Final = {_CATEGORY: 32, _MODEL: 50}
"""Names that are counted apart; others are `other`."""
_SEPARATOR: Final = "\n"
_PARTS: Final = 2
"""Separators in a total's name."""
_MICRO: Final = 1_000_000
_SERVER_ERROR: Final = HTTPStatus.INTERNAL_SERVER_ERROR
_MAX_TALLIES: Final = 256
"""Tallies that are held before they are folded into counters."""


@dataclass(slots=True)
class _Tally:
    """Sums of exchanges that are equal except for their times, items and savings. Times are seconds."""

    times: int = 0
    seconds: float = 0.0
    items: int = 0
    known: int = 0
    saved_seconds: float = 0.0
    saved_prompt: int = 0
    saved_output: int = 0

    def measures(self, result: Result, *, collapsed: bool, answered: bool) -> dict[str, int]:
        """Return what is added to the totals, by name. Failures are in no average."""
        name = result.value.lower()
        return {
            "hits": self.times * (result is Result.HIT),
            "misses": self.times * (result is Result.MISS),
            "bypasses": self.times * (result is Result.BYPASS),
            "collapsed": self.times * (collapsed and result is Result.HIT),
            "itemHits": self.known,
            "itemMisses": self.items - self.known,
            "savedMicroseconds": round(self.saved_seconds * _MICRO),
            "savedPromptTokens": self.saved_prompt,
            "savedOutputTokens": self.saved_output,
            f"{name}Answers": self.times * answered,
            f"{name}Microseconds": round(self.seconds * _MICRO) * answered,
        }


class Statistics:
    """An observer that adds up exchanges, and returns the totals."""

    takes: Final = frozenset({Repeated, Exchange, Audited})

    def __init__(self, store: ValueStore, *, tasks: Tasks, siblings: Siblings | None = None) -> None:
        self._store = store
        self._tasks = tasks
        self._siblings = siblings
        self._known: dict[str, int] = {}
        self._tallies: dict[tuple[str, str, str, Result, bool, bool], _Tally] = {}
        self._new: Counter[str] = Counter()
        self._sending: Counter[str] = Counter()
        self._labels = {name: Labels(limit) for name, limit in _BOUNDS.items()}
        self._flushing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._audited_since: int | None = None
        """Unix time in seconds; None where hits are not audited."""

    def __call__(self, event: Event) -> None:
        """Add a fact."""
        if isinstance(event, Repeated):
            self._add(event.exchange, len(event.seconds), sum(event.seconds))
        elif isinstance(event, Exchange):
            self._add(event, 1, event.seconds)
        elif isinstance(event, Audited):
            self._add_audited(event)

    def _add_audited(self, event: Audited) -> None:
        """Add what the audit found: it is no hit, miss or saving."""
        for measure, number in (("checked", event.checked), ("wrong", event.wrong)):
            if number:
                self._new[_SEPARATOR.join((_AUDIT, _HITS, measure))] += number
        self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY, self._due)

    def _add(self, event: Exchange, times: int, seconds: float) -> None:
        """Add `times` equal exchanges; `seconds` is the sum of their times."""
        cache, saved = event.cache, event.saved
        answered = cache.result is not Result.BYPASS and event.error is None and event.status < _SERVER_ERROR
        alike = (event.operation, event.category, event.model, cache.result, cache.collapsed, answered)
        tally = self._tallies.get(alike)
        if tally is None:
            tally = self._tallies[alike] = _Tally()
        tally.times += times
        tally.seconds += seconds
        tally.items += times * event.items
        tally.known += times * event.items_known
        tally.saved_seconds += times * saved.seconds
        tally.saved_prompt += times * saved.prompt_tokens
        tally.saved_output += times * saved.output_tokens
        self._start_timer()
        if len(self._tallies) > _MAX_TALLIES:
            self._fold_tallies()

    def _fold_tallies(self) -> None:
        """Move the tallies to counters under their names in the store."""
        tallies, self._tallies = self._tallies, {}
        for (operation, category, model, result, collapsed, answered), tally in tallies.items():
            measures = tally.measures(result, collapsed=collapsed, answered=answered)
            places = [(_OPERATION, operation)]
            if result is not Result.BYPASS:
                places += [
                    (name, label)
                    for name, given in ((_CATEGORY, category), (_MODEL, model_names.short(model)))
                    if (label := self._labels[name].of(given))
                ]
            for name, label in places:
                for measure, number in measures.items():
                    if number:
                        self._new[_SEPARATOR.join((name, label, measure))] += number

    async def load(self) -> None:
        """Read the totals from the store, and with them the known categories and models."""
        await self.flush()
        for name, limit in _BOUNDS.items():
            places = (place.split(_SEPARATOR) for place in self._known)
            self._labels[name] = Labels(limit, [label for dimension, label, _ in places if dimension == name])

    async def begin_audit(self, now: float) -> None:
        """Note that hits are audited, since Unix time `now` in seconds unless they have been before."""
        moment = await self._store.set_default(_AUDITED_SINCE, b"%d" % now)
        self._audited_since = int(moment) if moment is not None and moment.isdigit() else int(now)

    async def flush(self) -> None:
        """Add new counts to the totals in the store, and read what others have added."""
        async with self._flushing:
            self._fold_tallies()
            self._sending, self._new = self._new, Counter()
            totals: dict[str, int] | None = None
            try:
                totals = await self._store.add(_NAME, self._sending, self._known)
            finally:
                if totals is None:
                    self._new.update(self._sending)
                self._sending = Counter()
            if totals is not None:
                self._known = {place: total for place, total in totals.items() if place.count(_SEPARATOR) == _PARTS}
                if self._siblings is not None:
                    self._siblings.send(Topic.TOTALS, self._known)

    async def merge_totals(self, totals: Mapping[str, int]) -> None:
        """Merge the totals of a sibling, to continue from them if the store loses its own."""
        for place, total in totals.items():
            if place not in self._sending:  # its total may already include what is being added
                self._known[place] = max(total, self._known.get(place, 0))

    async def flush_for_sibling(self) -> None:
        """Add new counts to the store, because a sibling is asked for the totals."""
        if self._tallies or self._new or self._sending:
            await self.flush()

    async def close(self) -> None:
        """Add the remaining counts to the store."""
        if self._timer is not None:
            self._timer.cancel()
        if self._tallies or self._new:
            await self.flush()

    async def totals(self) -> dict[str, Any]:
        """Return all totals for `GET /api/cache/stats`, those of siblings included. May be cancelled."""
        if self._siblings is not None:
            await self._siblings.send_and_wait(Topic.FLUSH)
        await asyncio.shield(self._tasks.spawn(self.flush(), "add to the statistics"))
        return self.snapshot()

    def snapshot(self) -> dict[str, Any]:
        """Return the totals known now, including counts that are not in the store yet."""
        self._fold_tallies()
        tables: dict[str, dict[str, Counter[str]]] = {_OPERATION: {}, _CATEGORY: {}, _MODEL: {}, _AUDIT: {}}
        for counts in (self._known, self._sending, self._new):
            for place, number in counts.items():
                name, label, measure = place.split(_SEPARATOR)
                tables.get(name, {}).setdefault(label, Counter())[measure] += number
        whole: Counter[str] = Counter()
        for counter in tables[_OPERATION].values():
            whole.update(counter)
        audited = tables.pop(_AUDIT).get(_HITS, Counter())
        audit = {"checked": audited["checked"], "wrong": audited["wrong"], "since": self._audited_since}
        rows = {name: {label: _row(table[label]) for label in sorted(table)} for name, table in tables.items()}
        for label, row in rows[_OPERATION].items():
            row["bypasses"] = tables[_OPERATION][label]["bypasses"]
        return {
            **_row(whole),
            "bypasses": whole["bypasses"],
            "audit": None if self._audited_since is None else audit,
            "byOperation": rows[_OPERATION],
            "byCategory": rows[_CATEGORY],
            "byModel": rows[_MODEL],
        }

    def _due(self) -> None:
        self._timer = None
        self._tasks.spawn(self.flush(), "add to the statistics")


def _row(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return one row as JSON values: rates in percent, seconds to the millisecond."""
    hits, misses, known, unknown = (counts.get(name, 0) for name in ("hits", "misses", "itemHits", "itemMisses"))
    return {
        "hits": hits,
        "misses": misses,
        "hitRate": _rate(hits, misses),
        "collapsed": counts.get("collapsed", 0),
        "items": {"hits": known, "misses": unknown, "hitRate": _rate(known, unknown)},
        "savedSeconds": round(counts.get("savedMicroseconds", 0) / _MICRO, 3),
        "savedTokens": {
            "prompt": counts.get("savedPromptTokens", 0),
            "output": counts.get("savedOutputTokens", 0),
        },
        "averageSeconds": _averages(counts),
    }


def _averages(counts: Mapping[str, int]) -> dict[str, float | None]:
    """Return average seconds of a response: of hits, misses, both, and an estimate of both without a cache."""
    hits, misses = counts.get("hitAnswers", 0), counts.get("missAnswers", 0)
    of_hits, of_misses = counts.get("hitMicroseconds", 0), counts.get("missMicroseconds", 0)
    without = of_misses + counts.get("savedMicroseconds", 0)
    return {
        "hit": _average(of_hits, hits),
        "miss": _average(of_misses, misses),
        "overall": _average(of_hits + of_misses, hits + misses),
        "withoutCache": _average(without, hits + misses),
    }


def _average(microseconds: int, times: int) -> float | None:
    return round(microseconds / times / _MICRO, 6) if times else None


def _rate(hits: int, misses: int) -> float:
    return round(100 * hits / (hits + misses), 1) if hits + misses else 0.0
