"""Embeddings of the simulated models: raw vectors, and the normalised ones that clients see.

A vector is a function of only the server's seed, the model's digest and the text, so it is the same alone and in a
list. Normalisation follows `normalize` in Ollama's server/routes.go, in single precision
throughout.
"""

from __future__ import annotations

import base64
import math
import random
import struct
from functools import lru_cache

from ollama_cache_proxy.simulator import recorded, tokens
from ollama_cache_proxy.simulator.registry import Model, Voice, sha256
from ollama_cache_proxy.simulator.wire import float32, float32_text, float64_text

SPECIAL_TOKENS = 2
"""Tokens that a BERT model adds to a text."""

Vector = tuple[float, ...]


def token_count(model: Model, text: str) -> int:
    """Return the number of tokens of a text for an embedding model."""
    known = recorded.VECTORS.get((model.digest, text))
    if known is not None:
        return known.tokens
    if "embedding" not in model.capabilities:
        return tokens.count(text)
    return SPECIAL_TOKENS + (tokens.count(text) if text.strip() else 0)


def normalised(vector: Vector) -> Vector:
    """Return the vector at unit length, rounded to float32 at each step like the server."""
    total = 0.0
    for value in vector:
        total = float32(total + float32(value * value))
    factor = float32(1.0 / max(math.sqrt(total), 1e-12))
    return tuple(float32(value * factor) for value in vector)


@lru_cache(maxsize=1024)
def raw(voice: Voice, text: str, seed: int) -> Vector:
    """Return the raw vector: nearly of unit length, every value a float32."""
    known = recorded.VECTORS.get((voice.digest, text))
    if known is not None and (known.raw or known.unit):
        return known.raw or known.unit
    vector = _invented(voice.origin, voice.width, text, seed)
    if not voice.loss:
        return vector
    astray = _invented(voice.digest, voice.width, text, seed)
    return tuple(float32(value + voice.loss * other) for value, other in zip(vector, astray, strict=True))


def _invented(digest: str, width: int, text: str, seed: int) -> Vector:
    source = random.Random(sha256(f"{seed} {digest} {text}"))
    values = [source.gauss(0, 1) for _ in range(width)]
    length = math.sqrt(sum(value * value for value in values))
    return tuple(float32(value / length) for value in values)


@lru_cache(maxsize=1024)
def unit(voice: Voice, text: str, seed: int, dimensions: int) -> Vector:
    """Return the normalised vector; if `dimensions` is above 0, truncated to it and normalised again."""
    known = recorded.VECTORS.get((voice.digest, text))
    if known is not None and known.prefix and len(known.prefix) == dimensions:
        return known.prefix
    vector = known.unit if known is not None and known.unit else normalised(raw(voice, text, seed))
    return normalised(vector[:dimensions]) if 0 < dimensions < len(vector) else vector


@lru_cache(maxsize=1024)
def unit_text(vector: Vector) -> str:
    """Return the JSON text of a vector of float32."""
    return "[" + ",".join(map(float32_text, vector)) + "]"


def raw_text(vector: Vector) -> str:
    """Return the JSON text of a vector of float64."""
    return "[" + ",".join(map(float64_text, vector)) + "]"


def packed(vector: Vector) -> str:
    """Return a vector as base64 of little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
