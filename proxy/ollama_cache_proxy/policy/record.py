"""Immutable values, of which many are made for each request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(kind: type[T]) -> type[T]:
    """Make a class a dataclass with keyword-only fields, compared and hashed by value.

    It is frozen for the type checker only: a dataclass that is frozen at run time calls a function for each field of
    each new object, which was a fifteenth of all the time that a request took.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(kind)
