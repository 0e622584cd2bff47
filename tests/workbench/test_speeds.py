from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.workbench.speeds import (
    load_seconds,
    output_rate,
    prompt_rate,
    told_least,
    told_median,
)


@pytest.mark.parametrize(
    ("told", "rate"),
    [
        pytest.param((1598, 1580, 450_000_000), 40.0, id="only-what-was-computed"),
        pytest.param((1598, 0, 39_950_000_000), 40.0, id="nothing-cached"),
        pytest.param((1598, None, 440_000_000), None, id="cached-not-told"),
        pytest.param((1598, 1580, None), None, id="no-time"),
        pytest.param((1598, 1598, 440_000_000), None, id="nothing-computed"),
        pytest.param((1598, 1599, 440_000_000), None, id="more-cached-than-there-are"),
        pytest.param((None, None, None), None, id="an-end-without-counts"),
        pytest.param((1598, 0, 0), None, id="no-time-at-all"),
        pytest.param((1598, 0, "1"), None, id="no-number"),
    ],
)
def test_the_rate_of_prompt_tokens(told: tuple[Any, Any, Any], rate: float | None) -> None:
    names = ("prompt_eval_count", "prompt_eval_cached_count", "prompt_eval_duration")
    last = {name: value for name, value in zip(names, told, strict=True) if value is not None}
    assert prompt_rate(last) == (None if rate is None else pytest.approx(rate))


def test_the_rate_of_output_tokens() -> None:
    assert output_rate({"eval_count": 30, "eval_duration": 1_500_000_000}) == pytest.approx(20.0)
    assert output_rate({"eval_count": 30}) is output_rate({"eval_duration": 5}) is output_rate({}) is None


def test_what_is_not_told_is_none_and_in_no_median() -> None:
    assert load_seconds({"load_duration": 2_000_000_000}) == 2.0
    assert load_seconds({}) is None
    assert told_median([3.0, None, 1.0, 2.0]) == 2.0
    assert told_least([3.0, None, 1.0]) == 1.0
    assert told_median([None]) is told_least([]) is None
