"""What editors and hooks are told is what CI checks, and the lock files say one thing."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.environments import needed

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-server.lock", "requirements-gpu.lock"]


def hooks() -> list[dict[str, Any]]:
    (repository,) = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repository["repo"] == "local", "nothing is fetched for a hook"
    return list(repository["hooks"])


def test_the_hooks_run_what_make_check_runs() -> None:
    command = ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.installed-dev", "check"]
    recipe = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [hook["entry"] for hook in hooks()] == recipe
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks())
    assert all("types" not in hook and "files" not in hook for hook in hooks()), "any change may break any of them"


def sections() -> dict[str, dict[str, str]]:
    """Return what .editorconfig says, by pattern; of two that match a file the later one counts."""
    read = configparser.ConfigParser(default_section="none")
    read.read_string("[none]\n" + (ROOT / ".editorconfig").read_text("utf-8"))
    return {name: {key: value for key, value in read.items(name) if key != "root"} for name in read.sections()}


def expanded(pattern: str) -> Iterator[str]:
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    yield from ("".join(chosen) for chosen in product(*parts))


def properties(file: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pattern, said in sections().items():
        where = file if "/" in pattern else file.rpartition("/")[2]
        if any(fnmatch(where, one) for one in expanded(pattern)):
            found |= said
    return found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone")
def test_files_are_as_editors_are_told() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    wrong = []
    for name in filter(None, listed.split("\0")):
        data = (ROOT / name).read_bytes() if (ROOT / name).exists() else b""
        if not data or name.endswith(".png"):
            continue
        said = properties(name)
        wrong += [f"{name}: not {said['charset']}"] if not _decodes(data, said["charset"]) else []
        wrong += [f"{name}: a CR"] if b"\r\n" in data else []
        wrong += [f"{name}: no line end"] if said["insert_final_newline"] == "true" and data[-1:] != b"\n" else []
        if said["trim_trailing_whitespace"] == "true" and re.search(rb"[ \t]+$", data, re.MULTILINE):
            wrong.append(f"{name}: spaces at the end of a line")
        if said["indent_style"] == "space" and re.search(rb"^\t", data, re.MULTILINE):
            wrong.append(f"{name}: a tab")
    assert wrong == []


def _decodes(data: bytes, charset: str) -> bool:
    try:
        data.decode(charset)
    except UnicodeDecodeError:
        return False
    return True


def test_editors_and_ruff_know_one_length_of_lines() -> None:
    assert properties("x.py")["max_line_length"] == str(PROJECT["tool"]["ruff"]["line-length"])


def locked(name: str) -> dict[str, str]:
    """Return the version of each distribution in a lock file."""
    text = (ROOT / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_versions_with_their_hashes_and_no_address(name: str) -> None:
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text("utf-8").rstrip()):
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^\\\n]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\\n)?)+", entry), (
            entry
        )


def test_the_locks_name_one_version_of_each() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()
    for name in LOCKS:
        both = locked(name).keys() & locked("requirements-dev.lock").keys()
        assert {one: locked(name)[one] for one in both} == {one: locked("requirements-dev.lock")[one] for one in both}


def names(requirements: list[str]) -> set[str]:
    """Return the names, as locks write them, of what these requirements lead to on any platform."""
    return {re.sub(r"[-_.]+", "-", found.name).lower() for found in needed(requirements)}


def test_the_image_holds_nothing_that_only_builds_it() -> None:
    """What the lock has for the build group alone is uninstalled again, with pip itself."""
    runs, builds = names(PROJECT["project"]["dependencies"]), names(PROJECT["dependency-groups"]["build"])
    assert builds <= locked("requirements.lock").keys()
    assert sorted(uninstalled()[1]) == sorted({"pip", "setuptools"} | (builds - runs))


def test_the_image_holds_nothing_that_is_never_imported() -> None:
    """What others ask for but no module of the package leads to; whatever a command needs is imported here."""
    script = (
        "import importlib, pkgutil, sys, ollama_cache_proxy as package\n"
        "for module in pkgutil.walk_packages(package.__path__, 'ollama_cache_proxy.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "from rich import live, progress, prompt, table\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"rich", "redis", "aiohttp", "pydantic"} <= imported
    unneeded = {"markdown-it-py": "markdown_it"} | {name: name for name in ("mdurl", "pygments", "valkey", "pycparser")}
    assert uninstalled()[0] == list(unneeded)
    assert not imported & set(unneeded.values())


def uninstalled() -> list[list[str]]:
    """Return what each line of the Dockerfile uninstalls."""
    text = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    return [line.split() for line in re.findall(r"pip uninstall --yes (.+?)(?: \\)?$", text, re.MULTILINE)]


def test_the_lock_has_nothing_that_nobody_asks_for() -> None:
    asked = names([*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["build"]])
    elsewhere = {"async-timeout"}  # what redis-py asks for on Pythons before 3.11.3
    assert locked("requirements.lock").keys() - asked <= elsewhere | {"uvloop", "hiredis"}
