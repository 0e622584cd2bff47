"""Every module has its tests: at the place that mirrors its own, or through a test file that a row of TABLE names.

At the mirrored place (`tests/core/test_intake.py` for `core/intake.py`) the test file imports the module. Where a
module is tested through others, its row names a test file, a name by which that file reaches it, and why it has no test
of its own. A row that is not needed, or not true any more, fails.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "ollama_cache_proxy"
SOURCE = ROOT / "proxy" / PACKAGE
TESTS = ROOT / "tests"


class Row(NamedTuple):
    """`test` lies in tests/; `name` stands in it and in the module: a public name, a path, an option, a text."""

    test: str
    name: str
    why: str


PROCESS = "a command: what it writes and how it ends are those of a process"
OVER_HTTP = "its routes are asked over HTTP, as clients ask them"
REQUEST = "a step of serving: what a client gets shows it"
JOB = "the work of a command, which runs as a process against the simulator"
SIMULATED = "a part of the simulator, which has the wire form of Ollama only as a whole"
WORKERS = "several processes are what it is about"
JOINED = "it joins parts: whether they fit shows when all are open"
PROTOCOLS = "Protocols, which say what others have to do"
VALUES = "values, which others make and take"
SEVERAL = "what several servers do together shows where they are asked"
DOCTOR = "a check looks at real servers"

SIMULATOR = "simulator/test_simulator.py"

TABLE: Final = {
    "__main__": Row("e2e/test_demo.py", PACKAGE, PROCESS),
    "admin.live_figures": Row("admin/test_live_figures.py", "/api/cache/system", OVER_HTTP),
    "admin.upstream_routes": Row("e2e/test_several_upstreams.py", "/api/cache/upstreams", OVER_HTTP),
    "cli.advise": Row("cli/test_advise.py", "advise", PROCESS),
    "telemetry.forecaster": Row("telemetry/test_forecaster.py", "embeddings", OVER_HTTP),
    "admin.own_route": Row("admin/test_router.py", "Stream", VALUES),
    "cli.bench": Row("cli/test_bench.py", "--embed-model", PROCESS),
    "cli.checks.finding": Row("cli/test_doctor.py", "Finding", DOCTOR),
    "cli.checks.of_ollama": Row("cli/test_doctor.py", "context_length", DOCTOR),
    "cli.checks.of_port": Row("cli/test_doctor.py", "FORMER_LISTEN", DOCTOR),
    "cli.checks.scene": Row("cli/test_doctor.py", "Scene", DOCTOR),
    "cli.clear": Row("cli/test_clear.py", "--yes", PROCESS),
    "cli.config": Row("cli/test_config.py", "REDIS_URL", PROCESS),
    "cli.demo": Row("e2e/test_demo.py", "Completion", PROCESS),
    "cli.doctor": Row("cli/test_doctor.py", "doctor", PROCESS),
    "cli.entries": Row("cli/test_entries.py", "--cursor", PROCESS),
    "cli.export_pack": Row("cli/test_packs.py", "--sign-key", PROCESS),
    "cli.import_pack": Row("cli/test_packs.py", "--trusted-key", PROCESS),
    "cli.pack_key": Row("cli/test_packs.py", "pack-key", PROCESS),
    "cli.gpu": Row("cli/test_gpu.py", "--replay", PROCESS),
    "cli.plan": Row("cli/test_plan.py", "--hit-rate", PROCESS),
    "cli.quantize": Row("cli/test_quantize.py", "--dry-run", PROCESS),
    "cli.serve": Row("e2e/test_serve.py", "READY=1", PROCESS),
    "cli.simulate": Row("cli/test_simulate.py", "--completion-ms", PROCESS),
    "cli.stats": Row("cli/test_stats.py", "--watch", PROCESS),
    "cli.warm": Row("cli/test_warm.py", "--chunk", PROCESS),
    "cli.asking": Row(
        "cli/test_stats.py", "set SSL_CERT_FILE to a file with its CA certificate", "its failures are lines of commands"
    ),
    "cli.ending": Row("cli/test_main.py", "STATUSES", "statuses are those of processes"),
    "cli.filters": Row("cli/test_clear.py", "namespace", "options of commands"),
    "cli.loop": Row("e2e/test_serve.py", "NOTIFY_SOCKET", "signals and systemd are about processes"),
    "cli.options": Row("cli/test_stats.py", "proxy_url", "options of commands"),
    "cli.reasons": Row("cli/test_explain.py", "REASONS", "lines of a command"),
    "cli.worker": Row("e2e/test_workers.py", "ollama_cache_proxy.cli.worker", WORKERS),
    "cli.jobs.api": Row("cli/test_bench.py", "`ollama pull` it, or use one of: ", JOB),
    "cli.jobs.benching": Row("cli/test_bench.py", "embedModel", JOB),
    "cli.jobs.comparing": Row("cli/test_quantize.py", "--with", JOB),
    "cli.jobs.exporting": Row("cli/test_packs.py", "Going on after", JOB),
    "cli.jobs.importing": Row("cli/test_packs.py", "exclude each other", JOB),
    "cli.jobs.gauge": Row("cli/test_quantize.py", "top_logprobs", JOB),
    "cli.jobs.makings": Row("cli/test_quantize.py", "/api/delete", JOB),
    "cli.jobs.models": Row("cli/test_quantize.py", "neither completes nor embeds", JOB),
    "cli.jobs.progress": Row("cli/test_quantize.py", "columns", JOB),
    "cli.jobs.quantizing": Row("cli/test_quantize.py", "free space unknown from here", JOB),
    "cli.jobs.request_folders": Row("cli/test_warm_folders.py", "MAX_REQUESTS", JOB),
    "cli.jobs.sheets": Row("cli/test_quantize.py", "Divergence, nats", JOB),
    "cli.jobs.warming": Row("cli/test_warm.py", "Warming", JOB),
    "cli.jobs.work": Row("cli/test_quantize.py", "SIGTERM", JOB),
    "core.audit_checks": Row("core/test_audit.py", "MAX_ASKED", "a check is what the audit makes of a hit"),
    "core.audit_examination": Row("core/test_audit.py", "wrong", "it asks an Ollama"),
    "core.audit_stays": Row("core/test_audit.py", "unload", "what it does shows in what an Ollama has loaded"),
    "core.collapsing": Row("e2e/cache/test_reuse.py", "waiting", REQUEST),
    "core.delivery": Row("e2e/cache/test_stream_settings.py", "line", REQUEST),
    "core.errors": Row("telemetry/test_log.py", "Source", "names of faults, as log and metrics tell them"),
    "core.exchange": Row("e2e/cache/test_design.py", "waiting", REQUEST),
    "core.explanation": Row("e2e/cache/test_explain.py", "nearest", OVER_HTTP),
    "core.fetch": Row("e2e/cache/test_work.py", "usage", REQUEST),
    "core.fingerprint_key": Row("e2e/cache/test_explain.py", "marks-key", OVER_HTTP),
    "core.lists": Row("e2e/cache/test_lists.py", "max_list_bytes", REQUEST),
    "core.lookup": Row("e2e/cache/test_lists.py", "known", REQUEST),
    "core.packing": Row("admin/test_pack_routes.py", "leftOut", OVER_HTTP),
    "core.ports": Row("admin/test_entry_routes.py", "Topic", PROTOCOLS),
    "core.questions": Row("e2e/cache/test_limits.py", "Question", VALUES),
    "core.relay": Row("e2e/wire/test_passthrough.py", "upstream", REQUEST),
    "core.sharing": Row("e2e/cache/test_across_proxies.py", "followed", REQUEST),
    "core.store_ports": Row("stores/test_stores.py", "EntryStore", PROTOCOLS),
    "core.streams": Row("e2e/cache/test_streams.py", "RECORDING", REQUEST),
    "policy.listing.cut": Row("policy/listing/test_any_form.py", "Cut", VALUES),
    "service.context": Row("service/test_store_choice.py", "Context", VALUES),
    "service.neighbours": Row("e2e/test_serve.py", "OLLAMA_HOST names this proxy", JOINED),
    "service.one_upstream": Row("upstream/test_fleet_models.py", "models", JOINED),
    "service.several_upstreams": Row("upstream/test_fleet_models.py", "FleetModels", JOINED),
    "service.own_routes": Row("service/test_app.py", "Events", JOINED),
    "service.replacing": Row("service/test_replacing.py", "path_prefix", JOINED),
    "service.sibling_topics": Row("service/test_app.py", "Topic", JOINED),
    "service.siblings": Row("e2e/test_workers.py", "SIBLING_TIMEOUT", WORKERS),
    "service.supervisor": Row("e2e/test_workers.py", "(process ", WORKERS),
    "service.system_clock": Row("upstream/test_digests.py", "SystemClock", "the machine's own"),
    "service.workers": Row("e2e/test_workers.py", "supervising", WORKERS),
    "simulator.anthropic_routes": Row(SIMULATOR, "max_tokens", SIMULATED),
    "simulator.call": Row(SIMULATOR, "Expect", SIMULATED),
    "simulator.complete": Row(SIMULATOR, "completion_delay", SIMULATED),
    "simulator.create": Row(SIMULATOR, "quantized", SIMULATED),
    "simulator.embed": Row(SIMULATOR, "invalid input type", SIMULATED),
    "simulator.gatekeeping": Row(SIMULATOR, "localhost", SIMULATED),
    "simulator.generate": Row(SIMULATOR, "num_predict", SIMULATED),
    "simulator.goschema": Row("simulator/test_gojson.py", "time: missing unit in duration ", SIMULATED),
    "simulator.manage": Row(SIMULATOR, "destination", SIMULATED),
    "simulator.naming": Row(SIMULATOR, "library", SIMULATED),
    "simulator.native": Row(SIMULATOR, "logprobs", SIMULATED),
    "simulator.openai_routes": Row(SIMULATOR, "encoding_format", SIMULATED),
    "simulator.recorded": Row("simulator/test_recorded.py", "answers", SIMULATED),
    "simulator.registry": Row(SIMULATOR, "weights", SIMULATED),
    "simulator.rendering": Row(SIMULATOR, "images", SIMULATED),
    "simulator.residence": Row(SIMULATOR, "keep_alive", SIMULATED),
    "simulator.responses_routes": Row(SIMULATOR, "annotations", SIMULATED),
    "simulator.routes": Row(SIMULATOR, "/api/chat", SIMULATED),
    "simulator.schemas": Row(SIMULATOR, "destination", SIMULATED),
    "simulator.server": Row(SIMULATOR, "Simulator", SIMULATED),
    "simulator.state": Row(SIMULATOR, "Behaviour", SIMULATED),
    "simulator.tokens": Row(SIMULATOR, "count", SIMULATED),
    "simulator.transcription_routes": Row(SIMULATOR, "transcriptions", SIMULATED),
    "simulator.vectors": Row(SIMULATOR, "embedding", SIMULATED),
    "stores.redis.entry_count": Row("stores/redis/test_entry_count.py", "count", "it counts in a store that is open"),
    "stores.redis.private_server": Row("e2e/test_serve.py", "redis.sock", "it starts and ends a process"),
    "stores.redis.redis_gauges": Row("stores/redis/test_redis_gauges.py", "used_memory", "gauges of an open store"),
    "upstream.fleet": Row("e2e/test_several_upstreams.py", "Fleet", SEVERAL),
    "upstream.fleet_host": Row("e2e/faults/test_lost_upstreams.py", "ejected", SEVERAL),
    "upstream.fleet_looks": Row("e2e/test_several_upstreams.py", "see_tags", SEVERAL),
    "upstream.fleet_probes": Row("upstream/test_fleet_models.py", "FleetProbes", SEVERAL),
    "upstream.fleet_responses": Row("e2e/test_several_upstreams.py", "error", SEVERAL),
    "workbench.bench_questions": Row("cli/test_bench.py", "Code explanation", JOB),
}
"""By the module, without the package's name."""


def name_of(path: Path) -> str:
    """Return a module's name, without the package's; a room's `__init__` is the room."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def does_something(path: Path) -> bool:
    """Whether there is anything to test: a docstring, imports and names with `__` are nothing."""
    return any(
        not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("__"))
        for node in tree(path).body
    )


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py")) if does_something(path)}


def imported(path: Path) -> set[str]:
    """Return what a file imports: modules, and each name of a `from … import` as if it were one."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def asserts(function: ast.AST) -> bool:
    """Whether a function asserts something, or expects an error."""
    return any(
        isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises")
        for node in ast.walk(function)
    )


def has_tests(path: Path) -> bool:
    """Whether a file has tests, one of which asserts something at least."""
    functions = [node for node in tree(path).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return any(function.name.startswith("test_") and asserts(function) for function in functions)


def mirrored(module: str) -> Path:
    *rooms, name = module.split(".")
    return TESTS.joinpath(*rooms, f"test_{name}.py")


def is_tested_at_its_place(module: str) -> bool:
    path = mirrored(module)
    return path.exists() and has_tests(path) and f"{PACKAGE}.{module}" in imported(path)


def names(text: str, name: str) -> bool:
    """Whether a name stands in a text, and not as a part of a longer one."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_tests(module: str) -> None:
    place = mirrored(module).relative_to(ROOT)
    hint = f"add {place}, with tests that import {PACKAGE}.{module}, or a row to TABLE"
    assert is_tested_at_its_place(module) or module in TABLE, hint


@pytest.mark.parametrize("module", TABLE)
def test_every_row_is_needed_and_true(module: str) -> None:
    row = TABLE[module]
    assert module in MODULES, "there is no such module, or nothing in it"
    assert not is_tested_at_its_place(module), f"{mirrored(module).relative_to(ROOT)} tests it: this row can go"
    path = TESTS / row.test
    assert path.exists()
    assert has_tests(path)
    for place in (path, MODULES[module]):
        assert names(place.read_text("utf-8"), row.name), f"{row.name!r} does not stand in {place.relative_to(ROOT)}"
