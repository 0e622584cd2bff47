from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.time_budget import TimeBudget


def test_work_may_begin_as_long_as_something_is_left_and_again_when_it_has_been_saved_up() -> None:
    budget = TimeBudget(share=0.01, most=0.1)
    assert budget.allows(5.0)
    budget.took(0.08)
    assert budget.allows(5.0)
    budget.took(0.04)  # more than was left
    assert not budget.allows(5.0)
    assert not budget.allows(6.9)
    assert budget.allows(7.1)


@pytest.mark.parametrize("idle", [10.1, 1000.0])
def test_no_more_than_the_bound_is_saved_up(idle: float) -> None:
    budget = TimeBudget(share=0.01, most=0.1)
    budget.took(0.1)
    assert not budget.allows(0.0)
    assert budget.allows(idle)
    budget.took(0.101)
    assert not budget.allows(idle)
