"""What `doctor` saw of loaded models before: a small file of its own, since no digest shows their context length."""

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
    """The context length of a model in tokens, since when (Unix time), under which epoch, and what it was before."""

    context: int
    epoch: str
    since: float
    before: int


def state_file() -> Path:
    """Give the path of the file, where programs keep what they can do without."""
    folder = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(folder) if folder else Path.home() / ".local" / "state") / _FILE


def observe(seen: Seen | None, context: int, epoch: str, now: float, lifetime: int) -> tuple[Seen, bool]:
    """Give what is seen now, and whether entries of another context may still be kept under the same epoch."""
    if seen is None or seen.epoch != epoch:
        return Seen(context=context, epoch=epoch, since=now, before=context), False
    if seen.context != context:
        return Seen(context=context, epoch=epoch, since=now, before=seen.context), True
    return seen, seen.before != context and now - seen.since < lifetime


def read(path: Path, url: str) -> dict[str, Seen]:
    """Give what was seen at an Ollama by digest; nothing where there is no file that says so."""
    try:
        return {digest: Seen(**row) for digest, row in orjson.loads(path.read_bytes())[url].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write(path: Path, url: str, seen: dict[str, Seen]) -> None:
    """Keep it, beside what was seen at others; where that cannot be, the next look has nothing to compare."""
    try:
        others = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        others = {}
    others = others if isinstance(others, dict) else {}
    document = orjson.dumps(others | {url: {digest: asdict(row) for digest, row in seen.items()}})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(document)
        fresh.replace(path)
