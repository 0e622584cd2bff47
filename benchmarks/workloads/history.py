"""Commits of a Git repository in order, read with two processes: one `log`, one `cat-file`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

_FILE: Final = "100"
"""The prefix of a regular file's mode; links and submodules have others."""

_RECORD: Final = "\x01"
_KEPT_TEXTS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A file that a commit wrote; `old` and `new` are names of blobs, `old` empty for a new file."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit; `at` is the committer's Unix time in seconds, never before that of the commit before it."""

    name: str
    at: int
    changes: tuple[Change, ...]


class Blobs:
    """The contents of files."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.text = lru_cache(maxsize=_KEPT_TEXTS)(self._text)

    def _text(self, name: str) -> str:
        """Return a blob as text, empty for an empty name; invalid UTF-8 becomes U+FFFD, as JSON needs."""
        if not name:
            return ""
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        stdin.write(name.encode() + b"\n")
        stdin.flush()
        _, kind, *size = stdout.readline().split()
        if kind == b"missing":  # a partial clone
            return ""
        data = stdout.read(int(size[0]) + 1)
        return data[:-1].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The last commits of a repository without merges; `before` are the files before the first one.

    `begun` is the Unix time of the repository's very first commit.
    """

    name: str
    head: str
    begun: int
    before: tuple[Change, ...]
    commits: tuple[Commit, ...]
    blobs: Blobs


@contextmanager
def opened(folder: Path, name: str, *, last: int, revision: str = "HEAD") -> Iterator[History]:
    """Read the `last` commits up to a revision; of a shorter history the first commit is `before`."""
    head = _git(folder, "rev-parse", "--verify", f"{revision}^{{commit}}").strip()
    shown = ("--no-merges", "--reverse", "--raw", "--no-abbrev", "--no-renames", "--root", f"--format={_RECORD}%H %ct")
    first, *commits = _commits(_git(folder, "log", *shown, f"--max-count={last + 1}", head))
    begun = min(map(int, _git(folder, "log", "--max-parents=0", "--format=%ct", head).split()))
    command = ("git", "-C", str(folder), "cat-file", "--batch")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603
        tree = _git(folder, "ls-tree", "-r", first.name)
        blobs = Blobs(process)
        before = _tree(tree)
        yield History(name=name, head=head, begun=begun, before=before, commits=tuple(commits), blobs=blobs)
        _pipe(process.stdin).close()


def _git(folder: Path, *arguments: str) -> str:
    command = ("git", "-C", str(folder), "-c", "core.quotePath=false", *arguments)
    run = subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    return run.stdout.decode("utf-8", "replace")


def _commits(log: str) -> Sequence[Commit]:
    commits: list[Commit] = []
    for record in log.split(_RECORD)[1:]:
        (head, *lines) = record.split("\n")
        name, at = head.split()
        latest = commits[-1].at if commits else 0
        changes = tuple(change for line in lines if line.startswith(":") for change in _change(line))
        commits.append(Commit(name=name, at=max(int(at), latest), changes=changes))
    return commits


def _change(line: str) -> Iterator[Change]:
    """Yield the change in `:⟨old mode⟩ ⟨new mode⟩ ⟨old blob⟩ ⟨new blob⟩ ⟨status⟩⇥⟨path⟩`."""
    described, _, path = line.partition("\t")
    before, after, old, new, _ = described[1:].split()
    if after.startswith(_FILE):
        yield Change(path=path, old=old if before.startswith(_FILE) else "", new=new)


def _tree(listing: str) -> tuple[Change, ...]:
    rows = [(*line.partition("\t")[0].split(), line.partition("\t")[2]) for line in listing.splitlines()]
    return tuple(Change(path=path, old="", new=blob) for mode, _, blob, path in rows if mode.startswith(_FILE))


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("no pipe")
    return pipe
