"""Rules that cut a file into the texts that are embedded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from benchmarks.workloads.languages import Language, pieces

Rule: TypeAlias = Callable[[str, str, Language], Iterator[str]]
"""Returns the chunks of a file in order, by its path, text and language; blank ones are left out."""

_PARAGRAPH: Final = 1_500
_LINES: Final = 40
_CHARACTERS: Final = 1_000
_BLANK: Final = re.compile(r"\n\s*\n")


def _functions(_path: str, text: str, language: Language) -> Iterator[str]:
    return (piece.text for piece in pieces(text, language))


def _with_path(path: str, text: str, language: Language) -> Iterator[str]:
    return (f"{path}\n{piece.text}" for piece in pieces(text, language))


def _with_lines(path: str, text: str, language: Language) -> Iterator[str]:
    return (f"{path}:{piece.first}-{piece.last}\n{piece.text}" for piece in pieces(text, language))


def _paragraphs(_path: str, text: str, _language: Language) -> Iterator[str]:
    held = ""
    for paragraph in _BLANK.split(text):
        if not paragraph.strip():
            continue
        if held and len(held) + 2 + len(paragraph) > _PARAGRAPH:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph
    if held:
        yield held


def _forty_lines(_path: str, text: str, _language: Language) -> Iterator[str]:
    lines = text.splitlines(keepends=True)
    return filter(str.strip, ("".join(lines[at : at + _LINES]) for at in range(0, len(lines), _LINES)))


def _thousand_characters(_path: str, text: str, _language: Language) -> Iterator[str]:
    return filter(str.strip, (text[at : at + _CHARACTERS] for at in range(0, len(text), _CHARACTERS)))


RULES: Final[dict[str, Rule]] = {
    "by function or class": _functions,
    "by function or class, path on top": _with_path,
    "by function or class, path and lines on top": _with_lines,
    "by paragraph, up to 1,500 characters": _paragraphs,
    "40 lines": _forty_lines,
    "1,000 characters": _thousand_characters,
}
USUAL: Final = "by function or class"
LINED: Final = "by function or class, path and lines on top"
