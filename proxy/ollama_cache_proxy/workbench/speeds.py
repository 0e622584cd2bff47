"""Speeds, by what Ollama's own form tells at the end of a response; None where it does not tell all that is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, Final

from ollama_cache_proxy.policy.model_rows import figure

_NANO: Final = 1e-9

NOT_TOLD: Final = "not told"
"""What stands in a table for a figure that Ollama does not tell."""


def prompt_rate(last: Mapping[str, Any]) -> float | None:
    """Return the prompt tokens a second that Ollama computed.

    `prompt_eval_count` is also of those from its prompt cache, `prompt_eval_duration` is not, so it has to tell
    `prompt_eval_cached_count` too, which it does since 0.33.3 (`api.Metrics`).
    """
    count, cached = figure(last, "prompt_eval_count"), figure(last, "prompt_eval_cached_count")
    return None if count is None or cached is None else _rate(count - cached, last, "prompt_eval_duration")


def output_rate(last: Mapping[str, Any]) -> float | None:
    """Return the output tokens a second."""
    count = figure(last, "eval_count")
    return None if count is None else _rate(count, last, "eval_duration")


def load_seconds(last: Mapping[str, Any]) -> float | None:
    """Return the seconds that Ollama took to load the model."""
    nanoseconds = figure(last, "load_duration")
    return None if nanoseconds is None else nanoseconds * _NANO


def told_median(figures: Iterable[float | None]) -> float | None:
    """Return the median of the figures that are told; None where none is."""
    told = [value for value in figures if value is not None]
    return median(told) if told else None


def told_least(figures: Iterable[float | None]) -> float | None:
    """Return the least of the figures that are told; None where none is."""
    return min((value for value in figures if value is not None), default=None)


def _rate(count: int, last: Mapping[str, Any], duration: str) -> float | None:
    nanoseconds = figure(last, duration)
    return count / (nanoseconds * _NANO) if nanoseconds and count > 0 else None
