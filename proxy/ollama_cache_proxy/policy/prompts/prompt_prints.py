"""Fingerprints of texts by blocks of 64 bytes, and how many blocks two texts share from their beginning on.

A fingerprint is the interpreter's own hash, SipHash under a key that each process draws at random: the same block has
another fingerprint in every process. They are held in memory, and never written or shown.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from operator import eq
from struct import Struct
from sys import byteorder
from typing import Final

BLOCK: Final = 64
"""Bytes that one fingerprint stands for."""
PRINT: Final = 8
"""Bytes of a fingerprint."""
_AT_ONCE: Final = 128
"""Blocks that are taken in one call."""


class _Forms(dict[int, tuple[Struct, Struct]]):
    """What takes so many blocks, and what packs so many fingerprints; made when it is needed first."""

    def __missing__(self, blocks: int) -> tuple[Struct, Struct]:
        found = self[blocks] = Struct(f"{BLOCK}s" * blocks), Struct(f"{blocks}q")
        return found


_FORMS: Final = _Forms()


def packed(hashes: Iterable[int]) -> bytes:
    """Return hashes as bytes, 8 of each."""
    return array("q", hashes).tobytes()


def unpacked(prints: bytes) -> array[int]:
    """Return the hashes that were packed."""
    return array("q", prints)


def prints(data: bytes) -> bytes:
    """Return the fingerprints of a text's blocks, 8 bytes of each; the last block may be shorter."""
    blocks, rest = divmod(len(data), BLOCK)
    if blocks <= _AT_ONCE:
        found = _whole(data, blocks, 0)
    else:
        parts = [_whole(data, _AT_ONCE, at * BLOCK) for at in range(0, blocks - _AT_ONCE + 1, _AT_ONCE)]
        last = blocks % _AT_ONCE
        found = b"".join((*parts, _whole(data, last, (blocks - last) * BLOCK)))
    return found + hash(data[-rest:]).to_bytes(PRINT, byteorder, signed=True) if rest else found


def _whole(data: bytes, blocks: int, at: int) -> bytes:
    """Return the fingerprints of so many whole blocks."""
    if not blocks:
        return b""
    taking, packing = _FORMS[blocks]
    return packing.pack(*map(hash, taking.unpack_from(data, at)))


def shared(one: bytes, other: bytes) -> int:
    """Return how many fingerprints two texts have in common, from the first on."""
    size, begin, window = min(len(one), len(other)), 0, PRINT
    while begin < size and one[begin : begin + window] == other[begin : begin + window]:
        begin += window
        window *= 8
    if begin >= size:
        return size // PRINT
    end = min(begin + window, size)
    differing = int.from_bytes(one[begin:end], "little") ^ int.from_bytes(other[begin:end], "little")
    if not differing:  # one of them ends here
        return size // PRINT
    return begin // PRINT + ((differing & -differing).bit_length() - 1) // (8 * PRINT)


def alike(one: bytes, other: bytes) -> int:
    """Return how many fingerprints are the same at the same places."""
    return sum(map(eq, unpacked(one), unpacked(other)))
