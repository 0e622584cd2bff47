"""Until when a model would be loaded without the audit."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.audit_stay import Stay, after, before, is_over


def test_the_first_audit_takes_the_time_of_expiry_as_it_is() -> None:
    assert before(None, 100.0) == Stay(natural=100.0)


def test_audits_alone_move_only_what_is_theirs() -> None:
    stay = after(before(None, 100.0), 110.0)
    stay = after(before(stay, 110.0), 120.0)
    assert stay == Stay(natural=100.0, ours=120.0)


@pytest.mark.parametrize("expires", [110.0, 119.999, 120.5, 500.0])
def test_any_other_time_of_expiry_is_that_of_somebody_else(expires: float) -> None:
    stay = after(before(None, 100.0), 120.0)
    assert before(stay, expires) == Stay(natural=expires)


@pytest.mark.parametrize(
    ("expires", "now", "over"),
    [(120.0, 99.9, False), (120.0, 100.0, True), (120.0, 119.0, True), (121.0, 119.0, False)],
)
def test_it_is_over_at_its_natural_end_unless_somebody_has_used_it(expires: float, now: float, *, over: bool) -> None:
    assert is_over(Stay(natural=100.0, ours=120.0), expires, now) is over


def test_what_was_not_asked_is_never_over() -> None:
    assert not is_over(Stay(natural=100.0), 100.0, 200.0)
