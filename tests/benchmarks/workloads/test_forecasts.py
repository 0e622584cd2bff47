"""Forecasts of the committed requests, beside replays with each setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.workloads import requests
from benchmarks.workloads.forecasts import compared

SAMPLES = Path(__file__).parents[3] / "benchmarks" / "workloads" / "samples"


@pytest.mark.parametrize("name", ["hishel", "ky"])
def test_each_forecast_is_within_two_points_of_a_replay(name: str) -> None:
    before, asked = requests.read((SAMPLES / f"{name}.jsonl").read_bytes().splitlines())
    rows = compared(before, asked)
    assert len(rows) > 20
    assert [row for row in rows if abs(row.points) > 2] == []
    assert len({row.forecast for row in rows}) > 3, "the settings differ"
