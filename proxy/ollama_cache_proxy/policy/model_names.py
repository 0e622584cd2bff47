"""Model names as Ollama resolves them (`types/model/name.go`, 0.24 to 0.33).

A name has up to four parts, host/namespace/model:tag; what is missing is filled in with Ollama's defaults, and parts
compare without regard to case. A spelling that does not follow these rules resolves to nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAMESPACE: Final = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_HOST: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"
_NAME: Final = re.compile(
    rf"(?:(?:(?P<host>{_HOST})/)?(?P<namespace>{_NAMESPACE})/)?(?P<model>{_PART})(?::(?P<tag>{_PART}))?"
)

_MAX_NAME: Final = 1024
"""Characters; the longest name of four parts has 594."""

REMOTE_SUFFIXES: Final = (":cloud", "-cloud")
_LOCAL: Final = "local"
"""Not a tag: Ollama removes it and uses the model of the rest (`internal/modelref`)."""


def canonical(name: str) -> str | None:
    """Return the full lower-case spelling of a model's name, or None where it is no valid name."""
    return _canonical(name) if len(name) <= _MAX_NAME else None


@lru_cache(maxsize=256)
def _canonical(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    if match is None or (match["tag"] or "").lower() == _LOCAL:
        return None
    host = match["host"] or "registry.ollama.ai"
    namespace = match["namespace"] or "library"
    return f"{host}/{namespace}/{match['model']}:{match['tag'] or 'latest'}".lower()


@lru_cache(maxsize=1024)
def short(name: str) -> str:
    """Return a model's name as Ollama lists it, `model:tag`; an invalid name is returned unchanged."""
    full = canonical(name)
    return name if full is None else full.removeprefix("registry.ollama.ai/").removeprefix("library/")


def is_remote(name: str) -> bool:
    """Return whether the name is that of one of Ollama's cloud models, which run on another machine."""
    return name.lower().endswith(REMOTE_SUFFIXES)
