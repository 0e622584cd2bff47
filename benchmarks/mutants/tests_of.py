"""Which tests are about a module: its own file, at the place that mirrors it, and all that may notice a change."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "proxy" / "ollama_cache_proxy"
TESTS: Final = ROOT / "tests"
_PACKAGE: Final = "ollama_cache_proxy"


def tests_of(module: str) -> list[list[str]]:
    """Return the tests of a module ("policy/key.py"), in the order in which they are worth running.

    Its own file comes first, if it has one; then the files of its room that reach it, through other modules too. Paths
    are relative to the root of the repository.
    """
    own = TESTS / Path(module).parent / f"test_{Path(module).name}"
    first = [own] if own.exists() else []
    room = sorted((TESTS / Path(module).parts[0]).rglob("test_*.py"))
    steps = (first, [path for path in room if path != own and module in reached(path)])
    return [[path.relative_to(ROOT).as_posix() for path in step] for step in steps if step]


@cache
def reached(path: Path) -> frozenset[str]:
    """Return the modules of the package that a file imports, and those that they import, as paths below it."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        for name in _imported(waiting.pop()):
            if name not in found:
                found.add(name)
                waiting.append(SOURCE / name)
    return frozenset(found)


@cache
def _imported(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    parts = [name.split(".")[1:] for name in names if name.split(".")[0] == _PACKAGE]
    paths = {Path(*each).with_suffix(".py") for each in parts if each} | {Path(*each, "__init__.py") for each in parts}
    return frozenset(path.as_posix() for path in paths if (SOURCE / path).is_file())
