"""Entries one after the other, as the routes of packs send and take them.

key     32 bytes    all of them 0: no entry, but JSON about those before, and the last record
length  4 bytes
bytes               the entry, as it is stored (stores/entry_codec.py)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import orjson

_HEAD: Final = struct.Struct(">32sI")
_NOTE: Final = bytes(32)
MAX_ENTRY: Final = 8 * 1024 * 1024
"""Bytes of one entry; a larger one is in no pack, so that nobody who reads one needs more memory."""


def record_of(key: str, value: bytes) -> bytes:
    """Return the record of an entry; `key` is in hexadecimal digits."""
    return _HEAD.pack(bytes.fromhex(key), len(value)) + value


def note(about: dict[str, Any]) -> bytes:
    """Return a record that is no entry."""
    text = orjson.dumps(about)
    return _HEAD.pack(_NOTE, len(text)) + text


def records(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the bytes of each entry. Raise ValueError where they are not whole, or one is too large.

    A note counts as an entry, which decodes to none.
    """
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise ValueError("the last entry is not whole")
        key, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if length > MAX_ENTRY or length > len(data) - at:
            raise ValueError("an entry is too large, or not whole")
        yield key.hex(), data[at : at + length]
        at += length


def cut(data: bytearray) -> tuple[list[tuple[bytes, dict[str, Any] | None]], int]:
    """Return the records with which `data` begins, with the JSON of notes, and how many bytes they have.

    Raise ValueError for a record that is too large, or for a note that is none.
    """
    found: list[tuple[bytes, dict[str, Any] | None]] = []
    at = 0
    while len(data) - at >= _HEAD.size:
        key, length = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if length > MAX_ENTRY:
            raise ValueError("an entry is too large")
        if end > len(data):
            break
        about = orjson.loads(data[at + _HEAD.size : end]) if key == _NOTE else None
        if about is not None and not isinstance(about, dict):
            raise ValueError("a note is no JSON object")
        found.append((bytes(data[at:end]), about))
        at = end
    return found, at
