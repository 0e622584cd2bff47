"""A text without its line numbers, which change whenever something above the text does."""

from __future__ import annotations

import re
from typing import Final

_NUMBERS: Final = re.compile(
    r"(\.[A-Za-z]\w{0,9}|/[\w.-]+)[:#]L?\d+(?:[-:,]L?\d+)*"  # after a path: x.py:12-40, x.c:3:7, x.go#L3-L9
    r"|\b([Ll]ines?) \d+(?:(?:-| - | to |, )\d+)*"  # line 3, lines 3-9
    r"|^[ \t]*\d+(?=[|:\t→])"  # before each line
    r"|^(@@) -\d+(?:,\d+)? \+\d+(?:,\d+)? (?=@@)",  # of a diff
    re.MULTILINE,
)


def without_line_numbers(text: str) -> str:
    """Return a text without the line numbers that it says of a file, of a range, or of each of its lines."""
    return _NUMBERS.sub(r"\1\2\3", text)
