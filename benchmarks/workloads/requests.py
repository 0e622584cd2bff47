"""The requests that each commit would have caused, by three rules, and their form in JSONL.

- **embed**: each changed source file is cut again, and all its chunks are one list
- **explain**: for each changed function there is a question about the old text and then about the new one; for a new
  function only about the new one. A number of readers ask the same
- **fix**: there is a question about each diagnostic that the linter reports for the new version of a file only
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from benchmarks.workloads import chunks
from benchmarks.workloads.diagnostics import Diagnostic
from benchmarks.workloads.history import Blobs, Change, History
from benchmarks.workloads.languages import Piece, language_of, pieces

EMBED, EXPLAIN, FIX = CATEGORIES = ("embed", "explain", "fix")
MODELS: Final = {EMBED: "all-minilm", EXPLAIN: "explains", FIX: "fixes"}
"""One for each category, so that the simulator knows the time of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: when (Unix time in seconds), in which category, and its prompt, or the texts of its list."""

    at: int
    category: str
    texts: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path of the endpoint."""
        return "/api/embed" if self.category == EMBED else "/api/generate"

    def body(self) -> bytes:
        """Return the body of the request."""
        model = MODELS[self.category]
        if self.category == EMBED:
            return orjson.dumps({"model": model, "input": self.texts})
        return orjson.dumps({"model": model, "prompt": self.texts[0], "stream": False})


def line(asked: Asked, *, counted: bool) -> bytes:
    """Return a line of JSONL."""
    fields = {"X-Cache-Category": asked.category}
    row = {
        "at": asked.at,
        "counted": counted,
        "path": asked.path,
        "fields": fields,
        "body": orjson.Fragment(asked.body()),
    }
    return orjson.dumps(row) + b"\n"


def read(lines: Iterable[bytes]) -> tuple[list[Asked], list[Asked]]:
    """Return the requests in JSONL: the uncounted ones before, and the others."""
    split: dict[bool, list[Asked]] = {False: [], True: []}
    for text in lines:
        row: dict[str, Any] = orjson.loads(text)
        texts = row["body"]["input"] if "input" in row["body"] else [row["body"]["prompt"]]
        split[row["counted"]].append(
            Asked(at=row["at"], category=row["fields"]["X-Cache-Category"], texts=tuple(texts))
        )
    return split[False], split[True]


# Embeddings


def embeds(history: History, rule: str) -> tuple[list[Asked], list[Asked]]:
    """Return the lists of the files before the first commit, and those of the commits."""
    cut = _cutter(history.blobs, rule)
    start = history.commits[0].at if history.commits else 0
    before = list(_lists(cut, start, history.before))
    return before, [asked for commit in history.commits for asked in _lists(cut, commit.at, commit.changes)]


def _lists(cut: Callable[[str, str], tuple[str, ...]], at: int, changes: Iterable[Change]) -> Iterator[Asked]:
    for change in changes:
        if language_of(change.path) and (texts := cut(change.path, change.new)):
            yield Asked(at=at, category=EMBED, texts=texts)


def _cutter(blobs: Blobs, rule: str) -> Callable[[str, str], tuple[str, ...]]:
    """Return a function that cuts a version of a file; equal texts are the same object."""
    known: dict[str, str] = {}

    def cut(path: str, blob: str) -> tuple[str, ...]:
        language = language_of(path)
        if language is None:
            return ()
        texts = chunks.RULES[rule](path, blobs.text(blob), language)
        return tuple(known.setdefault(text, text) for text in texts)

    return cut


# Explanations


_QUESTION: Final = "Explain what this code does."
EXPLANATIONS: Final[dict[str, Callable[[str, Piece], str]]] = {
    "the function alone": lambda _path, piece: f"{_QUESTION}\n\n{piece.text}",
    "its path on top": lambda path, piece: f"{_QUESTION}\n\n{path}\n{piece.text}",
    "its path and line on top": lambda path, piece: f"{_QUESTION}\n\n{path}:{piece.first}\n{piece.text}",
    "the question below": lambda _path, piece: f"{piece.text}\n\n{_QUESTION}",
}
USUAL_EXPLANATION: Final = "the function alone"
LINED_EXPLANATION: Final = "its path and line on top"


def explanations(history: History, shape: str, readers: int) -> list[Asked]:
    """Return the questions about changed functions."""
    written = EXPLANATIONS[shape]
    asked: list[Asked] = []
    for commit in history.commits:
        for change in commit.changes:
            for piece in _changed(change, history.blobs):
                one = Asked(at=commit.at, category=EXPLAIN, texts=(written(change.path, piece),))
                asked += [one] * readers
    return asked


def _changed(change: Change, blobs: Blobs) -> Iterator[Piece]:
    """Yield the old and the new text of every function in a change."""
    if (language := language_of(change.path)) is None:
        return
    old = {piece.function: piece for piece in pieces(blobs.text(change.old), language)}
    for piece in pieces(blobs.text(change.new), language):
        known = old.get(piece.function)
        if piece.function and (known is None or known.text != piece.text):
            if known is not None:
                yield known
            yield piece


# Fixes


def _around(lines: Sequence[str], row: int, count: int) -> str:
    return "\n".join(lines[max(0, row - 1 - count) : row + count])


_FIX: Final = "How do I fix this error?"
FIXES: Final[dict[str, Callable[[str, Sequence[str], Diagnostic], str]]] = {
    "the message": lambda _path, _lines, one: f"{_FIX}\n\n{one.message}",
    "message and line": lambda _path, _lines, one: f"{_FIX}\n\n{one.message}\n{one.line}",
    "message, line and where it is": lambda path, _lines, one: f"{_FIX}\n\n{path}:{one.row}: {one.message}\n{one.line}",
    "message and 3 lines around": lambda _path, lines, one: f"{_FIX}\n\n{one.message}\n{_around(lines, one.row, 3)}",
    "message and 10 lines around": lambda _path, lines, one: f"{_FIX}\n\n{one.message}\n{_around(lines, one.row, 10)}",
}
USUAL_FIX: Final = "message and line"


def linted(history: History) -> list[Change]:
    """Return the changes of files that the linter reads."""
    return [change for commit in history.commits for change in commit.changes if change.path.endswith(".py")]


def fixes(history: History, said: Mapping[str, tuple[Diagnostic, ...]], shape: str) -> list[Asked]:
    """Return the questions about new diagnostics."""
    written = FIXES[shape]
    asked: list[Asked] = []
    for commit in history.commits:
        for change in commit.changes:
            if change.new not in said:
                continue
            old = {one.same for one in said.get(change.old, ())}
            lines = history.blobs.text(change.new).split("\n")
            new = (one for one in said[change.new] if one.same not in old)
            asked += [Asked(at=commit.at, category=FIX, texts=(written(change.path, lines, one),)) for one in new]
    return asked


def together(*workloads: Iterable[Asked]) -> list[Asked]:
    """Return workloads merged by time; at equal times in the order of the arguments."""
    return sorted((asked for workload in workloads for asked in workload), key=lambda asked: asked.at)
