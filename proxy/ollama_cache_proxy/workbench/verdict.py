"""Which of several quantized models to take, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.workbench.fidelity import Completing, Embedding

SAME_NEXT: Final = 0.9
DIVERGENCE: Final = 0.1
SAME_ANSWER: Final = 0.5
COSINE: Final = 0.99
"""From here on a model counts as true to its source: conventions, which docs/quantization.md explains."""

_SMALLER: Final = 0.95
_SIMILAR: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One model, measured. Sizes are bytes, times seconds, rates tokens a second; `fidelity` is None for a source.

    `memory` and `vram` are what /api/ps says: all of it, and how much of that lies in the memory of GPUs. `first_token`
    of a model that embeds is the time of a whole answer.
    """

    name: str
    level: str
    size: int
    memory: int
    vram: int
    load: float
    prompt_rate: float
    output_rate: float | None
    first_token: float
    fidelity: Completing | Embedding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to take, the source's name among what can be, and why."""

    take: str
    why: str


def recommend(source: Measured, results: Sequence[Measured]) -> Verdict:
    """Take the smallest that is true to its source and smaller than it; else the source."""
    true = [result for result in results if not doubt(result.fidelity) and result.size < _SMALLER * source.size]
    if not true:
        return Verdict(take=source.name, why="; ".join(_against(source, result) for result in results))
    best = min(true, key=lambda result: (result.size, -_rate(result)))
    reasons = [f"{best.size / source.size:.0%} of the size", *_speed(source, best)]
    if source.vram < source.memory and 0 < best.memory == best.vram:
        reasons.append("fits into the GPU's memory, which the source does not")
    reasons.append(f"true to its source: {_fidelity_text(best.fidelity)}")
    smaller = [result for result in results if result.size < best.size]
    return Verdict(take=best.name, why="; ".join([*reasons, *(_against(source, result) for result in smaller)]))


def _speed(source: Measured, best: Measured) -> list[str]:
    if not _rate(source):
        return []
    times = _rate(best) / _rate(source)
    return ["about as fast" if abs(times - 1) < _SIMILAR else f"{times:.2g} times as fast"]


def _rate(model: Measured) -> float:
    return model.prompt_rate if model.output_rate is None else model.output_rate


def _against(source: Measured, result: Measured) -> str:
    why = doubt(result.fidelity) or f"is {result.size / source.size:.0%} of the source's size, hardly smaller"
    return f"{result.name} {why}"


def doubt(fidelity: Completing | Embedding | None) -> str:
    """Say why a model is not true to its source; empty where it is."""
    match fidelity:
        case Completing(same_next=None, same_answer=share) if share < SAME_ANSWER:
            return f"goes on as its source for {share:.0%} of the tokens only (at least {SAME_ANSWER:.0%})"
        case Completing(same_next=float(share)) if share < SAME_NEXT:
            return f"has the source's next token in {share:.0%} of cases only (at least {SAME_NEXT:.0%})"
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
        case Completing(same_answer=share):
            return f"the same answer for {share:.0%} of the tokens"
        case Embedding(cosine=cosine):
            return f"a cosine of {cosine:.4f}"
        case None:
            return "not measured"
