"""What the embedding endpoints share: checks in the order of EmbedHandler and EmbeddingsHandler, and delays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ollama_cache_proxy.simulator import naming, releases, tokens
from ollama_cache_proxy.simulator import vectors as sources
from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.complete import RefusedError, context_length, load, schedule_options
from ollama_cache_proxy.simulator.registry import Model
from ollama_cache_proxy.simulator.vectors import Vector, unit_text

__all__ = ["RefusedError", "Vectors", "raw_vector", "unit_text", "vectors"]

_Result = TypeVar("_Result")

TOO_LONG = "the input length exceeds the context length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Normalised vectors in the order of their texts; `metrics` is empty if the model was not asked."""

    units: tuple[Vector, ...] = ()
    metrics: Mapping[str, int] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all the texts together."""
        return self.metrics.get("prompt_eval_count", 0)


async def _loaded(call: Call, request: Mapping[str, Any], unnamed: tuple[int, str]) -> tuple[Model, int]:
    """Return the loaded model of a request, and how many tokens it holds. Raise RefusedError."""
    text = request["model"]
    if not text:
        raise RefusedError(*unnamed)
    if naming.parse(text) is None:
        raise RefusedError(400, "invalid model name")
    model = call.simulator.models.find(text)
    if model is None:
        raise RefusedError(404, f'model "{text}" not found, try pulling it first')
    options = schedule_options(model, request["options"])
    await load(call, model, request["keep_alive"], options)
    return model, context_length(call.simulator.release, model, options)


def _embeds(call: Call, model: Model, status: int) -> None:
    """Raise RefusedError for a model that has no vectors."""
    if not call.simulator.release.generative_vectors and "embedding" not in model.capabilities:
        raise RefusedError(status, releases.NO_EMBEDDINGS)


def _texts(given: Any) -> list[str]:
    """Return the texts of `input`, which may be missing, a string or a list of strings."""
    match given:
        case None | "":
            return []
        case str():
            return [given]
        case list() if all(isinstance(item, str) for item in given):
            return given
        case _:
            raise RefusedError(400, "invalid input type")


def _fitting(model: Model, context: int, text: str, *, truncate: bool) -> tuple[str, int]:
    """Return a text, truncated to fit, and its number of tokens."""
    count = sources.token_count(model, text)
    if count <= context:
        return text, count
    if not truncate:
        raise RefusedError(400, TOO_LONG)
    special = sources.token_count(model, "x") - 1
    return tokens.cut(text, context - special), context


async def _after_gate(call: Call, work: Awaitable[_Result]) -> _Result:
    """Return the result of the checks, or raise their error, once the gate is open."""
    try:
        result = await work
    except RefusedError:
        await call.simulator.gate.passed()
        raise
    await call.simulator.gate.passed()
    return result


async def _checked(call: Call, request: Mapping[str, Any]) -> tuple[Model, list[tuple[str, int]], int]:
    """Return the model, the truncated texts with their tokens, and when the model was loaded."""
    if not request["model"]:
        raise RefusedError(404, "model '' not found")
    texts = _texts(request["input"])
    model, context = await _loaded(call, request, (404, "model '' not found"))
    loaded = time.perf_counter_ns()
    if texts:
        _embeds(call, model, 501)
    truncate = request["truncate"] is not False
    return model, [_fitting(model, context, text, truncate=truncate) for text in texts], loaded


async def vectors(call: Call, request: Mapping[str, Any]) -> Vectors:
    """Return the vectors of an /api/embed request. Raise RefusedError for the whole list."""
    began = time.perf_counter_ns()
    model, fitting, loaded = await _after_gate(call, _checked(call, request))
    if not fitting:
        return Vectors()
    behaviour, dimensions = call.simulator.behaviour, request["dimensions"]
    units: list[Vector] = []
    began_work = time.perf_counter()
    for text, _ in fitting:
        units.append(sources.unit(model.voice, text, behaviour.seed, dimensions))
        # A vector takes a while to compute; let other requests run.
        await asyncio.sleep(0)
    # What computing them took here is part of what it would have taken there.
    await asyncio.sleep(max(0.0, call.delay(behaviour.embedding_delay) - (time.perf_counter() - began_work)))
    call.simulator.residence.used(model)
    metrics = {
        "total_duration": time.perf_counter_ns() - began,
        "load_duration": max(loaded - began, 1),
        "prompt_eval_count": sum(count for _, count in fitting),
    }
    return Vectors(units=tuple(units), metrics=metrics)


async def raw_vector(call: Call, request: Mapping[str, Any]) -> str:
    """Return the JSON text of the vector of an /api/embeddings request."""
    model, context = await _after_gate(call, _loaded(call, request, (400, "model is required")))
    text = request["prompt"]
    if not text:
        return "[]"
    _embeds(call, model, 500)
    if sources.token_count(model, text) > context:
        raise RefusedError(500, TOO_LONG)
    await asyncio.sleep(call.delay(call.simulator.behaviour.embedding_delay))
    call.simulator.residence.used(model)
    return sources.raw_text(sources.raw(model.voice, text, call.simulator.behaviour.seed))
