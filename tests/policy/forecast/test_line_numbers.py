from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.forecast.line_numbers import without_line_numbers


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src/app.py:12-40\ndef f(): ...", "src/app.py:13-41\ndef f(): ..."),
        ("src/app.py:12: unused import", "src/app.py:113: unused import"),
        ("main.c:3:7: error", "main.c:10:1: error"),
        ("lib/Makefile:3 is wrong", "lib/Makefile:4 is wrong"),
        ("https://host/x.go#L3-L9", "https://host/x.go#L13-L19"),
        ("See lines 3-9 and line 12.", "See lines 4 to 10 and line 13."),
        ("  9| one\n 10| two", " 19| one\n 20| two"),
        ("@@ -1,7 +1,9 @@ def f", "@@ -11,7 +13,9 @@ def f"),
    ],
)
def test_texts_that_differ_in_line_numbers_alone_become_one(one: str, other: str) -> None:
    assert one != other
    assert without_line_numbers(one) == without_line_numbers(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("return 3", "return 4"),
        ("at 10:30", "at 10:31"),
        ("version 1.2:3", "version 1.2:4"),
        ("src/app.py:12\nx = 1", "src/app.py:12\nx = 2"),
        ("src/app.py:12", "src/lib.py:12"),
        ("12 apples", "13 apples"),
        ("headline 3", "headline 4"),
    ],
)
def test_other_numbers_stay(one: str, other: str) -> None:
    assert without_line_numbers(one) != without_line_numbers(other)
