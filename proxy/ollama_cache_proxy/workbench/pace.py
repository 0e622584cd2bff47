"""How long it may take Ollama to make a quantized model, by sizes and by the ones that it made before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.workbench.levels import spelled as size

_MINUTE: Final = 60
_HOUR: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A model that was made in this run."""

    name: str
    moved: int
    """Bytes read and written: the source, and the estimated result."""
    seconds: float


def about(source: int, result: int, before: Made | None) -> str:
    """Return what is known in advance: the sizes in bytes, and after the first model, how long it may take.

    The time is taken to grow with the bytes that are read and written.
    """
    sizes = f"reads {size(source)}, writes about {size(result)}"
    if before is None or before.moved <= 0:
        return sizes
    seconds = before.seconds * (source + result) / before.moved
    return f"{sizes}; about {spelled(seconds)}, by these sizes and the {spelled(before.seconds)} of {before.name}"


def spelled(seconds: float) -> str:
    """Return a time as text, in whole seconds, with minutes from one minute on, and hours from one hour on."""
    whole = max(1, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
