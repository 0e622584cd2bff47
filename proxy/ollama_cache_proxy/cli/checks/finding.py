"""What a check found, pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad it is; only a problem makes the exit status of `doctor` 1."""

    OK = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found, a sentence, and what to do about it where there is something to do."""

    level: Level
    text: str
    fix: str = ""


def ok(text: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(level=Level.OK, text=text)


def note(text: str, fix: str = "") -> Finding:
    """Say something that is good to know."""
    return Finding(level=Level.NOTE, text=text, fix=fix)


def warning(text: str, fix: str) -> Finding:
    """Say what works, and could be better."""
    return Finding(level=Level.WARNING, text=text, fix=fix)


def problem(text: str, fix: str) -> Finding:
    """Say what does not work."""
    return Finding(level=Level.PROBLEM, text=text, fix=fix)
