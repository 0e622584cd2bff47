from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.lane_speeds import LaneSpeeds
from tests.support.tickets import chat, listed


def test_what_was_never_measured_is_guessed() -> None:
    speeds = LaneSpeeds()
    assert speeds.per_text(listed()) is None
    assert speeds.seconds(listed(texts=10)) == pytest.approx(0.2)


def test_the_first_measurement_counts_as_it_is_and_later_ones_in_part() -> None:
    speeds = LaneSpeeds()
    speeds.note(listed(texts=10), 1.0)
    assert speeds.per_text(listed(texts=3)) == pytest.approx(0.1)
    speeds.note(listed(texts=1), 0.2)
    assert speeds.per_text(listed()) == pytest.approx(0.13)
    assert speeds.seconds(listed(texts=100)) == pytest.approx(13.0)


def test_each_operation_and_model_is_known_by_itself() -> None:
    speeds = LaneSpeeds()
    speeds.note(listed(texts=10), 1.0)
    assert speeds.per_text(chat()) is None
    other = listed()
    other.model = "large"
    assert speeds.per_text(other) is None


def test_only_so_many_are_remembered_and_those_measured_last() -> None:
    speeds, first = LaneSpeeds(), listed()
    for number in range(400):
        one = listed()
        one.model = f"model {number}"
        speeds.note(one, 1.0)
        speeds.note(first, 2.0)
    known = 0
    for number in range(400):
        one = listed()
        one.model = f"model {number}"
        known += speeds.per_text(one) is not None
    assert known == 255
    assert speeds.per_text(first) is not None
