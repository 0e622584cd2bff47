"""How a command ends: its exit status, and for a failure the one line that says why and what to do."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
WRONG: Final = 2
INTERRUPTED: Final = 130
UNREAD: Final = 141
TERMINATED: Final = 143

STATUSES: Final = {
    DONE: "done",
    FAILED: "failed, or something is wrong",
    WRONG: "a wrong setting or argument",
    INTERRUPTED: "ended by Ctrl-C",
    UNREAD: "whoever read the output has left",
    TERMINATED: "ended by SIGTERM",
}


class Failed(Exception):  # noqa: N818 - it is what happened to a command
    """A command cannot go on: what happened, and what to do about it, in one line that holds no secret."""

    def __init__(self, what: str, fix: str = "", *, status: int = FAILED) -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix
        self.status = status
