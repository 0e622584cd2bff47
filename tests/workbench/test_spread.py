from __future__ import annotations

import pytest

from ollama_cache_proxy.workbench.spread import Spread, seconds, spelled, spread


def test_three_numbers_and_how_many() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(median=2.5, low=1.0, high=10.0, count=4)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0001234, "0.123 ms"),
        (0.0123, "12.3 ms"),
        (0.5, "500 ms"),
        (0.9999, "1.00 s"),
        (1.0, "1.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (0.9994, "999 ms"),
        (12.345, "12.3 s"),
        (2345.6, "2,345.6 s"),
        (0.0, "0 ms"),
    ],
)
def test_seconds_are_written_in_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_spread_is_written_with_its_ends() -> None:
    assert spelled(spread([0.1, 0.2, 3.0])) == "200 ms (100 ms to 3.00 s)"
