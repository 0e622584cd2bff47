"""A test that hangs ends in a failure that names it: by pytest-timeout, or by the run's own end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANGS_FOR
from tests.support.hangs import EXIT_STATUS

ROOT = Path(__file__).parents[2]

HANGS = """
import asyncio, time
import pytest

async def test_waits_for_ever():
    await asyncio.Event().wait()

@pytest.fixture
def stubborn():
    yield
    {teardown}

def test_waits_and_its_fixture_too(stubborn):
    time.sleep(60)
"""
CONFTEST = """
import pytest
from tests.support.hangs import ends_after

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with ends_after(3.0, item):
        return (yield)
"""


def run(folder: Path, teardown: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_hangs.py").write_text(HANGS.format(teardown=teardown))
    (folder / "conftest.py").write_text(CONFTEST)
    options = ("-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-o", "timeout=1", "--rootdir", str(folder))
    command = [sys.executable, "-m", "pytest", *options, "--confcutdir", str(folder), "-c", "/dev/null", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("teardown", "status"),
    [pytest.param("pass", 1, id="once"), pytest.param("time.sleep(60)", EXIT_STATUS, id="twice")],
)
def test_a_hang_ends_in_a_failure_that_names_the_test(teardown: str, status: int, tmp_path: Path) -> None:
    ended = run(tmp_path, teardown)
    told = ended.stdout + ended.stderr
    assert ended.returncode == status, told
    assert "test_waits_for_ever" in told or status == EXIT_STATUS
    assert "test_waits_and_its_fixture_too" in told


def test_this_run_is_watched() -> None:
    assert HANGS_FOR > 0
    assert "with ends_after(timeout + HANGS_FOR, item)" in (ROOT / "tests" / "conftest.py").read_text("utf-8")
