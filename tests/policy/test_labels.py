from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.labels import REST, Labels


@pytest.mark.parametrize(
    ("limit", "known", "names", "labels"),
    [
        pytest.param(2, (), ["a", "b"], ["a", "b"], id="within the bound each is its own"),
        pytest.param(2, (), ["a", "b", "c", "d"], ["a", "b", REST, REST], id="beyond it they are one"),
        pytest.param(2, (), ["a", "a", "b", "a", "c", "b"], ["a", "a", "b", "a", REST, "b"], id="again, the same"),
        pytest.param(2, ("x",), ["a", "b", "x"], ["a", REST, "x"], id="known ones take their places first"),
        pytest.param(2, ("x", "x", "y"), ["a", "y", "x"], [REST, "y", "x"], id="each once"),
        pytest.param(2, ("x", "y", "z"), ["z", "y"], [REST, "y"], id="as far as the bound goes"),
        pytest.param(1, (), ["", "a", ""], ["", "a", ""], id="nothing is its own label and takes no place"),
        pytest.param(1, ("",), ["a"], ["a"], id="nor where it is known"),
        pytest.param(0, (), ["a", ""], [REST, ""], id="a bound of none"),
        pytest.param(2, (), ["a", "A", "a "], ["a", "A", REST], id="as spelled"),
    ],
)
def test_the_first_names_stand_for_themselves_and_all_others_are_one(limit, known, names, labels):
    bounded = Labels(limit, known)
    assert [bounded.of(name) for name in names] == labels


def test_there_are_never_more_labels_than_the_bound_and_the_one_for_the_rest():
    bounded = Labels(32)
    assert len({bounded.of(f"name-{number}") for number in range(1000)}) == 33


def test_all_others_are_called_other() -> None:
    assert Labels(0).of("a") == "other"
