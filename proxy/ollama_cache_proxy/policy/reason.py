"""A closed set of reasons, each with what it means in words."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A member is made of its name for programs and of its `meaning`, one line of documentation or of a log."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member whose value is the text in header, metric, log or JSON."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member
