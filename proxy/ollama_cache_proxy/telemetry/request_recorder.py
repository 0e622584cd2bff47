"""Records requests in files, where a person has asked for it: lines of JSON, which `warm` reads.

The folder is the user's own and nobody else's: what is in it are prompts. A thread writes, so no request waits for a
disk, and none fails by one: if a file cannot be written, recording ends with one line in the log. Each process writes
files of its own, which are named by when they began; the oldest go where all of them would take more than the limit.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import orjson

from ollama_cache_proxy.policy.record import record

_PARTS: Final = 8
"""How many files of each process make up the limit."""
_MAX_WAITING: Final = 16 * 1024 * 1024
"""Bytes of requests that wait to be written; what comes above that is not recorded."""
_BESIDE: Final = 1024
"""Bytes that a request takes in memory beside its body: objects, and the fields that are recorded."""
_MAX_SEEN: Final = 16_384
"""Keys of requests that were recorded already."""
_CLOSE_SECONDS: Final = 2.0
"""Seconds for writing what waits, at the end."""
_NAME: Final = re.compile(r"requests-[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9]+-[0-9]+\.jsonl")
_NUMBERS: Final = count(1)
"""Of this process' files."""
_PRIVATE: Final = 0o700
_OTHERS: Final = 0o077


class RecordingsError(Exception):
    """A folder is not fit for recordings; the text says why."""


@record
class Place:
    """Where to record: a folder, how many bytes its files may take, and how many processes write there."""

    folder: str
    limit: int
    writers: int


class RecordingsFolder:
    """An opened folder, which nobody but this user can enter; made if there is none. Raise RecordingsError.

    An empty one of the user's own is made private; others are refused, and so is a link.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.path = Path(place.folder).expanduser().absolute()
        if sys.platform == "win32":
            raise RecordingsError("this system has no folders that only their owner can enter by their mode")
        try:
            with suppress(FileExistsError):
                self.path.mkdir(mode=_PRIVATE, parents=True)
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except NotADirectoryError:
            raise RecordingsError("it is no folder, or a link") from None
        except OSError as error:
            raise RecordingsError(error.strerror or "it cannot be opened") from None
        why = _not_private(self.descriptor)
        if why:
            self.close()
            raise RecordingsError(why)

    def begin_file(self, name: str) -> int:
        """Return the descriptor of a new file. Raise OSError."""
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.descriptor)

    def make_room(self, most: int) -> None:
        """Delete the oldest recordings until the others take `most` bytes at most. Raise OSError."""
        sizes: dict[str, int] = {}
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # another process has made room
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
        total = sum(sizes.values())
        for name in sorted(sizes):
            if total <= most:
                return
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.descriptor)
            total -= sizes[name]

    def close(self) -> None:
        """Close the folder."""
        os.close(self.descriptor)


def _not_private(folder: int) -> str:
    """Return why a folder is not this user's alone, empty if it is; an empty one of this user's own is made so."""
    found = os.fstat(folder)
    if found.st_uid != os.geteuid():
        return "it is another user's"
    if found.st_mode & _OTHERS:
        with os.scandir(folder) as entries:
            empty = next(entries, None) is None
        if not empty:
            return "others can enter it, and it is not empty: chmod 700, or name another"
        os.fchmod(folder, _PRIVATE)
    return ""


@record
class _Noted:
    """A request that waits to be written."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class _Writer:
    """Writes to one folder, in a thread; `failed` is called from there, with a line, when it ends because it cannot."""

    def __init__(self, folder: RecordingsFolder, failed: Callable[[str], None]) -> None:
        self.folder = folder
        self.ended = False
        self._failed = failed
        self._most = folder.place.limit // (_PARTS * folder.place.writers)
        """Bytes of one file."""
        self._file = -1
        self._size = 0
        self._waiting: SimpleQueue[_Noted | None] = SimpleQueue()
        self._bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="record requests", daemon=True)
        self._thread.start()

    def add(self, noted: _Noted) -> bool:
        """Have a request written; return False where too much is waiting."""
        with self._lock:
            if self._bytes + len(noted.body) + _BESIDE > _MAX_WAITING:
                return False
            self._bytes += len(noted.body) + _BESIDE
        self._waiting.put(noted)
        return True

    def end(self) -> None:
        """Have what waits written, and the files closed, without waiting for it."""
        self._waiting.put(None)

    def join(self) -> None:
        """Wait until that is done, for a while."""
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while (noted := self._waiting.get()) is not None:
                with self._lock:
                    self._bytes -= len(noted.body) + _BESIDE
                self._write(_line(noted))
        except OSError as error:
            self.ended = True
            self._failed(f"Requests are no longer recorded in {self.folder.path}: {error.strerror}")
        finally:
            self._close_file()
            self.folder.close()
            with suppress(Empty):
                while True:
                    self._waiting.get_nowait()

    def _write(self, line: bytes) -> None:
        """Write a line; after a failure, the file ends with the line before. Raise OSError."""
        if not line or len(line) > self._most:
            return
        if self._file < 0 or self._size + len(line) > self._most or not os.fstat(self._file).st_nlink:
            self._next_file()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _next_file(self) -> None:
        self._close_file()
        self.folder.make_room(self.folder.place.limit - self._most * self.folder.place.writers)
        now = time.time()
        when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
        name = f"requests-{when}.{int(now * 1000) % 1000:03}Z-{os.getpid()}-{next(_NUMBERS):06}.jsonl"
        self._file, self._size = self.folder.begin_file(name), 0

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _line(noted: _Noted) -> bytes:
    """Return the line of a request, empty where its body is no text."""
    try:
        body = noted.body.decode()
    except UnicodeDecodeError:
        return b""
    return orjson.dumps({"path": noted.path, "body": body, "headers": noted.headers}) + b"\n"


class RequestRecorder:
    """Records each request once, as long as its key is remembered; `warn` writes a line to the log."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._writer: _Writer | None = None
        self._seen: dict[str, None] = {}
        self._dropped = False

    def use(self, folder: RecordingsFolder | None) -> bool:
        """Record in this folder from now on, None: nowhere; return whether that is another place than before."""
        writer = self._writer
        if folder is not None and writer is not None and not writer.ended and folder.place == writer.folder.place:
            folder.close()
            return False
        if writer is not None:
            writer.end()
        elif folder is None:
            return False
        loop = asyncio.get_running_loop()

        def failed(line: str) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._warn, line)

        self._writer = None if folder is None else _Writer(folder, failed)
        self._seen, self._dropped = {}, False
        return True

    def record(self, key: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Note a request; see core/questions.Recorder."""
        writer = self._writer
        if writer is None or writer.ended or key in self._seen:
            return
        if writer.add(_Noted(path=path, headers=headers, body=body)):
            self._seen[key] = None
            if len(self._seen) > _MAX_SEEN:
                del self._seen[next(iter(self._seen))]
        elif not self._dropped:
            self._dropped = True
            self._warn("Some requests are not recorded: more come than the disk takes")

    async def close(self) -> None:
        """Write what waits, for a while, and stop."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.end()
            await asyncio.to_thread(writer.join)
