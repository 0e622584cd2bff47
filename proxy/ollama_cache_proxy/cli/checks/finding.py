"""The findings of checks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAX_NAMED: Final = 10
"""Things that are named in one finding, and lines of one kind."""


class Level(IntEnum):
    """How bad a finding is; only a problem makes the exit status of `doctor` 1."""

    OK = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result of a check."""

    level: Level
    text: str
    """What was found, in one sentence."""
    fix: str = ""
    """What to do about it, empty if nothing needs to be done."""


def ok(text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(level=Level.OK, text=text)


def note(text: str, fix: str = "") -> Finding:
    """Return a finding that is good to know."""
    return Finding(level=Level.NOTE, text=text, fix=fix)


def warning(text: str, fix: str) -> Finding:
    """Return a finding of something that works but could be better."""
    return Finding(level=Level.WARNING, text=text, fix=fix)


def problem(text: str, fix: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding(level=Level.PROBLEM, text=text, fix=fix)


def listed(names: Sequence[str], most: int = MAX_NAMED, *, comma: str = ", ", kind: str = "") -> str:
    """Return so many of the names, and how many more there are."""
    more = f" and {len(names) - most} more{kind}" if len(names) > most else ""
    return f"{comma.join(names[:most])}{more}"
