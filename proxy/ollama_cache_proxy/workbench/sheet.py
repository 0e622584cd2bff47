"""A table of texts, and its form in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table; its first column is aligned to the left, the others to the right."""

    columns: Sequence[str]
    """The titles of the columns."""
    rows: Sequence[Sequence[str]]


def markdown(sheet: Sheet) -> str:
    """Return a table in Markdown, with padded columns."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (sheet.columns, *sheet.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(line, widths) for line in (lines[0], rule, *lines[1:]))


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"
