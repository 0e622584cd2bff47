"""Writing a pack: to `FILE.part`, which takes the name FILE when it is whole. One that was left behind is continued."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ollama_cache_proxy.cli.ending import WRONG, Failed
from ollama_cache_proxy.cli.jobs.pack_keys import sign
from ollama_cache_proxy.workbench import pack_form
from ollama_cache_proxy.workbench.pack_form import About, BadPackError, Totals

_LEVEL: Final = 1
"""Vectors are digits without a pattern: the fastest level makes them smaller than those up to 12 do."""


class PackWriter:
    """A pack that is being written, in a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        if os.path.lexists(path):
            raise Failed(f"{str(path)!r} exists", "name another file, or delete it", status=WRONG)
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._entries = bytearray()
        self._seen = hashlib.sha256()
        self._size = 0
        self.about: About | None = None
        """What a part that was left behind is of; None where there is none."""
        self.cursor = ""
        """Where it goes on."""
        self.totals = Totals()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.open(self._part, flags, 0o600)
        except OSError as error:
            raise self._cannot(error) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._demand_part()
            os.fchmod(self._descriptor, 0o600)
            self._continue()
        except BlockingIOError:
            os.close(self._descriptor)
            raise Failed(
                f"another export is writing {str(self._part)!r}", "wait for it, or name another FILE"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise self._cannot(error) from None

    def _demand_part(self) -> None:
        """Raise BlockingIOError where another export has renamed what was opened, OSError where it is no file."""
        opened = os.fstat(self._descriptor)
        if not stat.S_ISREG(opened.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        try:
            named = self._part.lstat()
        except FileNotFoundError:
            raise BlockingIOError from None
        if not os.path.samestat(opened, named):
            raise BlockingIOError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self._size:
            self.discard()
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        """Bytes that are written, of a pack that was begun or continued here."""
        return self._size

    def begin(self, about: About) -> None:
        """Begin with nothing. Raise Failed."""
        self.about, self.cursor, self.totals = about, "", Totals()
        self._entries.clear()
        self._seen, self._size = hashlib.sha256(), 0
        try:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        except OSError as error:
            raise self._cannot(error) from None
        self._write(pack_form.BEGIN + pack_form.text_block(pack_form.HEAD, about.document()))

    def add(self, entry: bytes) -> None:
        """Add the record of an entry. Raise Failed."""
        if self._entries and len(self._entries) + len(entry) > pack_form.BLOCK:
            self._write_entries()
        self._entries += entry
        self.totals.entries += 1
        self.totals.held += len(entry)

    def end_page(self, last: dict[str, Any]) -> None:
        """Note that all of a page is written, of which this is the last record. Raise Failed, also BadPackError."""
        self.totals.add_page(last)
        cursor = last.get("cursor")
        self._write_entries()
        if cursor is not None:
            self.cursor = str(cursor)
            self._write_totals(pack_form.PROGRESS, {"cursor": self.cursor})

    def finish(self, key: Ed25519PrivateKey | None) -> None:
        """End the pack, sign it if there is a key, and give it its name. Raise Failed."""
        self._write_totals(pack_form.TOTAL, {})
        if key is not None:
            signature = sign(key, self._seen.digest())
            self._write(pack_form.prefix(pack_form.SIGNATURE, len(signature)) + signature)
        try:
            os.fsync(self._descriptor)
            self._part.rename(self._path)
        except OSError as error:
            raise self._cannot(error) from None

    def discard(self) -> None:
        """Delete what was written."""
        self._part.unlink(missing_ok=True)

    def _write_totals(self, kind: bytes, more: dict[str, Any]) -> None:
        document = self.totals.document() | more | {"sha256": self._seen.hexdigest()}
        self._write(pack_form.text_block(kind, document))

    def _write_entries(self) -> None:
        if self._entries:
            data = self._compressor.compress(self._entries)
            self._write(pack_form.prefix(pack_form.ENTRIES, len(data), len(self._entries)) + data)
            self._entries.clear()

    def _write(self, data: bytes) -> None:
        self._seen.update(data)
        self._size += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise self._cannot(error) from None

    def _continue(self) -> None:
        """Take up a part that was left behind where its last whole page ended; drop one that is none."""
        size = os.fstat(self._descriptor).st_size
        end, seen = 0, hashlib.sha256()
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            try:
                begin = file.read(len(pack_form.BEGIN))
                pack_form.check_begin(begin)
                seen.update(begin)
                before = b""
                while end < size:
                    head = file.read(pack_form.PREFIX_BYTES)
                    if len(head) < pack_form.PREFIX_BYTES:
                        break
                    block = pack_form.read_prefix(head)
                    pack_form.check_order(before, block.kind)
                    data = file.read(block.size)
                    if len(data) < block.size or pack_form.ends(block.kind):
                        break
                    so_far = seen.hexdigest()
                    seen.update(head)
                    seen.update(data)
                    before = block.kind
                    if block.kind == pack_form.HEAD:
                        self.about = pack_form.about(pack_form.read_text(data))
                    elif block.kind == pack_form.PROGRESS:
                        text = pack_form.read_text(data)
                        if text.get("sha256") != so_far:
                            break
                        self.totals, self.cursor = pack_form.totals(text), str(text.get("cursor", ""))
                        end, self._seen = file.tell(), seen.copy()
            except BadPackError:
                pass  # what is sound up to the last page counts
        if not end:
            self.about = None
            return
        self._size = end
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)

    def _cannot(self, error: OSError) -> Failed:
        return Failed(f"{str(self._part)!r} cannot be written: {error.strerror}")
