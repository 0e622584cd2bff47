"""The coefficients of the model are those that were measured."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.capacity.report import coefficients, module
from ollama_cache_proxy.workbench import coefficients as written

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "capacity.json"


def test_the_module_is_made_of_the_results() -> None:
    known = coefficients(json.loads(RESULTS.read_text("utf-8")))
    assert known == written.MEASURED
    assert Path(written.__file__).read_text("utf-8") == module(known), "python -m benchmarks.capacity --report"


def test_a_hit_costs_less_than_a_miss_and_one_that_is_noted_the_least() -> None:
    known = written.MEASURED
    for body in known.bodies:
        assert 0 < known.noted.of(body) < known.missed.of(body)
        assert 0 < known.store_found.of(body) < known.store_missed.of(body)
    assert known.noted.fixed < known.posed < known.parsed < known.missed.fixed
