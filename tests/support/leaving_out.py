"""Tests that need what not every machine has are left out where it is missing; in CI that is a failure."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def leave_out(reason: str) -> NoReturn:
    """Leave a test out; in CI, fail it."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(*names: str) -> str:
    """Return where a program is that `make system-tools` installs, by the first of its names that is on the PATH."""
    found = next(filter(None, map(shutil.which, names)), None)
    return found or leave_out(f"no {names[0]} on the PATH: run `make system-tools`")
