from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.model_rows import figure, part, rows, text, version

TINY = {"name": "tiny", "model": "tiny", "size": 5}


def test_rows_that_name_no_model_are_left_out_and_the_others_are_not() -> None:
    odd = [None, 5, "tiny", [], {}, {"name": None}, {"name": 5}, {"name": ""}, {"model": []}]
    assert rows({"models": [*odd, TINY, *odd]}) == [TINY]


def test_a_row_may_have_its_name_as_model_only() -> None:
    assert rows({"models": [{"model": "tiny"}, {"name": None, "model": "b", "size": 1}]}) == [
        {"model": "tiny", "name": "tiny"},
        {"model": "b", "name": "b", "size": 1},
    ]


@pytest.mark.parametrize("document", [None, 5, "x", [TINY], {}, *({"models": odd} for odd in (None, 5, "x", TINY))])
def test_what_is_no_list_has_no_rows(document: Any) -> None:
    assert rows(document) == []


def test_a_member_is_of_its_type_or_not_told() -> None:
    odd = (0, 5, -1, True, 5.0, "5", "", None, [], {"a": 1})
    assert [figure({"x": value}, "x") for value in odd] == [0, 5, *[None] * 8]
    assert [text({"x": value}, "x") for value in odd] == [*[""] * 5, "5", *[""] * 4]
    assert [part({"x": value}, "x") for value in odd] == [*[{}] * 9, {"a": 1}]
    assert (figure({}, "x"), text({}, "x"), part({}, "x")) == (None, "", {})


def test_a_version_is_a_text() -> None:
    assert version({"version": "0.33.0"}) == "0.33.0"
    assert {version(odd) for odd in (None, [], "0.33.0", {}, {"version": None}, {"version": 33})} == {""}
