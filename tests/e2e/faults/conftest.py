"""The fixture by which a test fills in its row of the fault matrix, and the table that `make faults` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.e2e.faults.matrix import Table

Measured: TypeAlias = Callable[[int, str, float], None]
TABLE = pytest.StashKey[Table]()


def table(config: pytest.Config) -> Table:
    """Give the table of this run."""
    return config.stash.setdefault(TABLE, Table())


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Note what a row's figure was: `measured(row, name, value)`; see matrix.py."""
    return table(request.config).measured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Mark the rows whose tests failed: `@pytest.mark.row(1, 2)` names those of a test."""
    report = yield
    if report.failed:
        for marker in item.iter_markers("row"):
            table(item.config).failed.update(marker.args)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, where it was asked for."""
    if config.getoption("--table"):
        lines, _ = table(config).lines()
        terminalreporter.section("fault matrix")
        for line in lines:
            terminalreporter.line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run that was to print the table when a row failed, or was not run."""
    if session.config.getoption("--table") and not table(session.config).lines()[1]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
