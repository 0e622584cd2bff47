"""Computations in steps: a generator that yields where other work may go on meanwhile, and returns its result.

A step may take some milliseconds. core/turns.py takes them in turns of the event loop.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from typing import Final, TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]


A_STEP: Final = 500
"""Small things, such as the texts of a list, that one step deals with: each takes microseconds."""


def batched(things: Iterable[T]) -> Iterator[list[T]]:
    """Yield all things in lists of `A_STEP`."""
    source = iter(things)
    while batch := list(islice(source, A_STEP)):
        yield batch


_JOINED: Final = 1 << 20
"""Bytes that are joined in one step."""


def joined(parts: Sequence[bytes | memoryview]) -> Steps[bytes]:
    """Return all parts as one, in steps: memory that is new to a process takes longer than copying."""
    if sum(map(len, parts)) <= _JOINED:
        return b"".join(parts)
    whole, size = BytesIO(), 0
    for part in parts:
        if len(part) > _JOINED:
            for begin in range(0, len(part), _JOINED):
                whole.write(memoryview(part)[begin : begin + _JOINED])
                yield
        else:
            size += whole.write(part)
            if size >= _JOINED:
                size = 0
                yield
    return whole.getvalue()  # without a copy


def finish(steps: Steps[T]) -> T:
    """Take all steps one after the other, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
