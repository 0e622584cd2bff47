"""The results of `bench`, and their tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ollama_cache_proxy.workbench.sheet import Sheet
from ollama_cache_proxy.workbench.speeds import NOT_TOLD
from ollama_cache_proxy.workbench.spread import Spread, seconds, spelled

_NONE = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The results of one operation: seconds to the last byte of a response."""

    operation: str
    direct: Spread
    """Sent directly to Ollama."""
    miss: Spread
    hit: Spread | None
    """None if there were no hits."""
    note: str = ""
    """Why there were none."""

    @property
    def speedup(self) -> float | None:
        """The median time of Ollama divided by that of a hit."""
        return None if self.hit is None else self.direct.median / self.hit.median


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """The results of streams in seconds, directly from Ollama and through the proxy; None where none had tokens."""

    first_direct: Spread | None
    """To the first token."""
    first_proxied: Spread | None
    chunk_direct: Spread | None
    """From one token to the next."""
    chunk_proxied: Spread | None


def sheet(found: Sequence[Found]) -> Sheet:
    """Return the table of operations."""
    rows = [
        (
            one.operation,
            spelled(one.direct),
            _NONE if one.hit is None else spelled(one.hit),
            _NONE if one.speedup is None else f"{one.speedup:,.1f}x" if one.speedup < 100 else f"{one.speedup:,.0f}x",  # noqa: PLR2004
            spelled(one.miss),
        )
        for one in found
    ]
    return Sheet(columns=("Operation", "Without cache", "Hit", "Speedup", "Miss"), rows=rows)


def stream_sheet(streamed: Streamed) -> Sheet:
    """Return the table of streams; the last column is the difference of the medians."""
    pairs = (
        ("First token", streamed.first_direct, streamed.first_proxied),
        ("Each further token", streamed.chunk_direct, streamed.chunk_proxied),
    )
    rows = [(name, _told(direct), _told(proxied), _added(direct, proxied)) for name, direct, proxied in pairs]
    return Sheet(columns=("Stream", "Without proxy", "Through proxy", "Added"), rows=rows)


def _told(measured: Spread | None) -> str:
    return NOT_TOLD if measured is None else spelled(measured)


def _added(direct: Spread | None, proxied: Spread | None) -> str:
    if direct is None or proxied is None:
        return NOT_TOLD
    value = proxied.median - direct.median
    return f"{'-' if value < 0 else '+'}{seconds(abs(value))}"


def document(found: Sequence[Found], streamed: Streamed | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of all results; times are in seconds."""
    operations = [
        {
            "operation": one.operation,
            "withoutCache": asdict(one.direct),
            "miss": asdict(one.miss),
            "hit": _values(one.hit),
            "speedup": one.speedup,
            "note": one.note,
        }
        for one in found
    ]
    stream = (
        None
        if streamed is None
        else {
            "firstToken": {"direct": _values(streamed.first_direct), "proxied": _values(streamed.first_proxied)},
            "perToken": {"direct": _values(streamed.chunk_direct), "proxied": _values(streamed.chunk_proxied)},
        }
    )
    return {**facts, "operations": operations, "stream": stream}


def _values(measured: Spread | None) -> dict[str, Any] | None:
    return None if measured is None else asdict(measured)
