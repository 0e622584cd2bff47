"""What earlier runs of `doctor` saw, in a small file: context lengths and templates, which no digest shows."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

_FILE: Final = "ollama-cache-proxy/doctor.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A number of one model: its context length in tokens, or one that stands for its template."""

    context: int
    epoch: str
    """The setting `epoch` at that time."""
    since: float
    """Unix time since when the number is the same."""
    before: int
    """The number before that."""


def state_file() -> Path:
    """Return the path of the file, in the directory for state (XDG_STATE_HOME)."""
    folder = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(folder) if folder else Path.home() / ".local" / "state") / _FILE


def observe(seen: Seen | None, context: int, epoch: str, now: float, lifetime: int) -> tuple[Seen, bool]:
    """Return the new record, and whether entries of another number may still be stored under the same epoch."""
    if seen is None or seen.epoch != epoch:
        return Seen(context=context, epoch=epoch, since=now, before=context), False
    if seen.context != context:
        return Seen(context=context, epoch=epoch, since=now, before=seen.context), True
    return seen, seen.before != context and now - seen.since < lifetime


def read(path: Path, url: str) -> dict[str, Seen]:
    """Return what was seen under a name, the URL of an Ollama, by digest; empty if the file is missing or damaged."""
    try:
        return {digest: Seen(**row) for digest, row in orjson.loads(path.read_bytes())[url].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write(path: Path, url: str, seen: dict[str, Seen]) -> None:
    """Write what was seen, beside that of other Ollamas; if it fails, the next run has nothing to compare with."""
    try:
        others = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        others = {}
    others = others if isinstance(others, dict) else {}
    document = orjson.dumps(others | {url: {digest: asdict(row) for digest, row in seen.items()}})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(document)
        temporary.replace(path)
