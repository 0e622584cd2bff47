"""Reading a pack: all of it is checked before anything of it is used, block by block, each time in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import zstandard

from ollama_cache_proxy.cli.ending import WRONG, Failed
from ollama_cache_proxy.cli.jobs.pack_keys import signer
from ollama_cache_proxy.workbench import pack_form
from ollama_cache_proxy.workbench.pack_form import About, BadPackError, Block, Totals

_MAX_WINDOW: Final = 8 * 1024 * 1024
"""Bytes that a decompressor may look back."""

Advance = Callable[[float], None]
"""Is told how many bytes more have been read."""


class Checked:
    """A pack that is whole and says of itself what it holds. `signer` is the public key that signed it, if any did."""

    def __init__(self, about: About, totals: Totals, signer: bytes | None) -> None:
        self.about = about
        self.totals = totals
        self.signer = signer


class PackFile:
    """A file that may be a pack."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hashes: list[bytes] = []
        try:
            self._file: BinaryIO = path.open("rb")
            self.size = self._file.seek(0, 2)
        except OSError as error:
            raise Failed(f"{str(path)!r} cannot be read: {error.strerror}", status=WRONG) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()

    def check(self, advance: Advance) -> Checked:
        """Read all of the file, and return what it is. Raise Failed with what is wrong."""
        try:
            return self._checked(advance)
        except BadPackError as bad:
            raise Failed(f"{str(self._path)!r} {bad}", "nothing of it was imported") from None
        except OSError as error:
            raise Failed(f"{str(self._path)!r} cannot be read: {error.strerror}") from None

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield the entries of each block, and how many bytes it has in the file; it is as it was when it was checked.

        Raise Failed where it is not.
        """
        hashes = iter(self._hashes)
        self._file.seek(len(pack_form.BEGIN))
        try:
            for block, data in self._blocks():
                if block.kind == pack_form.ENTRIES:
                    _demand_same(data, next(hashes, None))
                    yield block.size, _decompressed(block, data)
        except (BadPackError, OSError) as bad:
            raise Failed(f"{str(self._path)!r} {bad}", "the rest of it was not imported") from None

    def _checked(self, advance: Advance) -> Checked:
        self._hashes = []
        self._file.seek(0)
        begin = self._file.read(len(pack_form.BEGIN))
        pack_form.check_begin(begin)
        seen = hashlib.sha256(begin)
        about = totals = key = None
        entries = held = 0
        for block, data in self._blocks():
            before = seen.digest()
            seen.update(pack_form.prefix(block.kind, block.size, block.holds))
            seen.update(data)
            match block.kind:
                case pack_form.HEAD:
                    about = pack_form.about(pack_form.read_text(data))
                case pack_form.ENTRIES:
                    self._hashes.append(hashlib.sha256(data).digest())
                    entries += pack_form.count(_decompressed(block, data))
                    held += block.holds
                case pack_form.TOTAL:
                    text = pack_form.read_text(data)
                    totals = pack_form.totals(text)
                    if text.get("sha256") != before.hex() or (totals.entries, totals.held) != (entries, held):
                        raise BadPackError("is damaged: it does not hold what was written")
                case pack_form.SIGNATURE:
                    key = signer(data, before)
                    if key is None:
                        raise BadPackError("has a signature that is not of what it holds: it is damaged or forged")
                case _:
                    pack_form.read_text(data)
            advance(pack_form.PREFIX_BYTES + len(data))
        if about is None or totals is None:
            raise BadPackError("is not whole")
        return Checked(about, totals, key)

    def _blocks(self) -> Iterator[tuple[Block, bytes]]:
        """Yield all blocks from here on. Raise BadPackError for what is none, and where the end is missing."""
        before = b""
        while True:
            begin = self._file.read(pack_form.PREFIX_BYTES)
            if not begin and pack_form.ends(before):
                return
            at = self._file.tell()
            if len(begin) < pack_form.PREFIX_BYTES:
                raise BadPackError(f"is not whole: it ends after {at:,} bytes")
            block = pack_form.read_prefix(begin)
            pack_form.check_order(before, block.kind)
            data = self._file.read(block.size) if block.size <= self.size - at else b""
            if len(data) < block.size:
                raise BadPackError(f"is not whole: it ends after {self.size:,} bytes")
            yield block, data
            before = block.kind


def _demand_same(data: bytes, digest: bytes | None) -> None:
    """Raise BadPackError where a block is not the one that was checked."""
    if hashlib.sha256(data).digest() != digest:
        raise BadPackError("has changed since it was checked")


def _decompressed(block: Block, data: bytes) -> bytes:
    """Return what a block of entries holds. Raise BadPackError for what is compressed otherwise than it says."""
    try:
        said = zstandard.get_frame_parameters(data)
        if said.content_size != block.holds or said.window_size > _MAX_WINDOW:
            raise BadPackError("is damaged: a block holds more than it says")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        held = decompressor.decompress(data, max_output_size=block.holds, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError):
        raise BadPackError("is damaged: a block cannot be decompressed") from None
    if len(held) != block.holds:
        raise BadPackError("is damaged: a block does not hold what it says")
    return held
