from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ollama_cache_proxy.cli.checks.finding import Finding, Level, ok
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.checks.table import CHECKS, Check, examine

ROOT = Path(__file__).parents[3]


async def test_a_check_that_hangs_or_misunderstands_does_not_take_the_others_with_it() -> None:
    async def hangs(_: Scene) -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def misunderstands(_: Scene) -> list[Finding]:
        raise KeyError

    async def works(_: Scene) -> list[Finding]:
        return [ok("fine")]

    checks = (
        Check(title="a", run=hangs, within=0.01),
        Check(title="b", run=misunderstands),
        Check(title="c", run=works),
    )
    scene: Any = None
    levels = {title: finding.level for title, finding in await examine(scene, checks)}
    assert levels == {"a": Level.PROBLEM, "b": Level.WARNING, "c": Level.OK}


def test_every_check_is_explained_in_the_docs() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    assert [check.title for check in CHECKS if f"\n### {check.title}\n" not in text] == []
