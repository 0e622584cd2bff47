from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from ollama_cache_proxy.service.texts import Texts


class Model(BaseModel):
    texts: Texts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ()),
        (["a", ""], ("a", "")),
        (("a",), ("a",)),
        ("", ()),
        ("a", ("a",)),
        (" a b , c,", ("a b", "c")),
        ('a, "",b', ("a", "", "b")),
        ('""', ("",)),
        ('"a"', ('"a"',)),
        ('["a, b", ""]', ("a, b", "")),
        (" []", ()),
    ],
)
def test_texts_are_a_list_or_stand_between_commas(given, expected):
    assert Model(texts=given).texts == expected


@pytest.mark.parametrize("given", [1, None, {"a": 1}, [1], [["a"]], "[1]", "[", '["a"'])
def test_anything_else_is_refused(given):
    with pytest.raises(ValidationError):
        Model(texts=given)
