"""Ruff's diagnostics of every version of a Python file, by one run over all versions."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.workloads.history import Blobs, Change

_VERSION: Final = "version_"
"""A prefix that makes a valid module name of a blob's, so that rules about names do not apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """A diagnostic; `row` counts from 1, `line` is the text there."""

    code: str
    message: str
    row: int
    line: str

    @property
    def same(self) -> tuple[str, str, str]:
        """What is equal for the same diagnostic in another version of the file."""
        return self.code, self.message, self.line


def linter() -> str:
    """Return the command of the linter beside this Python."""
    return str(Path(sysconfig.get_path("scripts")) / "ruff")


def version() -> str:
    """Return the version of the linter."""
    return subprocess.run((linter(), "--version"), capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def diagnose(changes: Iterable[Change], blobs: Blobs) -> dict[str, tuple[Diagnostic, ...]]:
    """Return the diagnostics of each blob, in the order of lines; rules that need other files are off.

    Files have their own paths, since some rules depend on them (`__init__.py`).
    """
    names = {blob: change.path for change in changes for blob in (change.old, change.new) if blob}
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        for blob, path in names.items():
            file = folder / f"{_VERSION}{blob}" / path
            file.parent.mkdir(parents=True)
            file.write_text(blobs.text(blob), "utf-8", newline="")
        said = _ruff(folder)
    found: dict[str, list[Diagnostic]] = {blob: [] for blob in names}
    for row in said:
        blob = Path(row["filename"]).relative_to(folder).parts[0].removeprefix(_VERSION)
        lines = blobs.text(blob).split("\n")
        number = row["location"]["row"]
        line = lines[number - 1].strip() if number <= len(lines) else ""
        found[blob].append(Diagnostic(code=row["code"] or "", message=row["message"], row=number, line=line))
    return {blob: tuple(sorted(rows, key=lambda one: (one.row, one.code, one.message))) for blob, rows in found.items()}


def _ruff(folder: Path) -> list[dict[str, Any]]:
    options = ("--isolated", "--no-cache", "--quiet", "--exit-zero", "--output-format", "json")
    run = subprocess.run((linter(), "check", *options, str(folder)), capture_output=True, text=True, check=False)  # noqa: S603
    if run.returncode:
        sys.stderr.write(run.stderr)
        raise RuntimeError("the linter failed")
    return list(json.loads(run.stdout))
