"""What `doctor` says of sealing, by the settings here and by what the running proxy does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.cli.checks.finding import Level
from ollama_cache_proxy.cli.checks.of_sealing import sealing
from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.service.settings import load

REDIS = "redis://127.0.0.1:6379/0"


def scene(stats: dict[str, Any] | None, **settings: Any) -> Any:
    async def told() -> dict[str, Any] | None:
        return stats

    return SimpleNamespace(settings=load(None, settings), stats=told)


@pytest.mark.parametrize(
    ("store", "named", "level", "said"),
    [
        ({"name": REDIS, "sealed": True}, False, Level.OK, "the proxy seals entries before it stores them"),
        ({"name": REDIS, "sealed": True}, True, Level.OK, "the proxy seals entries before it stores them"),
        ({"name": REDIS, "sealed": False}, True, Level.WARNING, "but the proxy stores entries in the clear"),
        ({"name": REDIS, "sealed": False}, False, Level.OK, "entries are stored in the clear; with a seal_key_file"),
        ({"name": REDIS}, False, Level.OK, "entries are stored in the clear"),
        ({"name": "memory", "sealed": False}, True, Level.OK, "entries are in the proxy's memory alone"),
        (None, True, Level.OK, "the settings name a key to seal entries with"),
        (None, False, Level.OK, "entries are stored in the clear"),
    ],
)
async def test_whether_entries_are_sealed(
    store: dict[str, Any] | None, named: bool, level: Level, said: str, tmp_path: Path
) -> None:
    make_key(str(tmp_path / "key"))
    settings = {"seal_key_file": str(tmp_path / "key")} if named else {}
    (finding,) = await sealing(scene(None if store is None else {"store": store}, **settings))
    assert (finding.level, said in finding.text) == (level, True), finding
    assert bool(finding.fix) == (level is Level.WARNING)


async def test_a_key_that_cannot_be_used_is_a_problem_unless_the_proxy_has_one(tmp_path: Path) -> None:
    file = str(tmp_path / "nothing")
    (finding,) = await sealing(scene({"store": {"name": REDIS, "sealed": False}}, seal_key_file=file))
    assert (finding.level, finding.text.startswith(f"seal_key_file: there is no {file}")) == (Level.PROBLEM, True)
    (finding,) = await sealing(scene({"store": {"name": REDIS, "sealed": True}}, seal_key_file=file))
    assert finding.level is Level.OK
