"""What was recorded of real servers: their models, some tokens, and their responses to the recorded prompts.

`recorded.json` is derived from the recordings, one for each release. Texts are stored token by token, so that other
limits and stop texts work on them; vectors are little-endian float32 in base64. `raw` is a vector as the model computed
it, `unit` one known only after normalisation, `prefix` the normalised first floats of one whose rest is unknown.

A row of `models` with `"installed": false` can be pulled only: it came to be while the recording was made. A row of
`answers` is of the model tiny and of all releases unless it names others.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_DATA: dict[str, Any] = json.loads(files("ollama_cache_proxy.simulator").joinpath("recorded.json").read_text("utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """A recorded continuation of a rendered prompt; `logprobs` ranks (token, logprob) for the first pieces.

    `tokens` are the numbers of the prompt and the pieces, where `tokens.encode` would find others. With `ends` false
    the response ends after the pieces without its last part, and with an `error` it ends with that.
    """

    prompt_tokens: int
    pieces: tuple[str, ...]
    logprobs: tuple[tuple[tuple[str, float], ...], ...]
    tokens: tuple[int, ...]
    ends: bool
    error: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a recorded continuation depends on; `tools` is JSON."""

    digest: str
    prompt: str
    context: tuple[int, ...]
    format: str
    tools: str
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVector:
    """What is known of the embedding of a text; unknown forms are empty."""

    tokens: int
    raw: tuple[float, ...]
    unit: tuple[float, ...]
    prefix: tuple[float, ...]


def _floats(text: str) -> tuple[float, ...]:
    data = base64.b64decode(text)
    return struct.unpack(f"<{len(data) // 4}f", data)


def _known_answers() -> dict[Asked, KnownAnswer]:
    return {
        Asked(
            _digest(release, row.get("model", "tiny")),
            row["prompt"] if isinstance(row["prompt"], str) else row["prompt"]["text"] * row["prompt"]["times"],
            tuple(row.get("context", ())),
            row.get("format", ""),
            row.get("tools", ""),
            float(row["temperature"]),
        ): KnownAnswer(
            prompt_tokens=row["prompt_tokens"],
            pieces=tuple(row["pieces"]),
            logprobs=tuple(tuple((token, value) for token, value in ranked) for ranked in row.get("logprobs", ())),
            tokens=tuple(number for times, run in row.get("tokens", ()) for number in run * times),
            ends=row.get("ends", True),
            error=row.get("error", ""),
        )
        for row in _DATA["answers"]
        for release in row.get("releases", MODELS)
    }


def _digest(release: str, model: str) -> str:
    return next(str(row["digest"]) for row in MODELS[release] if row["name"] == f"{model}:latest")


def _known_vectors() -> dict[tuple[str, str], KnownVector]:
    return {
        (row["digest"], row["text"]): KnownVector(
            tokens=row["tokens"],
            raw=_floats(row.get("raw", "")),
            unit=_floats(row.get("unit", "")),
            prefix=_floats(row.get("prefix", "")),
        )
        for row in _DATA["vectors"]
    }


MODELS: dict[str, list[dict[str, Any]]] = _DATA["models"]
"""Rows of the recorded model lists by release, with the responses of `show` and `ps`."""

TOKENS: dict[str, int] = _DATA["tokens"]
"""Token numbers of texts longer than one byte, as far as the recording shows them."""

ANSWERS = _known_answers()
"""Known continuations."""

VECTORS = _known_vectors()
"""Known embeddings by (digest, text)."""
