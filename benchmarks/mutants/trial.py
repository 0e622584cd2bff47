"""One mutant: its tests run in a forked process, in which the module is imported as the mutant has it.

What all trials need is imported once, before the fork; nothing of the package is, so each process imports its own.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Final

from benchmarks.mutants.tests_of import ROOT, SOURCE

_SHARED: Final = ("pytest", "orjson", "aiohttp.web", "redis.asyncio", "uvloop", "pydantic_settings", "rich")
"""What most tests import, and no mutant changes."""
_PLUGINS: Final = ("pytest_asyncio.plugin", "pytest_timeout")
"""Those that the settings in pyproject.toml are for."""
_PASSED: Final = 0
_NO_TESTS: Final = 5
_EVERY: Final = 0.01
"""Seconds between two looks at whether a trial has ended."""


class Fate(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    HUNG = "hung"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one: the fate of its mutant, the seconds that it took, and what pytest said."""

    fate: Fate
    seconds: float
    said: str


def prepare() -> None:
    """Import what trials share. Raises RuntimeError where a module of the package is imported already."""
    for name in _SHARED:
        importlib.import_module(name)
    if early := [name for name in sys.modules if name.split(".")[0] == "ollama_cache_proxy"]:
        raise RuntimeError(f"a trial has to import these itself: {', '.join(early)}")


def tried(module: str, tree: ast.Module | None, tests: Sequence[str], seconds: float) -> Trial:
    """Run tests with a module ("policy/key.py") as `tree` has it, or as it is, without one.

    A trial ends with its first failure, or after `seconds` with everything that it has started.
    """
    with tempfile.TemporaryFile() as said:
        fate, took = _tried(module, tree, tests, seconds, said.fileno())
        said.seek(0)
        return Trial(fate, took, said.read().decode(errors="replace"))


def _tried(module: str, tree: ast.Module | None, tests: Sequence[str], seconds: float, said: int) -> tuple[Fate, float]:
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_child(module, tree, tests, said))
    status = None
    while status is None and time.monotonic() - begun < seconds:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if ended else None
        if status is None:
            time.sleep(_EVERY)
    took = time.monotonic() - begun
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Fate.HUNG, took
    return (Fate.SURVIVED if status in (_PASSED, _NO_TESTS) else Fate.KILLED), took


def _child(module: str, tree: ast.Module | None, tests: Sequence[str], said: int) -> int:
    try:
        os.setsid()
        os.chdir(ROOT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        sys.path[:0] = [str(ROOT), str(SOURCE.parent)]
        if tree is not None:
            sys.meta_path.insert(0, _Mutated(module, tree))
        import pytest  # noqa: PLC0415 - imported by `prepare`, here only named

        options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=short"]
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.environ["CI"] = (
            "1"  # hypothesis then draws the same examples each time, and lets them take as long as they do
        )
        for plugin in _PLUGINS:
            options += ["-p", plugin]
        if module.startswith("policy/"):
            options.append("--noconftest")  # whose fixtures are servers, which tests of decisions have no use for
        return int(pytest.main([*options, *tests]))
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
        return 3
    finally:
        sys.stdout.flush()


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module of the package, and makes it of a tree."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        parts = Path(module).with_suffix("").parts
        self._is_package = parts[-1] == "__init__"
        self._name = ".".join(("ollama_cache_proxy", *(parts[:-1] if self._is_package else parts)))
        self._path, self._tree = SOURCE / module, tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        del path, target
        if fullname != self._name:
            return None
        where = [str(self._path.parent)] if self._is_package else None
        return importlib.util.spec_from_file_location(
            fullname, self._path, loader=self, submodule_search_locations=where
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """See importlib.abc.Loader."""

    def exec_module(self, module: ModuleType) -> None:
        """See importlib.abc.Loader."""
        exec(compile(self._tree, str(self._path), "exec"), module.__dict__)  # noqa: S102 - what an import does
