"""Whether two installed models can be compared as quantizations of one model, by what Ollama tells of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ollama_cache_proxy.policy.model_rows import text
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.workbench import shown
from ollama_cache_proxy.workbench.shown import Shown

_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)([KMB]?)")
_UNITS: Final = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}
_ANOTHER_SIZE: Final = 1.5
"""From this ratio of parameters on, two models are different ones. Less may be one model of which one file holds the
token embeddings twice: 0.75 and 0.60 billion parameters of qwen3:0.6b."""


@record
class Installed:
    """An installed model, by its row in `/api/tags` and by `/api/show`."""

    name: str
    digest: str
    """Empty where Ollama does not tell."""
    level: str
    """Its quantization level."""
    size: int
    """Bytes on disk."""
    family: str
    """Empty where Ollama does not tell, as are the parameters."""
    parameters: str
    """Their number as Ollama spells it (`HumanNumber` in format/format.go): 344K, 22.57M, 4.0B."""
    embeds: bool
    """Whether it embeds and does not complete."""
    shown: Shown


def refusal(source: Installed, other: Installed) -> str:
    """Return why a model cannot be a quantization of the source, empty if it can."""
    one, two = source.name, other.name
    if source.digest and source.digest == other.digest:
        return f"{two} is the same model as {one}: both have the digest {source.digest[:12]}"
    if shown.weights(source.shown) is not None and shown.weights(source.shown) == shown.weights(other.shown):
        return f"{two} has the weights of {one}: both are made of one GGUF file"
    if source.embeds is not other.embeds:
        embedding, completing = (one, two) if source.embeds else (two, one)
        return f"{embedding} only embeds, and {completing} completes"
    if source.family and other.family and source.family != other.family:
        return f"{two} is of another family than {one}: {other.family}, not {source.family}"
    if _another_size(source, other):
        return f"{two} is not of the size of {one}: {_shape(other)}, not {_shape(source)}"
    return ""


def notes(source: Installed, other: Installed) -> list[str]:
    """Return what may mislead in a comparison that is not refused."""
    found = []
    if not (source.family and other.family and source.parameters and other.parameters):
        found.append(f"Ollama does not tell whether {other.name} is of the family and size of {source.name}")
    elif source.parameters != other.parameters:
        found.append(
            f"{other.name} has {other.parameters} parameters and {source.name} {source.parameters}:"
            " it may be another model"
        )
    if other.size > source.size:
        found.append(f"{other.name} is larger than {source.name}, with which it is compared; name the largest first")
    if different := [] if source.embeds else _different(source.shown, other.shown):
        found.append(
            f"{other.name} has another {' and '.join(different)} than {source.name}, which changes completions too"
        )
    return found


def _another_size(source: Installed, other: Installed) -> bool:
    pairs = zip(_dimensions(source.shown), _dimensions(other.shown), strict=True)
    if any(one is not None and two is not None and one != two for one, two in pairs):
        return True
    counts = [_count(source.parameters), _count(other.parameters)]
    return min(counts) > 0 and max(counts) / min(counts) >= _ANOTHER_SIZE


def _count(parameters: str) -> float:
    """Return a number of parameters, 0 where it is not told."""
    found = _NUMBER.fullmatch(parameters)
    return float(found[1]) * _UNITS[found[2]] if found else 0.0


def _dimensions(about: Shown) -> Sequence[int | None]:
    """Return the number of layers, and the width; None where not told."""
    return [shown.dimension(about, name) for name in ("block_count", "embedding_length")]


def _shape(model: Installed) -> str:
    layers, width = _dimensions(model.shown)
    told = [
        f"{model.parameters} parameters" if model.parameters else "",
        f"{layers} layers" if layers is not None else "",
        f"width {width}" if width is not None else "",
    ]
    return ", ".join(filter(None, told))


def _different(one: Shown, two: Shown) -> list[str]:
    """Return what differs of what completions depend on beside the weights."""
    differs = {
        "template": shown.rendering(one) != shown.rendering(two),
        "system text": text(one, "system") != text(two, "system"),
        "set of parameters": _lines(one) != _lines(two),
    }
    return [name for name, is_different in differs.items() if is_different]


def _lines(about: Shown) -> list[str]:
    return sorted(text(about, "parameters").splitlines())
