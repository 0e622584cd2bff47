"""What `bench` found, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ollama_cache_proxy.workbench.sheet import Sheet
from ollama_cache_proxy.workbench.spread import Spread, seconds, spelled

_NONE = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One operation: seconds of whole answers; None where there was none to measure, for the reason in `note`."""

    operation: str
    direct: Spread
    miss: Spread
    hit: Spread | None
    note: str = ""

    @property
    def speedup(self) -> float | None:
        """How many times as fast a hit is as Ollama."""
        return None if self.hit is None else self.direct.median / self.hit.median


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """A stream of Ollama's own and one through the proxy: seconds to the first token, and from one to the next."""

    first_direct: Spread
    first_proxied: Spread
    chunk_direct: Spread
    chunk_proxied: Spread


def sheet(found: Sequence[Found]) -> Sheet:
    """Give the table of operations."""
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
    """Give the table of streams; what the proxy adds is the difference of the medians."""
    pairs = (
        ("First token", streamed.first_direct, streamed.first_proxied),
        ("Each further token", streamed.chunk_direct, streamed.chunk_proxied),
    )
    rows = [
        (name, spelled(direct), spelled(proxied), _signed(proxied.median - direct.median))
        for name, direct, proxied in pairs
    ]
    return Sheet(columns=("Stream", "Without proxy", "Through it", "Added"), rows=rows)


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{seconds(abs(value))}"


def document(found: Sequence[Found], streamed: Streamed | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give everything as JSON; times are seconds."""
    operations = [
        {
            "operation": one.operation,
            "withoutCache": asdict(one.direct),
            "miss": asdict(one.miss),
            "hit": None if one.hit is None else asdict(one.hit),
            "speedup": one.speedup,
            "note": one.note,
        }
        for one in found
    ]
    stream = (
        None
        if streamed is None
        else {
            "firstToken": {"direct": asdict(streamed.first_direct), "proxied": asdict(streamed.first_proxied)},
            "perToken": {"direct": asdict(streamed.chunk_direct), "proxied": asdict(streamed.chunk_proxied)},
        }
    )
    return {**facts, "operations": operations, "stream": stream}
