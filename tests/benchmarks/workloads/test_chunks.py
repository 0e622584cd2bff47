"""How files are cut."""

from __future__ import annotations

import pytest

from benchmarks.workloads.chunks import RULES
from benchmarks.workloads.languages import language_of

TEXT = "import os\n\n\ndef f():\n    return 1\n"


def cut(rule: str, text: str) -> list[str]:
    language = language_of("a.py")
    assert language is not None
    return list(RULES[rule]("a.py", text, language))


def test_by_function() -> None:
    assert cut("by function or class", TEXT) == ["import os", "def f():\n    return 1"]
    assert cut("by function or class, path on top", TEXT)[1] == "a.py\ndef f():\n    return 1"
    assert cut("by function or class, path and lines on top", TEXT)[1] == "a.py:4-5\ndef f():\n    return 1"


def test_by_paragraph() -> None:
    short, long = "a" * 700, "b" * 1_600
    rule = "by paragraph, up to 1,500 characters"
    assert cut(rule, f"{short}\n\n{short}\n \n{short}\n\n\n{long}") == [f"{short}\n\n{short}", short, long]


def test_by_lines_and_characters() -> None:
    text = "x\n" * 90
    assert [chunk.count("\n") for chunk in cut("40 lines", text)] == [40, 40, 10]
    assert [len(chunk) for chunk in cut("1,000 characters", "y" * 2_500)] == [1_000, 1_000, 500]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", ["", "\n \n", "\n" * 2_000])
def test_nothing_blank_is_embedded(rule: str, text: str) -> None:
    assert cut(rule, text) == []
