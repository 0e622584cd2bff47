"""Items: what is stored of one text of a list, and the bytes that it is stored as.

An item in Ollama's own form answers both routes. Any other has a `frame`, which says what stood beside its vector, and
answers only requests like the one that it came with.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import orjson

from ollama_cache_proxy.policy.dialects.dialect import Text
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import Steps, finish

INT64: Final = 2**63


@record
class Item:
    """What is stored of one text."""

    vector: Text
    """JSON: numbers in brackets as the response wrote them, or base64 in quotes."""
    numbers: int
    """How many numbers the vector has."""
    tokens: int | None
    """Prompt tokens; None where the response told none, which only a response with a `frame` may."""
    exact: bool
    """Whether the tokens were counted for this text alone; else they are apportioned. True where none are told."""
    total_duration: int
    """Nanoseconds, of the whole request that the item came with; 0 where the response told none, as in /v1."""
    load_duration: int
    """Likewise."""
    frame: bytes = b""
    """The form of the response (`any_form.py`); empty for Ollama's own."""
    clipped: bool = False
    """Whether `dimensions` may have shortened the vector, though it is stored as one that is whole: Ollama told that it
    has no more numbers. It answers requests for exactly so many."""


def is_base64(vector: Text) -> bool:
    """Return whether a vector is base64 and not numbers."""
    return vector[:1] == b'"'


def sound(vectors: Iterable[Text], numbers: int) -> bool:
    """Return whether every vector has so many numbers, all within the range of Go's float32.

    This takes longer than all else; where a response is only relayed, it can be checked afterwards.
    """
    return finish(sound_in_steps(vectors, numbers))


def sound_in_steps(vectors: Iterable[Text], numbers: int) -> Steps[bool]:
    """Return what `sound` does, in steps."""
    try:
        for vector in vectors:
            if _counted(vector) != numbers:
                return False
            yield
    except (ValueError, struct.error, OverflowError):
        return False
    return True


def _counted(vector: Text) -> int:
    """Return how many numbers a vector has. Raises ValueError, struct.error or OverflowError for what is no number."""
    if is_base64(vector):
        count = base64_numbers(vector[1:-1])
        floats = struct.unpack(f"<{count}f", base64.b64decode(vector[1:-1]))
        return count if all(map(math.isfinite, floats)) else 0
    return len(float32(orjson.loads(vector))) // 4


def base64_numbers(text: Text) -> int:
    """Return how many float32 are in base64 with its padding, and nothing else. Raises ValueError."""
    size = len(binascii.a2b_base64(text, strict_mode=True))
    if size % 4 or len(text) % 4:
        raise ValueError("no whole numbers")
    return size // 4


def float32(numbers: list[float]) -> bytes:
    """Return numbers as little-endian float32; raises OverflowError where one is out of range."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


_HEAD: Final = re.compile(
    rb"item/4(-clipped)? ([1-9][0-9]{0,8}) (0|[1-9][0-9]{0,18}|-) (exact|share)"
    rb" (0|[1-9][0-9]{0,18}) (0|[1-9][0-9]{0,18}) (0|[1-9][0-9]{0,5}) "
)
_ENDS: Final = {tuple(b"[]"), tuple(b'""')}
"""The first and the last byte of a vector."""
_MOST_HEADS: Final = 1024


def encode(item: Item) -> bytes:
    """Return the body of an item's entry: form, numbers, tokens, whether they are exact, durations, frame, vector."""
    tokens = b"-" if item.tokens is None else b"%d" % item.tokens
    counted = b"exact" if item.exact else b"share"
    head = (item.numbers, tokens, counted, item.total_duration, item.load_duration, len(item.frame))
    form = b"item/4-clipped" if item.clipped else b"item/4"
    return b"".join((form, b" %d %b %b %d %d %d " % head, item.frame, item.vector))


def decode(data: bytes) -> Item | None:
    """Return the item that `encode` wrote, None for a body that begins otherwise.

    The vector was checked before it was stored, and stores/entry_codec.py checks that no byte has changed since.
    """
    found = _HEAD.match(data)
    if found is None:
        return None
    read = _read(found.group())
    if read is None:
        return None
    numbers, tokens, exact, total, load, size, clipped = read
    begin = found.end() + size
    if len(data) < begin + 2 or (data[begin], data[-1]) not in _ENDS:
        return None
    return Item(
        vector=memoryview(data)[begin:],
        numbers=numbers,
        tokens=tokens,
        exact=exact,
        total_duration=total,
        load_duration=load,
        frame=data[begin - size : begin],
        clipped=clipped,
    )


@lru_cache(maxsize=_MOST_HEADS)
def _read(head: bytes) -> tuple[int, int | None, bool, int, int, int, bool] | None:
    """Return what the head of an item says, the size of its frame in bytes included; items of one list share heads."""
    found = _HEAD.fullmatch(head)
    assert found is not None  # noqa: S101 - for the type checker; it is what has matched
    clipped, written, counted, share, first, second, framed = found.groups()
    total, load, size = int(first), int(second), int(framed)
    tokens = None if counted == b"-" else int(counted)
    if (tokens or 0) >= INT64 or total >= INT64 or load >= INT64 or (tokens is None and not size):
        return None
    return int(written), tokens, share == b"exact", total, load, size, clipped is not None
