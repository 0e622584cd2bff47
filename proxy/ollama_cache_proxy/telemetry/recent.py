"""Recent activity of this process: its last requests, counts of the last minutes, and Ollama's speed.

It is held in a few bounded tables, and rendered only on demand. Nothing here is shared with other processes: totals are
in statistics.py.
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
"""Spans that are held: ten minutes."""
_ROWS: Final = 30
"""Requests that are held."""
_MINUTE: Final = 60.0
"""Seconds of the request rate."""
_RESULTS: Final = (Result.HIT, Result.MISS, Result.BYPASS)


@dataclass(slots=True)
class _Span:
    """Counts of SPAN seconds."""

    at: int
    """Unix time at which the span begins."""
    counts: dict[Result, int]
    tokens: int = 0
    """Tokens that Ollama wrote."""
    seconds: float = 0.0
    """Seconds that Ollama took to write them."""


class _Row(NamedTuple):
    """`times` equal requests, the last one at `at` (Unix time); `seconds` is the sum of their times."""

    exchange: Exchange
    at: float
    times: int
    seconds: float


class Recent:
    """An observer of recent activity. `now` is Unix time in seconds."""

    takes: Final = frozenset({Exchange, Repeated, Worked, Health})

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begun = now()
        self._spans: deque[_Span] = deque(maxlen=_SPANS)
        self._rows: deque[_Row] = deque(maxlen=_ROWS)
        self._repeated: dict[str, _Row] = {}
        """By key; the latest one is at the end."""
        self._health = {Part.STORE: Health(part=Part.STORE, well=True, name="")}
        """The memory store never reports its health."""

    def __call__(self, event: Event) -> None:
        """Add a fact."""
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
        """Return the requests per second of the last minute, or since the start if that is shorter."""
        now = self._now()
        since = max(self._begun, now - _MINUTE)
        came = sum(sum(span.counts.values()) for span in self._spans if span.at + SPAN > since)
        return came / max(1.0, now - since)

    def tokens_per_second(self) -> float | None:
        """Return Ollama's tokens per second in the last ten minutes, by its own figures; None if it wrote nothing."""
        spans = self._recent_spans()
        seconds = sum(span.seconds for span in spans)
        return sum(span.tokens for span in spans) / seconds if seconds else None

    def history(self) -> list[list[int]]:
        """Return the spans of the last ten minutes with requests: Unix time, hits, misses and bypasses of each."""
        return [[span.at, *span.counts.values()] for span in self._recent_spans() if any(span.counts.values())]

    def _recent_spans(self) -> list[_Span]:
        oldest = self._now() - SPAN * _SPANS
        return [span for span in self._spans if span.at > oldest]

    def requests(self) -> list[dict[str, Any]]:
        """Return the last requests, the newest first; hits of the fast path are one row per key."""
        rows = sorted((*reversed(self._rows), *reversed(self._repeated.values())), key=lambda row: -row.at)
        return [_shown(row) for row in rows[:_ROWS]]

    def state(self, part: Part) -> Mapping[str, str]:
        """Return the state of a neighbour: ok, down with a reason, or unknown before it was asked."""
        health = self._health.get(part)
        if health is None:
            return {"state": "unknown"}
        return {"state": "ok"} if health.well else {"state": "down", "reason": health.reason}


def _shown(row: _Row) -> dict[str, Any]:
    """Return a row as JSON values: `milliseconds` is the average, `reason` one of docs/cache-rules.md."""
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
