"""What the commands show: tables on a terminal and plain ones elsewhere, and how far they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from proxy.cli.work import say
from proxy.toolbox.sheet import Sheet, markdown


def show(sheet: Sheet, *, plain: bool = False) -> None:
    """Print a table to the output: for the eye on a terminal, else, or where it shall be `plain`, as Markdown."""
    console = Console()
    if plain or not console.is_terminal:
        sys.stdout.write(markdown(sheet) + "\n")
        sys.stdout.flush()
        return
    table = Table()
    for index, column in enumerate(sheet.columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*row)
    console.print(table)


class Steps:
    """How far a command is, beside its output: bars on a terminal, elsewhere a line for each thing that begins."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._bar = None if bars is None else bars.add_task("", visible=False)

    def begin(self, what: str, total: float) -> None:
        """Begin something of `total` steps."""
        if self._bars is None or self._bar is None:
            say(f"{what} …")
        else:
            self._bars.reset(self._bar, description=what, total=total, completed=0, visible=True)

    def advance(self, steps: float = 1) -> None:
        """Go on."""
        if self._bars is not None and self._bar is not None:
            self._bars.advance(self._bar, steps)

    def at(self, completed: float) -> None:
        """Go to where it is."""
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=completed)

    def say(self, line: str) -> None:
        """Say a line above the bars."""
        if self._bars is None:
            say(line)
        else:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def steps() -> Iterator[Steps]:
    """Show progress on standard error for a while; on a terminal nothing of it stays."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Steps(None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield Steps(bars)
