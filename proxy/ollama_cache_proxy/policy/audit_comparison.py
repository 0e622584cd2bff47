"""How much two responses to one request are alike: the stored one and a fresh one, or two fresh ones.

Vectors are compared as float32, whatever text they are written in: first bit by bit, then by the cosine. Of completions
the text, the tool calls and the reason to stop are compared, and nothing that differs between two responses of one
model: times, identifiers, and counts that depend on Ollama's prompt cache.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence
from enum import Enum
from operator import mul
from typing import Any, Final, TypeAlias

from ollama_cache_proxy.policy.dialects.dialect import objects
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.record import record

CLOSE: Final = 1e-5
"""1 - cosine up to which two vectors count as the same: kernels that add in another order, or a text beside others,
stay some ten times below it."""
SLIGHT: Final = 0.05
"""1 - cosine up to which vectors differ slightly: another precision, and not another text or model."""


class Kind(Enum):
    """In what two responses differ; a label of a metric."""

    SLIGHTLY = "vector-slightly"
    WHOLLY = "vector-wholly"
    LENGTH = "vector-length"
    TEXT = "text"


@record
class Likeness:
    """The result of a comparison: `kind` is None where the responses are the same."""

    kind: Kind | None
    exact: bool = False
    """Whether they are the same bit by bit."""


EXACT: Final = Likeness(kind=None, exact=True)
_ALIKE: Final = Likeness(kind=None)


def floats(value: Any) -> bytes | None:
    """Return a vector, as numbers or as base64, in little-endian float32; None for anything else."""
    try:
        if isinstance(value, str):
            read = binascii.a2b_base64(value, strict_mode=True)
            return read if read and not len(read) % 4 else None
        if not isinstance(value, list) or not value or isinstance(value[0], bool):
            return None
        return struct.pack(f"<{len(value)}f", *value)
    except (binascii.Error, ValueError, struct.error, OverflowError):
        return None


def compare_vectors(one: Sequence[bytes], other: Sequence[bytes]) -> Likeness:
    """Return how alike two lists of vectors are, in little-endian float32; the worst pair counts."""
    if len(one) != len(other) or any(len(first) != len(second) for first, second in zip(one, other, strict=True)):
        return Likeness(kind=Kind.LENGTH)
    unequal = [(first, second) for first, second in zip(one, other, strict=True) if first != second]
    if not unequal:
        return EXACT
    distance = max(_distance(first, second) for first, second in unequal)
    if distance <= CLOSE:
        return _ALIKE
    return Likeness(kind=Kind.SLIGHTLY if distance <= SLIGHT else Kind.WHOLLY)


def _distance(one: bytes, other: bytes) -> float:
    """Return 1 - cosine; 2, the largest there is, where it is not defined."""
    first, second = (struct.unpack(f"<{len(data) // 4}f", data) for data in (one, other))
    sizes = math.sqrt(math.fsum(map(mul, first, first)) * math.fsum(map(mul, second, second)))
    if not sizes or not math.isfinite(sizes):
        return 0.0 if first == second else 2.0  # -0 and 0 are equal numbers
    return 1 - math.fsum(map(mul, first, second)) / sizes


def vectors_in(endpoint: Endpoint, body: bytes) -> list[bytes] | None:
    """Return the vectors in a response, in little-endian float32; None where it has none, or others than these."""
    read = objects((body,))
    found = endpoint.dialect.vectors(read[0], endpoint.vectors).found if read else None
    if not isinstance(found, list) or not found:
        return None
    vectors = [floats(value) for value in found]
    return None if None in vectors else [vector for vector in vectors if vector is not None]


# Texts

_VARYING: Final = frozenset(
    [
        "created",
        "created_at",
        "completed_at",
        "id",
        "call_id",
        "item_id",
        "response_id",
        "usage",
        "system_fingerprint",
        "sequence_number",
        "prompt_eval_count",
        "prompt_eval_cached_count",
        "eval_count",
        "total_duration",
        "load_duration",
        "prompt_eval_duration",
        "eval_duration",
    ]
)
"""Members that differ between two equal completions of one model."""
_CONTENT: Final = frozenset(["arguments", "input"])
"""Members with content of the model's, all of which counts."""
_PIECES: Final = frozenset(
    ["response", "content", "text", "thinking", "reasoning", "delta", "partial_json", "arguments", "signature"]
)
"""Members of a stream's parts that are pieces of one text."""

Said: TypeAlias = dict[tuple[str | int, ...], Any]
"""What a completion says, by the path of its members."""


def said(body: bytes, *, stream: bool) -> Said | None:
    """Return what a completion says; None where it is no JSON, or an empty one.

    The pieces of a stream's texts are joined, so it does not count how the text was divided.
    """
    parts = objects(_parts(body) if stream else (body,))
    found: Said = {}
    for part in parts:
        _gather(part, (), found, joined=stream)
    return found or None


def _parts(body: bytes) -> list[bytes]:
    """Return the JSON of a stream: of each line, or of each event's data."""
    lines = (line.strip() for line in body.split(b"\n"))
    data = (line.removeprefix(b"data:").strip() for line in lines if line and not line.startswith((b"event:", b":")))
    return [line for line in data if line != b"[DONE]"]


def _gather(value: Any, path: tuple[str | int, ...], found: Said, *, joined: bool) -> None:
    """Add what a value says to `found`; `joined` means that texts of one place are pieces of one text."""
    name = path[-1] if path else ""
    if isinstance(value, dict) and name not in _CONTENT:
        for member, within in value.items():
            if member not in _VARYING:
                _gather(within, (*path, member), found, joined=joined)
    elif isinstance(value, list) and all(isinstance(within, dict) for within in value):
        for place, within in enumerate(value):
            _gather(within, (*path, place), found, joined=joined)
    elif joined and name in _PIECES and isinstance(value, str):
        found[path] = found.get(path, "") + value
    else:
        found[path] = value


def compare_texts(one: Said, other: Said) -> Likeness:
    """Return how alike two completions are."""
    return EXACT if one == other else Likeness(kind=Kind.TEXT)
