"""What a command shows: tables for people on a terminal, plain columns where somebody reads on, and JSON."""

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
_MINUTE: Final = 60
_HOUR: Final = 3600


class Screen(Console):
    """Standard output, or standard error. What is no terminal has no colours and lines without an end."""

    def __init__(self, *, stderr: bool = False) -> None:
        terminal = (sys.stderr if stderr else sys.stdout).isatty()
        super().__init__(
            stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else _UNLIMITED
        )

    def on_broken_pipe(self) -> None:
        """Leave that to the command line."""
        raise BrokenPipeError

    def show(self, shown: RenderableType) -> None:
        """Print what is shown; in a pipe no line ends in the blanks of its column."""
        if self.is_terminal:
            self.print(shown)
            return
        with self.capture() as captured:
            self.print(shown)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def say(self, line: str) -> None:
        """Print one line, or paragraph, filled."""
        self.print(printable(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table. Where a terminal is too narrow, those with the highest `spare` are left out first."""

    title: str
    right: bool = False
    spare: int = 0


def table(screen: Console, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, total: bool = False) -> Table:
    """Give a table that fits; the last row is a total where that is said."""
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
            column.title, justify="right" if column.right else "left", overflow="fold", no_wrap=not screen.is_terminal
        )
    for index, line in enumerate(lines):
        last = index == len(lines) - 1
        made.add_row(*line, style="bold" if total and last else None, end_section=total and index == len(lines) - 2)
    return made


def write_json(document: Any, *, indent: bool = True) -> None:
    """Print JSON, in one line where it is not indented."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else None).decode() + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Give a text that cannot command a terminal: names come from clients."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


def duration(seconds: float) -> str:
    """Say how long something is."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 and seconds != int(seconds) else f"{seconds:.0f} s"  # noqa: PLR2004
    minutes, rest = divmod(round(seconds), _MINUTE)
    if seconds < _HOUR:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def size(count: int) -> str:
    """Say how many bytes something has."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:  # noqa: PLR2004 - of SI
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
