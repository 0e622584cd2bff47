"""A table of texts, and how it looks as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table: what stands over each column, and rows of as many cells. The first column is to the left."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(sheet: Sheet) -> str:
    """Write a table as Markdown, padded so that it is a table for the eye too."""
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
