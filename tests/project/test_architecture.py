"""The rules of the package: which room may import which, no circles, no private names of neighbours, a test for each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "proxy"
PACKAGE = "ollama_cache_proxy"
FILES = sorted((SOURCE / PACKAGE).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}

ROOMS = {
    "policy": set(),
    "core": {"policy"},
    "downstream": {"core", "policy"},
    "upstream": {"core", "policy"},
    "stores": {"core", "policy"},
    "telemetry": {"core", "policy"},
    "gpu": set(),
    "admin": {"core", "policy", "telemetry", "gpu"},
    "simulator": set(),
    "workbench": {"policy"},
    "service": {"admin", "core", "downstream", "policy", "stores", "telemetry", "upstream"},
    "cli": {"gpu", "service", "simulator", "workbench"},
    "web": set(),
}
"""Each room, and the rooms that it may import. What is not named here it may not."""

PURE = {"policy", "workbench"}
"""Rooms whose modules compute and decide, and never wait, read a clock, draw at random, log or open anything."""
IMPURE = {"asyncio", "logging", "time", "random", "secrets", "socket", "os", "threading", "subprocess"}


def room(module: str) -> str:
    """Return the folder in which a module lies; empty for the package itself."""
    return [*module.split("."), ""][1]


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def imported(module: str) -> set[str]:
    """Return the modules that a module imports, those that it imports only when it runs among them."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relative to itself"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in whole}
    return found


def test_every_room_is_named() -> None:
    folders = {path.name for path in (SOURCE / PACKAGE).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)
    assert {room(module) for module in MODULES} <= {"", "__main__", *ROOMS}


@pytest.mark.parametrize("module", MODULES)
def test_imports_stay_within_what_the_room_may_import(module: str) -> None:
    inside = {name for name in imported(module) if name.split(".")[0] == PACKAGE} - {PACKAGE}
    own = room(module)
    allowed = {"__main__": {"cli"}, "": set()}.get(own, ROOMS.get(own, set()) | {own})
    assert {room(name) for name in inside} <= allowed


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in PURE])
def test_what_is_pure_neither_waits_nor_looks_around(module: str) -> None:
    assert not imported(module) & IMPURE
    assert not [node for node in ast.walk(tree(module)) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imported(module) & MODULES.keys() - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def private_uses(module: str) -> Iterator[str]:
    """Give the private names that a module takes from others of the package."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == PACKAGE:
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    yield f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}" in MODULES:
                    aliases[alias.asname or alias.name] = alias.name
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if private:
                yield f"{aliases[node.value.id]}.{node.attr}"


@pytest.mark.parametrize("module", MODULES)
def test_no_private_name_of_a_neighbour_is_used(module: str) -> None:
    assert list(private_uses(module)) == []


def test_no_two_modules_have_one_name() -> None:
    """A file's name is enough to find it; a room's `__init__`, and a command's own name, aside."""
    names = sorted(path.name for path in FILES if path.name not in ("__init__.py", "__main__.py"))
    assert sorted(set(names)) == names


def test_nothing_imports_the_folder_of_the_source() -> None:
    """`proxy/` is where the source lies, and no package: proxy.py's is, and may be installed beside ours."""
    assert not (SOURCE / "__init__.py").exists()
    for folder in ("proxy", "tests", "benchmarks", "dashboards", "docker", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                named += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                assert not [name for name in named if name.split(".")[0] == "proxy"], path
