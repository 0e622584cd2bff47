"""Environments of a test's own, made without a network: a distribution, what it declares to need, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment; its commands see nothing of the one that the tests run in."""

    folder: Path

    @property
    def commands(self) -> Path:
        return self.folder / "bin"

    @property
    def site(self) -> Path:
        (found,) = self.folder.glob("lib/python3.*/site-packages")
        return found

    def install(self, *arguments: str) -> None:
        """Have pip install what needs no network, without its dependencies."""
        pip = (sys.executable, "-m", "pip", "--python", str(self.commands / "python"), "install")
        offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
        done = subprocess.run([*pip, *offline, *arguments], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def run(self, command: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run one of its commands to the end."""
        return subprocess.run(
            [self.commands / command, *arguments],
            cwd=folder,
            env=self.variables(),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def variables(self) -> dict[str, str]:
        """Return this process's environment variables without those that tell Python where to look."""
        return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def environment(folder: Path, requirements: Iterable[str]) -> Environment:
    """Make an environment with these requirements and theirs, as links to what is installed where the tests run."""
    venv.EnvBuilder(symlinks=True).create(folder)
    made = Environment(folder=folder)
    for found in needed(requirements):
        assert found.files is not None
        for name in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            link = made.site / name
            if not link.exists():  # a namespace that two of them share
                link.symlink_to(Path(str(found.locate_file(name))))
    return made


def needed(requirements: Iterable[str]) -> list[Distribution]:
    """Return the distributions that these requirements lead to, here."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, asked_by_extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": asked_by_extra}):
            continue
        for extra in ("", *requirement.extras):
            key = canonicalize_name(requirement.name), extra
            if key not in found:
                found[key] = distribution(requirement.name)
                waiting += [(Requirement(text), extra) for text in found[key].requires or ()]
    return list({name: one for (name, _), one in found.items()}.values())
