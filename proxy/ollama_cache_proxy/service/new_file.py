"""Writes files that must not be there yet, such as keys: never over another, and never half."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_new(path: str | Path, data: bytes, mode: int) -> None:
    """Write a new file of this mode to the disk. Raises OSError, FileExistsError where there is one, or a link."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            Path(path).unlink()
        raise
