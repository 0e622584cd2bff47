"""The progress of a job on standard error, and its tables on standard output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ollama_cache_proxy.cli.jobs.work import say
from ollama_cache_proxy.cli.screen import Column, Screen, table
from ollama_cache_proxy.workbench.pace import spelled
from ollama_cache_proxy.workbench.sheet import Sheet


def show(sheet: Sheet) -> None:
    """Print a table to standard output."""
    screen = Screen()
    columns = [Column(title=title, right=index > 0) for index, title in enumerate(sheet.columns)]
    screen.print(table(screen, columns, sheet.rows))


class Steps:
    """Progress of a job: a bar on a terminal, otherwise a line for each part."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._bar = None if bars is None else bars.add_task("", visible=False)

    def begin(self, what: str, total: float | None, about: str = "") -> None:
        """Start a part of `total` steps; None where there may be no progress to show. `about` says more of it."""
        if self._bars is None or self._bar is None:
            say(f"{what}{f' ({about})' if about else ''} …")
            return
        if about:
            self.say(f"{what}: {about}")
        self._bars.reset(self._bar, description=what, total=total, completed=0, visible=True)

    def still(self, what: str, seconds: float) -> None:
        """Show that a part of which there is no progress goes on; on a terminal the bar's clock does."""
        if self._bars is None:
            say(f"{what}: {spelled(seconds)} so far")

    def advance(self, steps: float = 1) -> None:
        """Advance by a number of steps."""
        if self._bars is not None and self._bar is not None:
            self._bars.advance(self._bar, steps)

    def at(self, completed: float) -> None:
        """Set the completed share of a part that began without a total."""
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=completed, total=1)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bars is None:
            say(line)
        else:
            self._bars.console.print(line, soft_wrap=True)


@contextmanager
def steps() -> Iterator[Steps]:
    """Show progress on standard error; a terminal is cleared of it at the end."""
    screen = Screen(stderr=True)
    if not screen.is_terminal:
        yield Steps(None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bars:
        yield Steps(bars)
