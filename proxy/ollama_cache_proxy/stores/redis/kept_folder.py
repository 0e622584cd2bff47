"""The folder in which a private server keeps its entries, of one person alone.

    CACHEDIR.TAG  tells backups to leave the folder out (https://bford.info/cachedir/)
    store.json    ours: the version of this layout, and the number of deletions that were answered
    proxy.lock    locked (flock) by the proxy that starts the server; holds the path of the server's socket
    server.lock   locked by the server and its children, as long as one of them may write here
    entries/      the server's own files

An answered deletion is never undone: its number is here before it is answered, and a store that was loaded with a
smaller one is dropped.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.mounts import remote_file_system

if sys.platform != "win32":
    import fcntl

FORMAT: Final = 1
"""The version of the layout."""
ENTRIES: Final = "entries"
"""The folder with the server's own files; theirs begin with the same word."""
_ASIDE: Final = "entries.old"
"""What could not be loaded, until a server without it has started."""
_NAME: Final = "ollama-cache-proxy"
_STORE: Final = "store.json"
_CLAIM: Final = "proxy.lock"
_IN_USE: Final = "server.lock"
_TAG: Final = "CACHEDIR.TAG"
_TAG_TEXT: Final = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Entries of ollama-cache-proxy. They can be deleted while it does not run.\n"
)
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
DELETIONS_BELOW: Final = 1 << 62
"""A number of deletions that is not below is no count, and a server could not count on from it for long."""
_MOST: Final = 4096
"""Bytes of store.json that are read."""


class FolderError(Exception):
    """Nothing can be kept; the text says where and why."""


class UnknownDeletionsError(FolderError):
    """How many deletions were answered cannot be read, so that what is kept may have been cleared."""


def default_folder() -> Path:
    """Return where a person's caches are; raise FolderError if they have no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if given and Path(given).is_absolute():
        return Path(given) / _NAME
    try:
        return Path("~").expanduser() / ".cache" / _NAME
    except RuntimeError:
        text = "there is no home folder; --store-dir names another"
        raise FolderError(text) from None


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
        with suppress(OSError, FolderError):
            return folder if folder._is_ours() else None
        return None

    @classmethod
    def opened(cls, path: Path) -> KeptFolder:
        """Return the folder, made if it is not there; raise FolderError. One that is not ours is left as it is."""
        folder = cls(path)
        try:
            _make(path)
            folder._take()
        except OSError as error:
            raise FolderError(f"{path} cannot be used: {error.strerror}") from None
        return folder

    def _take(self) -> None:
        """See `opened`."""
        path = self.path
        kind = _remote_file_system(path)
        if kind is not None:
            raise FolderError(f"{path} is on another machine ({kind})")
        if not path.is_dir():
            raise FolderError(f"{path} is not a folder")
        own = os.getuid() if sys.platform != "win32" else 0
        linked_by = (own, 0)  # systemd's CacheDirectory is a link of root
        if path.stat().st_uid != own or path.lstat().st_uid not in linked_by:
            raise FolderError(f"{path} belongs to another user")
        if self._is_begun():
            path.chmod(0o700)
        elif not self._is_ours():
            raise FolderError(f"{path} holds files that are not the proxy's")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS_WRITE:
            raise FolderError(f"others can write to {path}")
        if mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)
        _write(path / _TAG, _TAG_TEXT)
        with self._updating():
            if not (path / _STORE).exists() and not self.holds_something:
                self._store(0)

    # Deletions.

    def deletions(self) -> int:
        """Return the number of the last deletion that was answered; raise UnknownDeletionsError."""
        if not self.path.exists():
            return 0  # it was deleted, with all that was kept
        try:
            number = self._stored()["deletions"]
        except (OSError, ValueError, KeyError, TypeError):
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < DELETIONS_BELOW:
            raise UnknownDeletionsError(f"{self.path / _STORE} is damaged")
        return number

    def raise_deletions(self, number: int) -> None:
        """Note that this deletion may be answered: on the disk when this returns. Never lowers what is there.

        Where nothing is kept any more (`drop`), nothing can come back, and nothing is written. Several processes may
        call it at once. Raises OSError and FolderError; it waits for the disk, so call it in a thread.
        """
        if not self.entries.exists():
            return
        with self._updating():
            if number > self.deletions():
                self._store(number)
            else:
                _sync(self.path)  # the process that wrote the larger one may have been killed before

    def drop(self) -> None:
        """Delete what is kept. The number of deletions stays. Raises OSError."""
        _remove(self.entries)
        _sync(self.path)

    def start_anew(self) -> None:
        """Delete what is kept, and count deletions anew. Raises OSError."""
        with self._updating():
            self.drop()
            self._store(0)

    # Who uses it.

    def claim(self) -> int | None:
        """Return a descriptor that is the right to start the server, None if another proxy has it. Raises OSError."""
        return _locked(self.path / _CLAIM)

    def next_claim(self) -> int:
        """Return a descriptor for `claims`, for a proxy that waits. Raises OSError.

        It stays that of this folder when the folder is deleted, or another takes its place.
        """
        return _opened(self.path / _CLAIM)

    def is_claimed_by(self, claim: int) -> bool:
        """Return whether the claim is to what is at the path now."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(claim), (self.path / _CLAIM).lstat())
        return False

    def server_lock(self) -> int | None:
        """Return a descriptor for the server to inherit, None while another may still write. Raises OSError."""
        return _locked(self.path / _IN_USE)

    def write_socket(self, claim: int, socket: Path) -> None:
        """Tell other proxies where the server's socket is. Raises OSError."""
        os.ftruncate(claim, 0)
        os.pwrite(claim, os.fsencode(socket), 0)

    def socket(self) -> Path | None:
        """Return where the proxy that has the claim, or had it last, says that the server's socket is."""
        with suppress(OSError):
            path = Path(os.fsdecode(_read(self.path / _CLAIM)))
            return path if path.is_absolute() else None
        return None

    # What is kept; only who holds the lock of the server may call these. They raise OSError.

    def tidy(self) -> None:
        """Delete files that a server, or a proxy, which was killed has left: they may hold what was cleared since."""
        for path in self.path.iterdir():
            if path.name.startswith("temp-") or path.name == _ASIDE:
                _remove(path)
        with suppress(FileNotFoundError):
            named = self._named_files()
            for path in self.entries.iterdir():
                if path.name not in named:
                    _remove(path)

    def set_aside(self) -> None:
        """Have the next server start without what is kept."""
        self.entries.replace(self.path / _ASIDE)

    def put_back(self) -> None:
        """Undo `set_aside`."""
        if (self.path / _ASIDE).exists():
            self.drop()
            (self.path / _ASIDE).replace(self.entries)

    def forget_aside(self) -> None:
        """Delete what was set aside, and count deletions anew: the store is empty."""
        with self._updating():
            _remove(self.path / _ASIDE)
            self._store(0)

    def _named_files(self) -> set[str]:
        """Return the names of the files that the server will read."""
        manifest = f"{ENTRIES}.aof.manifest"
        try:
            words = _read(self.entries / manifest, most=1 << 20).decode("latin-1").split()
        except FileNotFoundError:
            return set()
        return {manifest, *(name for word, name in itertools.pairwise(words) if word == "file")}

    # Its files.

    def _is_begun(self) -> bool:
        """Return whether nothing is there, or only a tag that a full disk, or a kill, has left empty."""
        names = {path.name for path in self.path.iterdir()}
        return not names or (names == {_TAG} and (self.path / _TAG).lstat().st_size == 0)

    def _is_ours(self) -> bool:
        """Return whether the proxy has made it: by either file, since one of them may be damaged. Raise FolderError."""
        with suppress(ValueError, OSError):
            found = self._stored()
            if found.get("name") == _NAME:
                if found.get("format") != FORMAT:
                    raise FolderError(f"{self.path} is of another version of the proxy")
                return True
        with suppress(OSError):
            return _read(self.path / _TAG) == _TAG_TEXT
        return False

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


def _remote_file_system(path: Path) -> str | None:
    """Return the type of the file system if that is of another machine, None else, or where the system has no list."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    return remote_file_system(mountinfo, str(path.resolve()))


def claims(descriptor: int) -> bool:
    """Return whether the descriptor is the right to start the server now. Raises OSError."""
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked(path: Path) -> int | None:
    """Return a descriptor of a file that is locked by it, None if it is locked already. Raises OSError."""
    descriptor, locked = _opened(path), False
    try:
        locked = claims(descriptor)
    finally:
        if not locked:
            os.close(descriptor)
    return descriptor if locked else None


def _opened(path: Path) -> int:
    """Return a descriptor of a file that is to be locked. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _remove(path: Path) -> None:
    """Delete a file or a folder, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read(path: Path, most: int = _MOST) -> bytes:
    """Return the bytes of a file, of one of more than `most` the first. Raises OSError, also for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
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
