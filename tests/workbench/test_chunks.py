from __future__ import annotations

import pytest

from ollama_cache_proxy.workbench.chunks import WAYS, chunks

PYTHON = """\
import os
import sys

# what follows
@cached
def one(
    a,
):
    if a:

        return 1
    return 2


class Two:
    def three(self):
        pass
X = 1
"""

GO = "package main\n\nfunc a() {\n\tb()\n}\n\nfunc c() {\n}\n"


@pytest.mark.parametrize(
    ("text", "way", "most", "found"),
    [
        ("", "lines", 5, []),
        ("\n \n", "paragraphs", 5, []),
        ("a\nb\nc\n", "lines", 2, ["a\nb", "c"]),
        ("a\n\n\nb\n", "lines", 9, ["a\n\n\nb"]),
        ("\na\n\nb\n", "lines", 2, ["a", "b"]),
        ("one\none\n\n\ntwo", "paragraphs", 9, ["one\none", "two"]),
        ("one\none\none\n\ntwo", "paragraphs", 2, ["one\none", "one", "two"]),
        ("  kept\n", "lines", 9, ["  kept"]),
        ("a\r\nb\r\n", "lines", 9, ["a\nb"]),
        (
            PYTHON,
            "functions",
            99,
            [
                "import os\nimport sys",
                "# what follows\n@cached\ndef one(\n    a,\n):\n    if a:\n\n        return 1\n    return 2",
                "class Two:\n    def three(self):\n        pass",
                "X = 1",
            ],
        ),
        (GO, "functions", 99, ["package main", "func a() {\n\tb()\n}", "func c() {\n}"]),
        ("def a\n  1\nend\ndef b\n  2\nend\n", "functions", 99, ["def a\n  1\nend", "def b\n  2\nend"]),
        ("ending = 1\n\nendless = 2\n", "functions", 99, ["ending = 1", "endless = 2"]),
    ],
)
def test_texts_are_cut(text: str, way: str, most: int, found: list[str]) -> None:
    assert chunks(text, way, most) == found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("most", [1, 3, 99])
def test_no_line_that_says_something_is_lost_or_comes_twice(way: str, most: int) -> None:
    lines = [line for chunk in chunks(PYTHON + GO, way, most) for line in chunk.splitlines() if line.strip()]
    assert lines == [line for line in (PYTHON + GO).splitlines() if line.strip()]
