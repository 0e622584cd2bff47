"""Where functions start and end, by lines and indentation only; without a parser, so old and broken sources work too.

A piece starts at a line with a declaration, at the margin or one level in, with the decorators, attributes and
comments right above it. It ends before the first line that is not indented more than its start, except closing
brackets. This is how formatters lay out Python, Go, Rust, TypeScript and JavaScript.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

_LEVEL: Final = 4
_TAB: Final = 4
_CLOSING: Final = (")", "]", "}", "{", "where")
"""Starts of lines that belong to a piece at its own indentation: the rest of its head, and its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """Patterns for declarations of functions and of others, each with a name, and for lines above a declaration."""

    name: str
    function: re.Pattern[str]
    other: re.Pattern[str]
    above: re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a file: its text without blank lines around it, and its first and last line, counted from 1.

    `function` is the qualified name if it is a function, otherwise empty.
    """

    text: str
    first: int
    last: int
    function: str


def _language(name: str, *, function: str, other: str, above: str) -> Language:
    return Language(
        name=name,
        function=re.compile(function, re.VERBOSE),
        other=re.compile(other, re.VERBOSE),
        above=re.compile(above),
    )


_PYTHON: Final = _language(
    "Python",
    function=r"(?: async\s+ )? def \s+ (?P<name>\w+)",
    other=r"class \s+ (?P<name>\w+)",
    above="@",
)
_GO: Final = _language(
    "Go",
    function=r"func \s+ (?P<name> (?: \([^)]*\) \s* )? \w+)",
    other=r"type \s+ (?P<name>\w+)",
    above="//",
)
_RUST: Final = _language(
    "Rust",
    function=r'(?: pub (?: \([^)]*\) )? \s+ )? (?: (?:default|const|async|unsafe|extern\s+"[^"]*") \s+ )*'
    r" fn \s+ (?P<name>\w+)",
    other=r"(?: pub (?: \([^)]*\) )? \s+ )? (?: unsafe \s+ )?"
    r"(?P<name> (?:impl|struct|enum|trait|union|mod|macro_rules!) \b [^{;(]*)",
    above=r"//|#\[",
)
_SCRIPT: Final = _language(
    "TypeScript, JavaScript",
    function=r"""
        (?: export\s+ )? (?: default\s+ )? (?: async\s+ )? function \b \s* \*? \s* (?P<name>\w*)
        | (?: export\s+ )? (?:const|let|var) \s+ (?P<arrow>[\w$]+) [^=]* = \s*
          (?: async\b \s* )? (?: function\b | \( | \w+ \s* => )
        | (?: (?:public|private|protected|static|readonly|override|async|get|set) \s+ )* (?: \* \s* )?
          (?! (?:if|for|while|switch|catch|return|function) \b ) (?P<method> \#?[\w$]+) \s* (?: <[^>]*> )?
          \( [^()]* \) \s* (?: : [^=;]+ )? \{ \s* $
        | (?P<test> (?:test|it|describe) (?: \.\w+ )* \( \s* ['"`] [^'"`]* )
    """,
    other=r"(?: export\s+ )? (?: default\s+ )? (?: declare\s+ )? (?: abstract\s+ )?"
    r"(?P<name> (?:class|interface|type|enum|namespace) \s+ \w+)",
    above=r"//|/\*|\*|@",
)
_BY_SUFFIX: Final = {
    ".py": _PYTHON,
    ".go": _GO,
    ".rs": _RUST,
    **dict.fromkeys((".ts", ".tsx", ".mts", ".js", ".jsx", ".mjs"), _SCRIPT),
}


def language_of(path: str) -> Language | None:
    """Return the language of a source file, None if it is not supported."""
    return _BY_SUFFIX.get(PurePosixPath(path).suffix)


def pieces(text: str, language: Language) -> Iterator[Piece]:
    """Yield the pieces of a file, which contain all of its lines except blank ones between them."""
    cutter = _Cutter(language)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        cutter.line(number, line)
    cutter.cut(len(lines))
    for begin, end, function in cutter.found:
        part = lines[begin:end]
        kept = [at for at, line in enumerate(part) if line.strip()]
        if kept:
            first, last = begin + kept[0], begin + kept[-1]
            yield Piece(text="\n".join(lines[first : last + 1]), first=first + 1, last=last + 1, function=function)


class _Cutter:
    """Reads line by line. `depth` is the indentation of the current piece, None if it has no declaration.

    `above` is the first of the lines right above, which belong to the next declaration if it follows.
    """

    def __init__(self, language: Language) -> None:
        self._language = language
        self._begin = 0
        self._depth: int | None = None
        self._above: int | None = None
        self._above_depth = 0
        self._function = ""
        self._owner = ""
        self._names: dict[str, int] = {}
        self.found: list[tuple[int, int, str]] = []

    def line(self, number: int, line: str) -> None:
        """Read a line."""
        bare = line.strip()
        if not bare:
            self._above = None
            return
        depth = len(line.expandtabs(_TAB)) - len(line.expandtabs(_TAB).lstrip())
        if self._depth is not None and depth <= self._depth and not bare.startswith(_CLOSING):
            self.cut(number)
        if self._above is not None and (depth > self._above_depth or bare.startswith(_CLOSING)):
            return  # an attribute of several lines
        if depth > _LEVEL or self._function:
            self._above = None
        elif self._language.above.match(bare):
            if self._above is None:
                self._above, self._above_depth = number, depth
        else:
            above = number if self._above is None else max(self._above, self._begin)  # not of the previous piece
            self._declaration(above, bare, depth)
            self._above = None

    def _declaration(self, number: int, bare: str, depth: int) -> None:
        """Start a piece at line `number` if `bare` is a declaration."""
        function = self._language.function.match(bare)
        found = function or self._language.other.match(bare)
        if found is None:
            return
        self.cut(number)
        self._depth = depth
        name = next((text for text in found.groupdict().values() if text), "")
        if not depth:
            self._owner = "" if function else name
        if function:
            self._function = self._numbered(f"{self._owner}.{name}" if depth else name)

    def _numbered(self, name: str) -> str:
        """Return a unique name for functions with one name in a file: overloads, and branches of a condition."""
        self._names[name] = count = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name} {count}"

    def cut(self, number: int) -> None:
        """End the current piece before this line."""
        if number > self._begin:
            self.found.append((self._begin, number, self._function))
        self._begin, self._depth, self._function = number, None, ""
