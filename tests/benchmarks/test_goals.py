from __future__ import annotations

from typing import Any

import pytest

from benchmarks.speed.goals import Goal, table

RUNS = {"case": {"proxy": [{"p50": value} for value in (3.0, 5.0, 4.0)], "nginx": [{"p50": 2.0}] * 3}}
WITHOUT = {"case": RUNS["case"] | {"direct": [{"p50": 1.0}] * 3}}


def goal(**about: Any) -> Goal:
    return Goal(text="", case="case", figure="p50", **about)


def test_a_figure_is_that_of_each_run():
    assert goal().values(RUNS) == [3.0, 5.0, 4.0]
    assert goal(against="nginx").values(RUNS) == [1.5, 2.5, 2.0]
    assert goal(less="direct").values(WITHOUT) == [2.0, 4.0, 3.0]
    assert goal(less="direct", against="nginx").values(WITHOUT) == [2.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("values", "bound", "holds"),
    [
        ([1.0, 1.2, 1.3], {"at_most": 1.2}, True),
        ([1.0, 1.3, 1.3], {"at_most": 1.2}, False),
        ([0.9, 1.0, 1.3], {"at_least": 1.1}, False),
        ([1.19] * 4 + [1.21] * 5, {"at_most": 1.2}, True),
        ([1.19] + [1.21] * 8, {"at_most": 1.2}, False),
        ([1.01] * 4 + [0.99] * 5, {"at_least": 1.0}, True),
        ([1.01] + [0.99] * 8, {"at_least": 1.0}, False),
    ],
)
def test_few_runs_are_judged_by_their_median_and_many_by_the_interval_of_it(
    values: list[float], bound: dict[str, float], holds: bool
) -> None:
    results = {"case": {"proxy": [{"p50": value} for value in values]}}
    assert goal(**bound).holds(results) is holds


def test_the_table_has_the_goals_of_the_cases_that_ran():
    lines = table({"hits-1": {name: [{"p50": 1.0, "p99": 0.5}] for name in ("proxy", "nginx")}})
    assert lines[2:] == [
        "| hits, 1 connection: p50 × nginx | 1 | 1 to 1 | ≤ 1.2 | holds |",
        "| hits, 1 connection: p99, ms | 0.5 | 0.5 to 0.5 | ≤ 1 | holds |",
    ]
