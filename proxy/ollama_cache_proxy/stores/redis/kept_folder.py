"""The folder in which a private server keeps its entries, of one person alone.

    CACHEDIR.TAG  tells backups to leave the folder out (https://bford.info/cachedir/)
    store.json    ours: the version of this layout, and the number of deletions that were answered
    lock          locked (flock) as long as a server, or a child of it, may write here; holds the path of its socket
    entries/      the server's own files

An answered deletion is never undone: its number is here before it is answered, and a store that was loaded with a
smaller one is dropped.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

if sys.platform != "win32":
    import fcntl

FORMAT: Final = 1
"""The version of the layout."""
ENTRIES: Final = "entries"
"""The folder with the server's own files."""
_NAME: Final = "ollama-cache-proxy"
_STORE: Final = "store.json"
_LOCK: Final = "lock"
_TAG: Final = "CACHEDIR.TAG"
_TAG_TEXT: Final = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Entries of ollama-cache-proxy. They can be deleted while it does not run.\n"
)
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_MOST: Final = 4096
"""Bytes of store.json that are read."""


class FolderError(Exception):
    """Nothing can be kept in this folder; the text says why, and goes on after its path: "is not a folder"."""


class UnknownDeletionsError(FolderError):
    """How many deletions were answered cannot be read, so that what is kept may have been cleared."""


def default_folder() -> Path:
    """Return where a person's caches are; raise FolderError if they have no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if given and Path(given).is_absolute():
        return Path(given) / _NAME
    home = Path("~").expanduser()
    if not home.is_absolute():
        text = "is not used, since there is no home folder: name one with --store-dir"
        raise FolderError(text)
    return home / ".cache" / _NAME


class KeptFolder:
    """A folder of ours, at an absolute path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def entries(self) -> Path:
        """Where the server's own files are."""
        return self.path / ENTRIES

    @property
    def holds_something(self) -> bool:
        """Whether something is kept."""
        with suppress(OSError):
            return any(self.entries.iterdir())
        return False

    @classmethod
    def found(cls, path: Path) -> KeptFolder | None:
        """Return the folder if it is one of ours, None else. Nothing is written."""
        folder = cls(path)
        with suppress(OSError):
            return folder if folder._is_ours() else None
        return None

    @classmethod
    def opened(cls, path: Path) -> KeptFolder:
        """Return the folder, made if it is not there; raise FolderError. One that is not ours is left as it is."""
        try:
            _make(path)
            folder = cls(path)
            folder._check_owner()
            if any(path.iterdir()):
                if not folder._is_ours():
                    text = "holds files that are not the proxy's"
                    raise FolderError(text)
            else:
                path.chmod(0o700)
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & _OTHERS_WRITE:
                text = "can be written to by others"
                raise FolderError(text)
            if mode & _OTHERS:
                path.chmod(mode & ~_OTHERS)
            _write(path / _TAG, _TAG_TEXT)
            folder._begin()
        except OSError as error:
            raise FolderError(f"cannot be used: {error.strerror}") from None
        return folder

    # Deletions.

    def deletions(self) -> int:
        """Return the number of the last deletion that was answered; raise UnknownDeletionsError."""
        try:
            number = self._stored()["deletions"]
        except (OSError, ValueError, KeyError, TypeError):
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            text = f"has no {_STORE} that can be read"
            raise UnknownDeletionsError(text)
        return number

    def raise_deletions(self, number: int) -> None:
        """Note that this deletion may be answered: on the disk when this returns. Never lowers what is there.

        Several processes may call it at once. Raises OSError and FolderError; it waits for the disk, so call it in a
        thread.
        """
        with self._updating():
            if number > self.deletions():
                self._store(number)
            else:
                _sync(self.path)  # the process that wrote the larger one may have been killed before

    def drop(self) -> None:
        """Delete what is kept. The number of deletions stays. Raises OSError."""
        shutil.rmtree(self.entries, ignore_errors=True)
        if self.entries.exists():
            shutil.rmtree(self.entries)
        _sync(self.path)

    def start_anew(self) -> None:
        """Delete what is kept, and count deletions anew. Raises OSError."""
        with self._updating():
            self.drop()
            self._store(0)

    # Its files.

    def _is_ours(self) -> bool:
        """Return whether the proxy has made it: by either file, since one of them may be damaged. Raise FolderError."""
        with suppress(ValueError, OSError):
            found = self._stored()
            if found.get("name") == _NAME:
                if found.get("format") != FORMAT:
                    text = "is of another version of the proxy"
                    raise FolderError(text)
                return True
        with suppress(OSError):
            return _read(self.path / _TAG) == _TAG_TEXT
        return False

    def _check_owner(self) -> None:
        """Raise FolderError if it belongs to somebody else."""
        if not self.path.is_dir():
            text = "is not a folder"
            raise FolderError(text)
        own = os.getuid() if sys.platform != "win32" else 0
        if any(found.st_uid != own for found in (self.path.stat(), self.path.lstat())):
            text = "belongs to another user"
            raise FolderError(text)

    def _begin(self) -> None:
        """Write store.json if it is not there."""
        with self._updating():
            if not (self.path / _STORE).exists() and not self.holds_something:
                self._store(0)

    def _stored(self) -> dict[str, Any]:
        found = orjson.loads(_read(self.path / _STORE))
        if not isinstance(found, dict):
            raise ValueError  # noqa: TRY004 - what it holds is wrong
        return found

    def _store(self, deletions: int) -> None:
        new = self.path / f"{_STORE}.new"
        _write(new, orjson.dumps({"name": _NAME, "format": FORMAT, "deletions": deletions}) + b"\n")
        new.replace(self.path / _STORE)
        _sync(self.path)

    @contextmanager
    def _updating(self) -> Iterator[None]:
        """Hold a lock on the folder itself, which is not the one of the server."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if sys.platform != "win32":
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _make(path: Path) -> None:
    """Make a folder and those above it, for this person alone. Raises OSError."""
    for folder in reversed((path, *path.parents)):
        if not folder.exists():
            with suppress(FileExistsError):  # another proxy that starts has just made it
                folder.mkdir(mode=0o700)


def _read(path: Path) -> bytes:
    """Return the bytes of a file, of one of more than `_MOST` the first. Raises OSError, also for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    """Write a file for this person alone, to the disk. Raises OSError, also for a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Bring names in a folder to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
