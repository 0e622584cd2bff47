"""Chunks to embed, cut from texts. A chunk is whole lines, without blank lines at its start and end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

_CLOSING: Final = re.compile(r"[)\]}]|end\b")


def chunks(text: str, way: str, most: int) -> list[str]:
    """Return a text cut in one of the `WAYS`; a piece of more than `most` lines is cut again every `most` lines."""
    found: list[str] = []
    for piece in WAYS[way](text.splitlines()):
        for start in range(0, len(piece), most):
            chunk = "\n".join(_trimmed(piece[start : start + most]))
            if chunk:
                found.append(chunk)
    return found


def _trimmed(lines: list[str]) -> list[str]:
    filled = [index for index, line in enumerate(lines) if line.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else []


def _lines(lines: list[str]) -> Iterator[list[str]]:
    """Yield the text in one piece, so that only the number of lines cuts it."""
    yield lines


def _paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """Cut at blank lines."""
    piece: list[str] = []
    for line in lines:
        if line.strip():
            piece.append(line)
        else:
            yield piece
            piece = []
    yield piece


def _functions(lines: list[str]) -> Iterator[list[str]]:
    """Cut before each line that starts a block at the top level.

    Such a line is not indented, does not start with a closing bracket, and follows a line that is blank, indented or
    closing. So comments and decorators right above a definition stay with it.
    """
    piece: list[str] = []
    for line in lines:
        if piece and _is_outer(line) and not _is_outer(piece[-1]):
            yield piece
            piece = []
        piece.append(line)
    yield piece


def _is_outer(line: str) -> bool:
    return bool(line.strip()) and not line[0].isspace() and not _CLOSING.match(line)


WAYS: Final[Mapping[str, Callable[[list[str]], Iterator[list[str]]]]] = {
    "lines": _lines,
    "paragraphs": _paragraphs,
    "functions": _functions,
}
