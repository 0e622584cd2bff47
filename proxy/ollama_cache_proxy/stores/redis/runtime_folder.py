"""A folder for sockets: short, since the path of a socket is bounded, and of this person alone."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_LONGEST: Final = 100
"""Bytes of a socket's path: macOS takes 103, Linux 107."""


def socket_place(name: str) -> Path:
    """Return a path for a socket of this name, in a folder that exists. Raises OSError."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    candidates = [Path(given) / "ollama-cache-proxy"] if given and Path(given).is_absolute() else []
    candidates.append(Path(tempfile.gettempdir()) / f"ocp-{os.getuid()}")
    for folder in candidates:
        if len(os.fsencode(folder / name)) <= _LONGEST and is_private(folder):
            return folder / name
    return Path(tempfile.mkdtemp(prefix="ocp-")) / name


def is_private(folder: Path) -> bool:
    """Return whether the folder is there, made if need be, and is of this person alone."""
    with suppress(OSError):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return False
