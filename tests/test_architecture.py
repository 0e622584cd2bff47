"""The house keeps its rules: imports point one way, and every module has its test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "proxy").rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
CORE = {
    *("proxy.exchange", "proxy.explain", "proxy.finder", "proxy.fetch", "proxy.lists", "proxy.streams"),
    "proxy.shortcuts",
    *("proxy.marking", "proxy.flights", "proxy.tasks", "proxy.errors", "proxy.ports"),
}
HELPERS = {
    "proxy.adapters.redis_store": ("proxy.adapters.codec", "proxy.adapters.redis_lane", "proxy.adapters.unwritten"),
    "proxy.adapters.redis_watch": ("proxy.adapters.redis_lane",),
    "proxy.adapters.ollama": ("proxy.adapters.connections",),
    "proxy.adapters.metrics": ("proxy.adapters.families",),
    "proxy.adapters.siblings": ("proxy.adapters.channel",),
    "proxy.adapters.supervisor": ("proxy.adapters.channel", "proxy.adapters.siblings"),
    "proxy.adapters.figures": ("proxy.adapters.recent",),
}
"""Adapters that are split by subject."""
BESIDE = {"proxy.adapters.cards": {"proxy.gpu"}}
"""Adapters to a part of the house that is a command of its own too."""
PURE_LIBRARY = {"orjson", "proxy"}
IMPURE = {"asyncio", "logging", "time", "random", "secrets", "socket", "os", "threading", "subprocess"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "proxy"}


def part(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:  # noqa: C901, PLR0912 - a table of rules
    name = name_of(path)
    parts = {part(imported) for imported in ours(path)} - {"proxy"}
    match part(name):
        case "proxy.policy":
            assert parts <= {"proxy.policy"}
            assert not imports(path) & IMPURE
            assert not [
                node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.AsyncFunctionDef)
            ]
        case "proxy.errors" | "proxy.tasks":
            assert not parts
        case "proxy.ports":
            assert parts <= {"proxy.policy", "proxy.errors"}
        case core if core in CORE:
            assert parts <= {"proxy.policy"} | CORE
            assert core == "proxy.exchange" or "proxy.exchange" not in parts
        case "proxy.adapters":
            allowed = {"proxy.policy", "proxy.ports", "proxy.errors", "proxy.tasks"}
            others = {imported for imported in ours(path) if imported.startswith("proxy.adapters.")}
            assert not [imported for imported in others if not imported.startswith(HELPERS.get(name, ()))]
            assert parts <= allowed | BESIDE.get(name, set()) | {"proxy.__version__", "proxy.adapters"}
        case "proxy.simulator" | "proxy.gpu" as own:
            assert parts <= {own}
        case "proxy.toolbox":
            assert parts <= {"proxy.toolbox", "proxy.policy"}
            assert not imports(path) & IMPURE
        case "proxy.settings":
            assert not parts
        case "proxy.opening":
            assert not parts & {"proxy.cli", "proxy.simulator", "proxy.workers", "proxy.app"}
        case "proxy.app":
            assert not parts & {"proxy.cli", "proxy.simulator", "proxy.workers"}
        case "proxy.workers":
            assert not parts & {"proxy.cli", "proxy.simulator"}
        case "proxy.cli":
            assert parts <= {
                *("proxy.cli", "proxy.app", "proxy.opening", "proxy.workers", "proxy.settings", "proxy.__version__"),
                *("proxy.simulator", "proxy.gpu", "proxy.toolbox"),
            }
        case other:
            pytest.fail(f"{other} has no place in the house")


TESTED_TOGETHER = {
    "proxy/adapters/listener.py": "tests/wire/test_passthrough.py",
    "proxy/adapters/ollama.py": "tests/wire/test_passthrough.py",
    "proxy/adapters/connections.py": "tests/wire/test_passthrough.py",
    "proxy/adapters/models.py": "tests/cache/test_models.py",
    "proxy/adapters/private_redis.py": "tests/cli/test_serve.py",
    "proxy/adapters/admin.py": "tests/test_admin.py",
    "proxy/adapters/cache_routes.py": "tests/cache/test_entries.py",
    "proxy/adapters/page.py": "tests/page/test_page.py",
    "proxy/adapters/figures.py": "tests/page/test_figures.py",
    "proxy/adapters/events.py": "tests/page/test_events.py",
    "proxy/adapters/statistics.py": "tests/cache/test_statistics.py",
    "proxy/explain.py": "tests/cache/test_explain.py",
    "proxy/finder.py": "tests/cache/test_lists.py",
    "proxy/marking.py": "tests/cache/test_explain.py",
    "proxy/streams.py": "tests/cache/test_streams.py",
    "proxy/exchange.py": "tests/cache/test_reuse.py",
    "proxy/fetch.py": "tests/cache/test_reuse.py",
    "proxy/lists.py": "tests/cache/test_lists.py",
    "proxy/app.py": "tests/cli/test_serve.py",
    "proxy/opening.py": "tests/cli/test_serve.py",
    "proxy/ports.py": "tests/test_ports.py",
    "proxy/errors.py": "tests/wire/test_passthrough.py",
    "proxy/adapters/siblings.py": "tests/cli/test_workers.py",
    "proxy/adapters/supervisor.py": "tests/cli/test_workers.py",
    "proxy/workers.py": "tests/cli/test_workers.py",
    "proxy/cli/worker.py": "tests/cli/test_workers.py",
    "proxy/cli/asking.py": "tests/cli/test_stats.py",
    "proxy/cli/filters.py": "tests/cli/test_clear.py",
    "proxy/cli/ending.py": "tests/cli/test_main.py",
    "proxy/cli/options.py": "tests/cli/test_main.py",
    **{
        f"proxy/cli/checks/{name}.py": "tests/cli/test_doctor.py"
        for name in ("finding", "machine", "ollama", "proxy", "redis", "scene", "seen", "table")
    },
    "proxy/cli/reasons.py": "tests/cli/test_explain.py",
    "proxy/cli/loop.py": "tests/cli/test_serve.py",
    "proxy/cli/jobs/gauge.py": "tests/cli/test_quantize.py",
    "proxy/cli/jobs/figures.py": "tests/cli/test_quantize.py",
    "proxy/cli/jobs/makings.py": "tests/cli/test_quantize.py",
    "proxy/cli/jobs/progress.py": "tests/cli/test_quantize.py",
    "proxy/cli/jobs/benching.py": "tests/cli/test_bench.py",
    "proxy/cli/jobs/warming.py": "tests/cli/test_warm.py",
    "proxy/cli/jobs/quantizing.py": "tests/cli/test_quantize.py",
    "proxy/cli/jobs/api.py": "tests/cli/test_bench.py",
    "proxy/cli/jobs/work.py": "tests/cli/test_quantize.py",
    "proxy/toolbox/questions.py": "tests/toolbox/test_fidelity.py",
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_its_test(path: Path) -> None:
    inside = path.relative_to(ROOT / "proxy")
    if inside.parts[0] == "simulator":
        assert (ROOT / "tests" / "simulator" / "test_recorded.py").is_file()
        return
    together = TESTED_TOGETHER.get(f"proxy/{inside.as_posix()}")
    own = ROOT / "tests" / inside.parent / f"test_{inside.name}"
    assert (ROOT / together if together else own).is_file(), f"{inside} has no test file"
