"""What this process did lately: its last requests, how many came in the last minutes, and how fast Ollama wrote.

It is kept in a few bounded tables, and written out only for whoever looks. Nothing here is shared with other processes:
totals are those of statistics.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ollama_cache_proxy.core.facts import Event, Exchange, Health, Part, Repeated, Worked
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.status import Result

SPAN: Final = 5
"""Seconds that are counted together."""
_SPANS: Final = 120
_ROWS: Final = 30
_MINUTE: Final = 60.0
_RESULTS: Final = (Result.HIT, Result.MISS, Result.BYPASS)


@dataclass(slots=True)
class _Span:
    """What happened in SPAN seconds, `at` the first of which the span begins; `seconds` are Ollama's for `tokens`."""

    at: int
    counts: dict[Result, int]
    tokens: int = 0
    seconds: float = 0.0


class _Row(NamedTuple):
    """Requests that were alike: `times` of them, the last one at `at` (Unix time); `seconds` are those of all."""

    exchange: Exchange
    at: float
    times: int
    seconds: float


class Recent:
    """Observes, and tells. `now` is Unix time in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begun = now()
        self._spans: deque[_Span] = deque(maxlen=_SPANS)
        self._rows: deque[_Row] = deque(maxlen=_ROWS)
        self._repeated: dict[str, _Row] = {}
        """By key; the one that was told last at the end."""
        self._health = {Part.STORE: Health(part=Part.STORE, well=True, name="")}
        """A store in memory never says so itself."""

    def __call__(self, event: Event) -> None:
        """Take a fact in."""
        match event:
            case Exchange():
                self._rows.append(_Row(event, self._now(), 1, event.seconds))
                self._span().counts[event.cache.result] += 1
            case Repeated():
                self._repeat(event.exchange, len(event.seconds), sum(event.seconds))
            case Worked(usage=usage) if usage.output_tokens and usage.output_seconds:
                span = self._span()
                span.tokens += usage.output_tokens
                span.seconds += usage.output_seconds
            case Health():
                self._health[event.part] = event
            case _:
                pass

    def _repeat(self, exchange: Exchange, times: int, seconds: float) -> None:
        self._span().counts[exchange.cache.result] += times
        before = self._repeated.pop(exchange.key, None)
        if before is not None:
            times, seconds = times + before.times, seconds + before.seconds
        self._repeated[exchange.key] = _Row(exchange, self._now(), times, seconds)
        if len(self._repeated) > _ROWS:
            del self._repeated[next(iter(self._repeated))]

    def _span(self) -> _Span:
        at = int(self._now()) // SPAN * SPAN
        if not self._spans or self._spans[-1].at != at:
            self._spans.append(_Span(at, dict.fromkeys(_RESULTS, 0)))
        return self._spans[-1]

    def rate(self) -> float:
        """Give the requests a second of the last minute, or since the start where that is nearer."""
        now = self._now()
        since = max(self._begun, now - _MINUTE)
        came = sum(sum(span.counts.values()) for span in self._spans if span.at + SPAN > since)
        return came / max(1.0, now - since)

    def tokens_per_second(self) -> float | None:
        """Give how fast Ollama wrote in the last minutes, by its own figures; None where it wrote nothing."""
        spans = self._recent_spans()
        seconds = sum(span.seconds for span in spans)
        return sum(span.tokens for span in spans) / seconds if seconds else None

    def history(self) -> list[list[int]]:
        """Give the spans of the last ten minutes that have any request: their Unix time, hits, misses, bypasses."""
        return [[span.at, *span.counts.values()] for span in self._recent_spans() if any(span.counts.values())]

    def _recent_spans(self) -> list[_Span]:
        oldest = self._now() - SPAN * _SPANS
        return [span for span in self._spans if span.at > oldest]

    def requests(self) -> list[dict[str, Any]]:
        """Give the last requests, the newest first; those known by their bytes alone stand together."""
        rows = sorted((*reversed(self._rows), *reversed(self._repeated.values())), key=lambda row: -row.at)
        return [_shown(row) for row in rows[:_ROWS]]

    def state(self, part: Part) -> Mapping[str, str]:
        """Give how a neighbour is: ok, down and why, or unknown before it was asked."""
        health = self._health.get(part)
        if health is None:
            return {"state": "unknown"}
        return {"state": "ok"} if health.well else {"state": "down", "reason": health.reason}


def _shown(row: _Row) -> dict[str, Any]:
    """Show a row: milliseconds are those of one request, `reason` is a word of docs/cache-rules.md."""
    exchange, cache = row.exchange, row.exchange.cache
    if exchange.error is not None:
        reason = f"error: {exchange.error.value}"
    elif cache.detail is not None:
        reason = cache.detail.value
    else:
        reason = "collapsed" if cache.collapsed else "stored" if cache.stored else ""
    return {
        "time": round(row.at, 3),
        "operation": exchange.operation,
        "model": model_names.short(exchange.model),
        "result": cache.result.value.lower(),
        "reason": reason,
        "status": exchange.status,
        "times": row.times,
        "milliseconds": round(1000 * row.seconds / row.times, 3),
    }
