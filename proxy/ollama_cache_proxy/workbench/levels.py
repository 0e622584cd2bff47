"""Quantizations that Ollama can make (`ParseFileType` in fs/ggml/type.go, 0.24), their names and rough sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.policy import model_names

BITS: Final = {"F32": 32.0, "BF16": 16.0, "F16": 16.0, "Q8_0": 8.5, "Q4_K_M": 4.9, "Q4_K_S": 4.6}
"""Approximate bits per weight: blocks carry their scales, and some tensors are stored at a higher precision."""

SOURCES: Final = ("F16", "BF16", "F32")
"""Levels that Ollama can quantize."""

TARGETS: Final = ("q8_0", "q4_K_M", "q4_K_S", "f16")
"""Levels that Ollama can quantize to."""

_BLOCK: Final = 256
"""Weights in a block of the levels of four bits."""

_UNFIT_BITS: Final = 7.5
"""Approximate bits per weight of levels of four bits if the model's width is not a multiple of their block."""

_MARGIN: Final = 1.1
"""The factor by which more disk space is asked for than estimated."""

_UNQUANTIZED_TAG: Final = re.compile(r"(?i)\b(fp16|f16|bf16|fp32|f32)$")
_ANY_LEVEL: Final = re.compile(r"(?i)\b(?:fp16|f16|bf16|fp32|f32|q[0-9]_(?:k_[sml]|k|[01]))$")


_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_NO_MORE_SINCE: Final = (0, 34, 1)

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model to make."""

    level: str
    """As Ollama spells it."""
    name: str


def read_target(text: str, source: str) -> Target:
    """Return the target for LEVEL or LEVEL=NAME, by default named like the source with the level in its tag.

    Raise ValueError for an unknown level or a wrong name.
    """
    level, _, name = text.partition("=")
    spelled = next((target for target in TARGETS if target.lower() == level.lower()), None)
    if spelled is None:
        raise ValueError(f"{level!r} is not a level that Ollama can quantize to: {', '.join(TARGETS)}")
    if name and model_names.canonical(name) is None:
        raise ValueError(f"{name!r} is not the name of a model")
    return Target(level=spelled, name=tagged(name or result_name(source, spelled)))


def tagged(name: str) -> str:
    """Return a name with its tag, as lists show it."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def result_name(source: str, level: str) -> str:
    """Return the name of a result: `llama3.2:3b-q4_K_M` for `llama3.2:3b-fp16`, `tiny:q4_K_M` for `tiny`."""
    base, _, tag = tagged(source).rpartition(":")
    if tag.lower() == "latest":
        return f"{base}:{level}"
    marked = _UNQUANTIZED_TAG.sub(level, tag)
    return f"{base}:{marked if marked != tag else f'{tag}-{level}'}"


def same(one: str, other: str) -> bool:
    """Return whether two spellings name the same model."""
    return (model_names.canonical(one) or one) == (model_names.canonical(other) or other)


def is_cloud(name: str) -> bool:
    """Return whether a model runs in Ollama's cloud, by its name."""
    return model_names.is_remote(name)


def can_quantize(version: str) -> bool:
    """Return whether this version of Ollama quantizes GGUF models; one that is not understood may.

    Since 0.34.1 it answers 400 (`validateCreateOptions` in server/create.go).
    """
    found = _VERSION.match(version)
    return found is None or tuple(map(int, found.groups())) < _NO_MORE_SINCE


def instead(source: str) -> str:
    """Return how to measure a quantized model where Ollama makes none of this source."""
    return (
        "`ollama pull` a quantized tag, or quantize the file with llama.cpp's llama-quantize and `ollama create` a"
        f" model of it, and measure that: `quantize {source} --with NAME`; or let an older Ollama do it (--upstream)"
    )


def refusal(model: str, level: str, wanted: Sequence[Target]) -> str:
    """Return why a model of this level cannot be quantized, and what to do instead; empty if it can."""
    if level.upper() not in SOURCES:
        base, _, tag = tagged(model).rpartition(":")
        marked = _ANY_LEVEL.sub(wanted[0].level, tag)
        ready = f"{base}:{marked}" if marked != tag else f"{base}:TAG, with a TAG that ends in {wanted[0].level}"
        return (
            f"{model} is {level}, and only {', '.join(SOURCES)} can be quantized; use a ready-made one, `ollama pull"
            f" {ready}`, or an unquantized source (tags that end in fp16)"
        )
    for target in wanted:
        if BITS[target.level.upper()] >= BITS[level.upper()]:
            return f"{model} is {level} already: {target.level} would not be smaller"
    return ""


def estimate(size: int, level: str, target: str, width: int) -> int:
    """Return the estimated bytes of a model of `size` bytes after quantization; `width` is its embedding length."""
    bits = BITS[target.upper()]
    if target.startswith("q4") and width % _BLOCK:
        bits = _UNFIT_BITS
    return round(size * bits / BITS[level.upper()])


def needed(estimates: Sequence[int]) -> int:
    """Return the bytes that must be free: all results, and the largest once more, since Ollama copies it at the end."""
    return round((sum(estimates) + max(estimates)) * _MARGIN)


def spelled(size: int) -> str:
    """Return a number of bytes as text with three digits."""
    unit = min(len(str(abs(size))) - 1, 12) // 3
    return f"{size} B" if unit == 0 else f"{size / 1000**unit:.{2 - (len(str(size)) - 1) % 3}f} {_UNITS[unit]}"
