"""Output of commands: tables on a terminal, plain columns in a pipe, JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNLIMITED: Final = 10_000
"""Columns of output that is not a terminal: no line is wrapped."""

_MINUTE: Final = 60
_HOUR: Final = 3600


class Screen(Console):
    """Standard output or standard error. Output is plain and lines are not wrapped when it is not a terminal."""

    def __init__(self, *, stderr: bool = False) -> None:
        terminal = (sys.stderr if stderr else sys.stdout).isatty()
        super().__init__(
            stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else _UNLIMITED
        )

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, which main.py handles."""
        raise BrokenPipeError

    def show(self, shown: RenderableType) -> None:
        """Print a table or text; in a pipe trailing blanks are removed."""
        if self.is_terminal:
            self.print(shown)
            return
        with self.capture() as captured:
            self.print(shown)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def say(self, line: str) -> None:
        """Print a line or a paragraph, wrapped to the width."""
        self.print(printable(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    """Whether it is aligned to the right."""
    spare: int = 0
    """Columns with the highest number are left out first if the terminal is too narrow; those with 0 stay."""
    whole: bool = False
    """Whether its cells stay on one line on a narrow terminal, where those of others are folded."""


def table(screen: Console, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, total: bool = False) -> Table:
    """Return a table that fits the screen; with `total` the last row is a total."""
    lines = [[Text(printable(cell)) for cell in row] for row in rows]
    chosen = list(range(len(columns)))
    while True:
        made = _table(screen, [columns[i] for i in chosen], [[line[i] for i in chosen] for line in lines], total)
        spare = max(chosen, key=lambda i: (columns[i].spare, i))
        fits = Measurement.get(screen, screen.options.update(width=_UNLIMITED), made).maximum <= screen.width
        if fits or not columns[spare].spare:
            return made
        chosen.remove(spare)


def _table(screen: Console, columns: Sequence[Column], lines: list[list[Text]], total: bool) -> Table:  # noqa: FBT001
    made = Table(
        box=box.SIMPLE_HEAD if screen.is_terminal else None, pad_edge=False, show_edge=False, header_style="bold"
    )
    for column in columns:
        made.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.whole or not screen.is_terminal,
        )
    for index, line in enumerate(lines):
        last = index == len(lines) - 1
        made.add_row(*line, style="bold" if total and last else None, end_section=total and index == len(lines) - 2)
    return made


def write_json(document: Any, *, indent: bool = True) -> None:
    """Print JSON, indented or in one line."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else None).decode() + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Return a text without control characters: names come from clients, and could control the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


def duration(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 and seconds != int(seconds) else f"{seconds:.0f} s"  # noqa: PLR2004
    minutes, rest = divmod(round(seconds), _MINUTE)
    if seconds < _HOUR:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def size(count: int) -> str:
    """Return a number of bytes as text."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:  # noqa: PLR2004 - SI prefixes
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
