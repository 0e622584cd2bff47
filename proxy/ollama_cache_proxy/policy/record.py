"""Immutable values, of which many are made for each request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


def changed(value: T, **fields: Any) -> T:
    """Return a record with other values in some of its fields: `dataclasses.replace`, in half the time.

    Raises AttributeError for a field that the record does not have.
    """
    kind = type(value)
    made = kind.__new__(kind)
    for name in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        setattr(made, name, getattr(value, name))
    for name, changed_to in fields.items():
        setattr(made, name, changed_to)
    return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(kind: type[T]) -> type[T]:
    """Make a class a dataclass with keyword-only fields, compared and hashed by value.

    It is frozen for the type checker only: a dataclass that is frozen at run time calls a function for each field of
    each new object, which was a fifteenth of all the time that a request took.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(kind)
