"""Computations in steps: a generator that yields where other work may go on meanwhile, and returns its result.

A step may take some milliseconds. core/turns.py takes them in turns of the event loop.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]


def finish(steps: Steps[T]) -> T:
    """Take all steps one after the other, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
