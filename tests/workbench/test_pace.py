from __future__ import annotations

import pytest

from ollama_cache_proxy.workbench.pace import Made, about, spelled

GIGA = 10**9


def test_the_first_model_has_sizes_and_no_time() -> None:
    assert about(16 * GIGA, 5 * GIGA, None) == "reads 16.0 GB, writes about 5.00 GB"


def test_the_time_of_another_one_is_an_estimate_that_names_its_basis() -> None:
    before = Made(name="m:q8_0", moved=24 * GIGA, seconds=240.0)
    assert about(16 * GIGA, 5 * GIGA, before) == (
        "reads 16.0 GB, writes about 5.00 GB; about 3 min 30 s, by these sizes and the 4 min 0 s of m:q8_0"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7290, "2 h 1 min")]
)
def test_times_are_spelled(seconds: float, text: str) -> None:
    assert spelled(seconds) == text
