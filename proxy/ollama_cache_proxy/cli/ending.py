"""How a command ends: exit statuses, and the one line of a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DONE: Final = 0
FAILED: Final = 1
WRONG: Final = 2
INTERRUPTED: Final = 130
UNREAD: Final = 141
TERMINATED: Final = 143

STATUSES: Final = {
    DONE: "done",
    FAILED: "failed, or a problem found",
    WRONG: "wrong setting or argument",
    INTERRUPTED: "ended by Ctrl-C",
    UNREAD: "output closed",
    TERMINATED: "ended by SIGTERM",
}


class Failed(Exception):  # noqa: N818 - no defect: a command could not do its work
    """A command cannot go on: what happened and how to fix it, in one line without secrets."""

    def __init__(self, what: str, fix: str = "", *, status: int = FAILED) -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix
        self.status = status


def unwritten(path: str | Path, error: OSError) -> Failed:
    """Return how a command fails that was to write a new file."""
    if isinstance(error, FileExistsError):
        return Failed(f"{path} is there already and was left alone", "name another file", status=WRONG)
    return Failed(f"{path} cannot be written: {error.strerror}", status=WRONG)
