"""Encoding entries as bytes, and decoding them.

    "OCP1"  4 bytes      format and version
    crc     4 bytes      CRC-32 of all that follows
    key     32 bytes     the entry's own key: a value under another name is not valid
    length  4 bytes      of the JSON that follows: everything but the chunks of a stream and the body
    JSON, chunks, body

Any other value decodes to None. The checks are against damage, not against an attacker: who can write to the store can
write entries, unless they are sealed (sealed_codec.py). A description is read without the body, and so without the CRC.
"""

from __future__ import annotations

import binascii
import struct
from functools import lru_cache
from typing import Any, Final, get_args, get_type_hints

import orjson

from ollama_cache_proxy.policy.messages import PIECE, Description, EntryMetadata, StoredResponse, unpacked

MAGIC: Final = b"OCP1"
_HEAD: Final = struct.Struct(">4sI32sI")
_CHECKED_FROM: Final = 8
_SHARED: Final = ("operation", "model", "category", "namespace", "scope")
"""Members whose values many entries have in common."""
_MOST_SHARED: Final = 256
"""Values."""
_TYPES: Final = {
    name: (int, float) if kind is float else get_args(kind) or (kind,)
    for name, kind in get_type_hints(EntryMetadata).items()
    if name != "fingerprints"
}
"""The types of a description's fields, checked since there is no CRC; fingerprints are checked where they are read."""


def encode(key: str, entry: StoredResponse) -> bytes:
    """Return an entry as bytes; `key` is in hexadecimal digits."""
    text = metadata(entry)
    begin = bytes.fromhex(key) + len(text).to_bytes(4, "big") + text + entry.pieces
    crc = binascii.crc32(entry.body, binascii.crc32(begin))
    return b"".join((MAGIC, crc.to_bytes(4, "big"), begin, entry.body))  # a body is copied once: it may be large


def metadata(entry: StoredResponse) -> bytes:
    """Return the JSON of an entry: everything but the chunks of a stream and the body."""
    about: dict[str, Any] = {  # listed for the order of members; a loop over names takes a third longer
        "status": entry.status,
        "reason": entry.reason.encode("utf-8", "surrogateescape").decode("latin-1"),
        "fields": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in entry.fields],
        "stored_at": entry.stored_at,
        "lifetime": entry.lifetime,
        "took": entry.took,
        "operation": entry.operation,
        "model": entry.model,
        "category": entry.category,
        "namespace": entry.namespace,
        "prompt_tokens": entry.prompt_tokens,
        "output_tokens": entry.output_tokens,
    }
    if entry.idle is not None:
        about["idle"] = entry.idle
    if entry.pieces:
        about["pieces"] = len(entry.pieces) // PIECE.size
    if entry.fingerprints:
        about["marks"] = dict(entry.fingerprints)
    if entry.scope:
        about["scope"] = entry.scope
    if entry.imported:
        about["imported"] = True
    return orjson.dumps(about)


def decode(key: str, value: bytes) -> StoredResponse | None:
    """Return the entry; None for a value that is damaged, of another version, or of another key, or no bytes at all."""
    start = described_by(key, value) if type(value) is bytes else 0
    if not 0 < start <= len(value):
        return None
    if int.from_bytes(value[4:_CHECKED_FROM], "big") != binascii.crc32(memoryview(value)[_CHECKED_FROM:]):
        return None
    return entry_in(value[_HEAD.size : start], value, start)


def entry_in(text: bytes, value: bytes, start: int) -> StoredResponse | None:
    """Return the entry of this JSON, None if invalid. Chunks of a stream and the body begin at `start` of `value`."""
    read = _read(text)
    if read is None:
        return None
    about, chunks = read
    body = start + chunks * PIECE.size
    try:
        entry = StoredResponse(pieces=value[start:body], body=value[body:], **about)
    except TypeError:
        return None
    if len(entry.pieces) < chunks * PIECE.size:
        return None
    whole = not chunks or sum(size for _, size in unpacked(entry.pieces)) == len(entry.body)
    return entry if whole else None


def described_by(key: str, prefix: bytes) -> int:
    """Return how many first bytes of a value `decode_description` needs; 0 where it is no value of this key."""
    if len(prefix) < _HEAD.size:
        return 0
    magic, _, own, length = _HEAD.unpack_from(prefix)
    return _HEAD.size + length if magic == MAGIC and own.hex() == key.lower() else 0


def decode_description(key: str, prefix: bytes, total: int) -> Description | None:
    """Return the description in the first bytes of a value of `total` bytes.

    None where they are too few (see `described_by`), damaged, of another version, or of another key.
    """
    start = described_by(key, prefix)
    if not 0 < start <= min(len(prefix), total):
        return None
    return description_in(key, prefix[_HEAD.size : start], total - start)


def description_in(key: str, text: bytes, rest: int) -> Description | None:
    """Return the description in this JSON, which `rest` bytes of chunks and body follow; None if invalid."""
    read = _read(text)
    if read is None:
        return None
    about, chunks = read
    del about["reason"], about["fields"]
    size = rest - chunks * PIECE.size
    try:
        description = Description(key=key, size=size, streamed=chunks > 0, **about)
    except TypeError:
        return None
    sound = size >= 0 and all(isinstance(getattr(description, name), kinds) for name, kinds in _TYPES.items())
    return description if sound else None


def _read(text: bytes) -> tuple[dict[str, Any], int] | None:
    """Return the metadata in this JSON, and how many chunks the entry has; None if invalid."""
    try:
        about: dict[str, Any] = orjson.loads(text)
        about["reason"] = _reason(about["reason"])
        about["fields"] = _shared(tuple([_line(name, text) for name, text in about["fields"]]))
        for name in _SHARED:
            if name in about:
                about[name] = _shared(about[name])
        chunks = about.pop("pieces", 0)
        if type(chunks) is not int or chunks < 0 or not _is_idle_time(about.get("idle", 1)):
            return None
        if "marks" in about:
            about["fingerprints"] = about.pop("marks")
            if not all(isinstance(text, str) for text in about["fingerprints"].values()):
                return None
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return about, chunks


@lru_cache(maxsize=_MOST_SHARED)
def _line(name: str, text: str) -> tuple[bytes, bytes]:
    """Return a field line; entries share those that are equal, so that many in memory take less."""
    return name.encode("latin-1"), text.encode("latin-1")


@lru_cache(maxsize=_MOST_SHARED)
def _reason(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


@lru_cache(maxsize=_MOST_SHARED, typed=True)
def _shared(value: Any) -> Any:
    """Return an equal value that was seen before."""
    return value


def _is_idle_time(value: Any) -> bool:
    return type(value) is int and value > 0
