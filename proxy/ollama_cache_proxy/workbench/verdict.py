"""Which of several quantized models to use, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.workbench.fidelity import Completing, Embedding

SAME_NEXT: Final = 0.9
DIVERGENCE: Final = 0.1
SAME_ANSWER: Final = 0.5
COSINE: Final = 0.99
"""Bounds within which a model counts as close to its source; docs/quantization.md explains them."""

_SMALLER: Final = 0.95
"""The share of the source's size below which a model counts as smaller."""

_SIMILAR: Final = 0.1
"""The relative difference of speed below which models count as equally fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measurements of one model; None where Ollama does not tell."""

    name: str
    level: str
    size: int
    """Bytes on disk."""
    memory: int | None
    """Bytes of memory when loaded (`size` of /api/ps)."""
    vram: int | None
    """How many of those Ollama counts as GPU memory (`size_vram`), which without a GPU can be main memory."""
    load: float | None
    """Seconds to load it."""
    prompt_rate: float | None
    """Tokens a second that were computed, of a model that completes."""
    output_rate: float | None
    """Tokens a second, of a model that completes."""
    first_token: float | None
    """Seconds to the first token, of a model that embeds to the whole response."""
    embeds: bool = False
    """Whether it embeds, and does not complete."""
    fidelity: Completing | Embedding | None = None
    """None for the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A recommendation."""

    take: str
    """The name of the recommended model, which may be the source."""
    why: str


def recommend(source: Measured, results: Sequence[Measured], *, gpu: bool) -> Verdict:
    """Return the smallest model that is close to its source and smaller, otherwise the source.

    `gpu` is whether a GPU is known: without one, what Ollama counts as its memory says nothing.
    """
    close = [result for result in results if not doubt(result.fidelity) and result.size < _SMALLER * source.size]
    if not close:
        return Verdict(take=source.name, why="; ".join(_against(source, result) for result in results))
    best = min(close, key=lambda result: (result.size, -(_speed_of(result) or 0.0)))
    reasons = [f"{best.size / source.size:.0%} of the size", *_speed(source, best)]
    if gpu and _fits(source) is False and _fits(best):
        reasons.append("fits into the GPU's memory, which the source does not")
    reasons.append(f"close to its source: {_fidelity_text(best.fidelity)}")
    smaller = [result for result in results if result.size < best.size]
    return Verdict(take=best.name, why="; ".join([*reasons, *(_against(source, result) for result in smaller)]))


def _fits(model: Measured) -> bool | None:
    """Return whether a model is in GPU memory as a whole; None where Ollama does not tell."""
    return model.vram >= model.memory if model.memory and model.vram is not None else None


def _speed(source: Measured, best: Measured) -> list[str]:
    one, other = _speed_of(source), _speed_of(best)
    if not one or not other:
        return []
    times = other / one
    return ["about as fast" if abs(times - 1) < _SIMILAR else f"{times:.2g} times as fast"]


def _speed_of(model: Measured) -> float | None:
    """Return output tokens a second, of a model that embeds responses a second; None where Ollama does not tell."""
    if model.embeds:
        return 1 / model.first_token if model.first_token else None
    return model.output_rate


def _against(source: Measured, result: Measured) -> str:
    smaller = "not smaller" if result.size >= source.size else "hardly smaller"
    why = doubt(result.fidelity) or f"is {result.size / source.size:.0%} of the source's size, {smaller}"
    return f"{result.name} {why}"


def doubt(fidelity: Completing | Embedding | None) -> str:
    """Return why a model is not close to its source, empty if it is."""
    match fidelity:
        case Completing(same_next=None, same_answer=None):
            return "was not compared: its source completes nothing"
        case Completing(same_next=None, same_answer=float(share)) if share < SAME_ANSWER:
            return f"completes like its source for only {share:.0%} of the tokens (at least {SAME_ANSWER:.0%})"
        case Completing(same_next=float(share)) if share < SAME_NEXT:
            return f"has the source's next token in only {share:.0%} of cases (at least {SAME_NEXT:.0%})"
        case Completing(divergence=float(nats)) if nats > DIVERGENCE:
            return f"diverges from its source by {nats:.3f} nats (at most {DIVERGENCE})"
        case Embedding(cosine=cosine) if cosine < COSINE:
            return f"has vectors with a cosine of {cosine:.4f} to its source's (at least {COSINE})"
        case _:
            return ""


def _fidelity_text(fidelity: Completing | Embedding | None) -> str:
    match fidelity:
        case Completing(same_next=float(share), divergence=float(nats)):
            return f"the same next token in {share:.0%} of cases, {nats:.3f} nats of divergence"
        case Completing(same_answer=float(share)):
            return f"the same completion for {share:.0%} of the tokens"
        case Embedding(cosine=cosine):
            return f"a cosine of {cosine:.4f}"
        case _:
            return "not measured"
