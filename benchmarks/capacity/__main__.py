"""What the model of `ollama-cache-proxy plan` is made of, and how far it is right: `make bench-capacity`.

Results go to benchmarks/results/capacity.json. `--report` makes of them the coefficients of the model
(workbench/coefficients.py), and the tables and the plot of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.capacity import report
from benchmarks.capacity.measuring import CHECKED, FIT, Measuring
from benchmarks.speed.__main__ import machine

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "capacity.json"
PAGE: Final = ROOT / "docs" / "scaling.md"
PICTURE: Final = ROOT / "docs" / "scaling.svg"
MODULE: Final = ROOT / "proxy" / "ollama_cache_proxy" / "workbench" / "coefficients.py"


async def measure(folder: Path, rounds: int, seconds: int, only: str) -> dict[str, Any]:
    """Return all results, or one of them."""
    measuring = Measuring(folder, rounds, seconds)
    parts: dict[str, Callable[[], Awaitable[Any]]] = {
        "notices": measuring.notices,
        "leases": measuring.leases,
        "fit": lambda: measuring.cases(FIT),
        "checked": lambda: measuring.cases(CHECKED),
        "memory": measuring.memory,
    }
    return {"machine": machine()} | {name: await run() for name, run in parts.items() if only in ("", name)}


def main() -> int:
    """Measure, or only report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="seconds of each run of wrk")
    parser.add_argument("--only", default="", help="notices, leases, fit, checked or memory; it replaces the older one")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given = parser.parse_args()
    if not given.report:
        with tempfile.TemporaryDirectory() as folder:
            results = uvloop.run(measure(Path(folder), given.rounds, given.seconds, given.only))
        older = json.loads(RESULTS.read_text("utf-8")) if given.only and RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(older | results, indent=1) + "\n", "utf-8")
    kept = json.loads(RESULTS.read_text("utf-8"))
    MODULE.write_text(report.module(report.coefficients(kept)), "utf-8")
    PAGE.write_text(report.page(PAGE.read_text("utf-8"), kept), "utf-8")
    PICTURE.write_text(report.plot(kept), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
