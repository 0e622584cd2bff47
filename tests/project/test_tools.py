"""The programs that set tests up: which Pythons there are, what is missing on the system, and who installs it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import pythons, system_tools

ROOT = Path(__file__).parents[2]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_interpreters_of_releases_that_the_project_takes_are_found(tmp_path: Path) -> None:
    script(tmp_path / "a" / "python3.9", "echo 3 9 1 final")
    script(tmp_path / "a" / "python3.11", "echo 3 11 4 final")
    script(tmp_path / "a" / "python3.13-config", "echo 3 13 0 final")
    script(tmp_path / "b" / "python3.11", "echo 3 11 4 final")
    script(tmp_path / "b" / "python3.12", "echo 'no such command' >&2; exit 127")
    script(tmp_path / "b" / "python3.13", "echo 3 13 2 final")
    script(tmp_path / "b" / "python3.14", "echo 3 14 0 candidate")
    found = pythons.interpreters([tmp_path / "a", tmp_path / "nowhere", tmp_path / "b"])
    assert found == {
        (3, 11, 4): tmp_path / "a" / "python3.11",
        (3, 13, 2): tmp_path / "b" / "python3.13",
    }


def test_the_rooms_whose_tests_run_on_each_python_are_there() -> None:
    assert [room for room in pythons.ROOMS if not list((ROOT / room).rglob("test_*.py"))] == []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has npm, zsh, nginx and an apt-get that notes how it is called; returns the file of its notes."""
    notes = tmp_path / "notes"
    for name in ("npm", "zsh", "nginx"):
        script(tmp_path / "bin" / name, "")
    script(tmp_path / "bin" / "apt-get", f'echo "$@" >> {notes}')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return notes


def test_what_is_missing_is_named_and_not_installed(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert system_tools.main(["system-tools"]) == 0
    said = capsys.readouterr().out
    assert "No fish. Left out: the tests of completion in fish\n" in said
    assert "No zsh" not in said
    assert said.endswith("`make system-tools` installs what is missing from Debian's packages\n")
    assert not machine.exists()


def test_what_is_installed_is_listed_first(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert system_tools.main(["system-tools", "--install"]) == 0
    update, install = machine.read_text().splitlines()
    assert update == "update -qq"
    packages = install.removeprefix("install -yqq --no-install-recommends ").split()
    assert packages == ["chromium", "fonts-dejavu-core", "nodejs", "fish", "curl", "binutils", "git"]
    said = capsys.readouterr().out
    assert said.startswith("To be installed on this system, from Debian:\n")
    assert [package for package in packages if package not in said] == []


def test_where_everything_is_there_nothing_is_installed(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_tools.shutil, "which", lambda name, **_: name)
    assert system_tools.main(["bench-tools", "--install"]) == 0
    assert system_tools.main(["bench-tools", "--need", "nginx", "wrk"]) == 0
    assert capsys.readouterr().out == "Nothing to install: nginx, wrk, varnishd are here\n"
    assert not machine.exists()


def test_without_root_nothing_is_installed(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert system_tools.main(["system-tools", "--install"]) == 1
    assert capsys.readouterr().out.endswith("This takes root: sudo make system-tools\n")
    assert not machine.exists()


def test_a_measurement_says_what_it_needs(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert system_tools.main(["bench-tools", "--need", "wrk"]) == 1
    assert capsys.readouterr().out == "wrk not found: run `make bench-tools`\n"
    assert not machine.exists()


def recipe(*targets: str) -> list[str]:
    """Return the commands that make would run."""
    done = subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("target", ["test", "bench", "screenshots", "stack", "pythons"])
def test_a_target_installs_nothing_on_the_system(target: str) -> None:
    commands = "\n".join(recipe(target))
    assert "apt-get install" not in commands
    assert not re.findall(r"system_tools\.py.* --install", commands)
    assert target != "test" or "system_tools.py system-tools\n" in commands


def test_ci_installs_them_by_name_and_first() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    made = [line.removeprefix("exec ").removeprefix("make ") for line in lines if re.match("(exec )?make ", line)]
    assert made == ["system-tools", "test", "test-distributed"]
    assert any("system_tools.py system-tools --install" in command for command in recipe("system-tools"))


def test_what_a_test_that_is_left_out_names_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        target
        for path in (ROOT / "tests").rglob("*.py")
        if "node_modules" not in path.parts
        for target in re.findall(r"`make ([a-z-]+)`", path.read_text("utf-8"))
    }
    assert named >= {"system-tools", "clients", "metrics-tools"}
    assert named <= targets
