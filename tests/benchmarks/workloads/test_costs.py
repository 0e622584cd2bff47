"""The assumed times of Ollama."""

from __future__ import annotations

import pytest

from benchmarks.workloads.costs import SECONDS, SPREAD, seconds, total
from benchmarks.workloads.requests import Asked


@pytest.mark.parametrize("category", SECONDS)
def test_a_text_takes_its_time_by_the_seed_alone(category: str) -> None:
    taken = [seconds(category, [str(number)], 1) for number in range(200)]
    assert taken == [seconds(category, [str(number)], 1) for number in range(200)]
    assert taken != [seconds(category, [str(number)], 2) for number in range(200)]
    assert (1 - SPREAD) * SECONDS[category] <= min(taken) < max(taken) <= (1 + SPREAD) * SECONDS[category]
    assert sum(taken) / 200 == pytest.approx(SECONDS[category], rel=0.05)


def test_texts_are_embedded_one_after_the_other() -> None:
    each = [seconds("embed", [text], 1) for text in "abc"]
    assert seconds("embed", "abc", 1) == pytest.approx(sum(each))
    asked = [Asked(at=0, category="embed", texts=("a", "b")), Asked(at=0, category="embed", texts=("c",))]
    assert total(asked, 1) == pytest.approx(sum(each))
