"""The file of the key that entries are sealed with: how it is made, what is refused. No error contains any of it."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from typing import Final

from ollama_cache_proxy.service.new_file import write_new

_BYTES: Final = 32
_DIGITS: Final = re.compile(rb"[0-9A-Fa-f]{64}")
_MAX_BYTES: Final = 256
"""Bytes of a file that are read: white space may surround the digits."""
_OTHERS: Final = 0o077
_OTHERS_OF_ROOTS: Final = 0o037
"""The group of a file that root has made may read it: a secret that is mounted for a service."""
_OPENED: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
"""Without waiting: a path may name a pipe."""


def make_key(path: str) -> None:
    """Write a new key to a file that its owner alone can read. Raises OSError, also where there is one already."""
    write_new(path, secrets.token_hex(_BYTES).encode() + b"\n", 0o600)


def key_in(path: str) -> bytes:
    """Return the 32 bytes that a file holds; raise ValueError, or OSError if it cannot be read."""
    handle = os.open(path, _OPENED)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            message = "it is not a file"
            raise ValueError(message)
        if sys.platform != "win32" and about.st_mode & _closed_to_others(about.st_uid):
            message = "others may read or change it; `chmod 600` it, or make a new one if they have"
            raise ValueError(message)
        content = file.read(_MAX_BYTES + 1)
    digits = content.strip()
    if len(content) > _MAX_BYTES or _DIGITS.fullmatch(digits) is None:
        message = "must hold 64 hexadecimal digits and nothing else, as `ollama-cache-proxy seal-key` writes them"
        raise ValueError(message)
    return bytes.fromhex(digits.decode())


def _closed_to_others(owner: int) -> int:
    """Return the permissions that a file of this owner must not give."""
    return _OTHERS_OF_ROOTS if owner == 0 and os.geteuid() != 0 else _OTHERS
