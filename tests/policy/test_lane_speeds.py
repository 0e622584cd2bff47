from __future__ import annotations

from collections.abc import Iterable

import pytest

from ollama_cache_proxy.policy.lane_speeds import LaneSpeeds, even_part
from tests.support.tickets import chat, listed


def measured(*pairs: tuple[int, float]) -> LaneSpeeds:
    """What was measured: texts, and seconds that they took."""
    speeds = LaneSpeeds()
    for texts, seconds in pairs:
        speeds.note(listed(texts=texts), seconds)
    return speeds


def taken(speeds: LaneSpeeds, counts: Iterable[int]) -> list[float]:
    return [round(speeds.seconds(listed(texts=texts)), 6) for texts in counts]


def test_what_was_never_measured_is_guessed() -> None:
    assert not measured().is_known(listed())
    assert measured().seconds(listed(texts=10)) == pytest.approx(0.2)
    assert measured().texts_within(listed(), 1.0) is None


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param(((10, 1.0),), [0.1, 1.0, 2.0], id="one length: by the text"),
        pytest.param(((1, 0.11), (10, 0.2)), [0.11, 0.2, 0.3], id="a request costs something by itself"),
        pytest.param(((1, 0.3), (8, 0.3), (16, 0.3)), [0.3, 0.3, 0.3], id="all at once"),
        pytest.param(((1, 0.3), (8, 0.2)), [0.25, 0.25, 0.25], id="longer ones sooner: noise"),
        pytest.param(((1, 0.0), (8, 8.0)), [0.888889, 8.888889, 17.777778], id="nothing by itself"),
    ],
)
def test_what_a_list_takes(pairs: tuple[tuple[int, float], ...], expected: list[float]) -> None:
    assert taken(measured(*pairs), (1, 10, 20)) == pytest.approx(expected, rel=0.05)


def test_later_measurements_count_for_more() -> None:
    speeds = measured(*((1, 0.1) for _ in range(200)), *((1, 0.3) for _ in range(200)))
    assert taken(speeds, [1])[0] == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize(
    ("pairs", "seconds", "texts"),
    [
        pytest.param(((1, 0.02),), 0.02, 2, id="one longer part is tried"),
        pytest.param(((1, 0.02), (2, 0.04)), 0.02, 1, id="and no more where it took as much longer"),
        pytest.param(((1, 0.3), (2, 0.3)), 0.02, 4, id="twice as many where it did not"),
        pytest.param(((1, 0.3), (2, 0.3), (4, 0.3), (8, 0.3)), 0.02, 16, id="and again"),
        pytest.param(((1, 0.012), (16, 0.042)), 0.02, 5, id="as many as fit beside what a request costs"),
        pytest.param(((1, 0.6),), 0.02, 1, id="nothing is tried that may take long"),
        pytest.param(((16, 0.8),), 0.5, 10, id="fewer than before"),
        pytest.param(((2, 0.01),), 0.001, 1, id="fewer tell as much as more"),
        pytest.param(((1, 0.02),), 0.5, 25, id="quiet"),
        pytest.param(((1, 0.0),), 0.02, None, id="nothing at all"),
    ],
)
def test_how_many_texts_fit(pairs: tuple[tuple[int, float], ...], seconds: float, texts: int | None) -> None:
    assert measured(*pairs).texts_within(listed(), seconds) == texts


def test_a_longer_part_is_tried_again_when_the_last_one_is_long_ago() -> None:
    speeds, tried = measured((1, 0.02)), 0
    for _ in range(1000):
        texts = speeds.texts_within(listed(), 0.02)
        assert texts in (1, 2)
        tried += texts == 2
        speeds.note(listed(texts=texts), 0.02 * texts)
    assert 2 <= tried <= 40


def test_each_operation_and_model_is_known_by_itself() -> None:
    speeds = measured((10, 1.0))
    assert not speeds.is_known(chat())
    other = listed()
    other.model = "large"
    assert not speeds.is_known(other)


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
        known += speeds.is_known(one)
    assert known == 255
    assert speeds.is_known(first)


@pytest.mark.parametrize(
    ("texts", "most", "parts"),
    [
        (16, 16, [16]),
        (16, 100, [16]),
        (16, 14, [16]),
        (16, 10, [8, 8]),
        (25, 14, [13, 12]),
        (5, 1, [1, 1, 1, 1, 1]),
        (3, 2, [2, 1]),
        (100, 30, [34, 33, 33]),
        (1, 1, [1]),
    ],
)
def test_parts_are_as_long_as_each_other(texts: int, most: int, parts: list[int]) -> None:
    found: list[int] = []
    while sum(found) < texts:
        found.append(even_part(texts - sum(found), most))
    assert found == parts
