"""Prometheus as a program, and what the dashboard and the rules ask it, as they ask it and as a test can."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.leaving_out import leave_out

ROOT: Final = Path(__file__).parents[2]
RULES: Final = tuple(sorted((ROOT / "config" / "prometheus" / "rules").glob("*.yml")))
_VARIABLES: Final[Mapping[str, str]] = {"$__rate_interval": "1m", "$__range": "1h", "$instance": ".*"}


def found(name: str) -> str:
    """Where a program of Prometheus is: on the PATH, or where `make metrics-tools` puts it; else leave the test out."""
    unpacked = Path(sys.prefix) / "prometheus" / "usr" / "bin"
    binary = shutil.which(name) or shutil.which(name, path=str(unpacked))
    return binary or leave_out(f"no {name}: run `make metrics-tools`")


def asked(panels: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Give each question of a dashboard's panels, by panel and letter, with its variables filled in."""
    questions = {}
    for panel in panels:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in _VARIABLES.items():
                expr = expr.replace(variable, value)
            questions[f"{panel['title']}, {target['refId']}"] = expr
    return questions


def compared(alert: str) -> str:
    """Give an alert's expression with its comparisons answered by 0 or 1 where they would leave a series out.

    So it has an answer where everything that it looks at is there, whether or not it would fire.
    """
    return re.sub(r" (==|!=|<=|>=|<|>) ", r" \1 bool ", alert).replace(" unless ", " and ")


def names(expr: str) -> set[str]:
    """Give the names of what an expression reads: metrics of the proxy and of GPUs, and records of rules."""
    return set(re.findall(r"[a-z_]+:[A-Za-z_]+:\w+|\bollama_cache_proxy_\w+|\bDCGM_\w+|\bprocess_\w+|\bup\b", expr))
