"""What was recorded of a real server: its models, some tokens, and its responses to the recorded prompts.

`recorded.json` is derived from the recording. Texts are stored token by token, so that other limits and stop texts
work on them; vectors are little-endian float32 in base64. `raw` is a vector as the model computed it, `unit` one known
only after normalisation, `prefix` the normalised first floats of one whose rest is unknown.
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
    """A recorded continuation of a rendered prompt; `logprobs` ranks (token, logprob) for the first pieces."""

    prompt_tokens: int
    pieces: tuple[str, ...]
    logprobs: tuple[tuple[tuple[str, float], ...], ...]


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


def _known_answers() -> dict[tuple[str, tuple[int, ...], str, float], KnownAnswer]:
    return {
        (row["prompt"], tuple(row.get("context", ())), row.get("format", ""), float(row["temperature"])): KnownAnswer(
            prompt_tokens=row["prompt_tokens"],
            pieces=tuple(row["pieces"]),
            logprobs=tuple(tuple((token, value) for token, value in ranked) for ranked in row.get("logprobs", ())),
        )
        for row in _DATA["answers"]
    }


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


MODELS: list[dict[str, Any]] = _DATA["models"]
"""Rows of the recorded model list, with the responses of `show` and `ps`."""

TOKENS: dict[str, int] = _DATA["tokens"]
"""Token numbers of texts longer than one byte, as far as the recording shows them."""

ANSWERS_OF: str = _DATA["answers_of"]
"""The digest of the model of ANSWERS; there are none for other digests."""

ANSWERS = _known_answers()
"""Known continuations by (rendered prompt, context, format, temperature)."""

VECTORS = _known_vectors()
"""Known embeddings by (digest, text)."""
