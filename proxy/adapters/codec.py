"""Entries to bytes and back.

    "OCP1"  4 bytes      format and version
    crc     4 bytes      CRC-32 of all that follows
    key     32 bytes     the entry's own key: a value under a wrong name is no entry
    length  4 bytes      of the JSON that follows: everything but the body
    JSON, then the body

A value that is anything else decodes to None. Whoever can write to the store can write entries; the checks are against
damage, not against them.
"""

from __future__ import annotations

import binascii
import struct
from typing import Any, Final

import orjson

from proxy.policy.messages import StoredResponse

MAGIC: Final = b"OCP1"
_HEAD: Final = struct.Struct(">4sI32sI")
_CHECKED_FROM: Final = 8


def encode(key: str, entry: StoredResponse) -> bytes:
    """Give the bytes of an entry; `key` is in hexadecimal digits."""
    about = {
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
    text = orjson.dumps(about)
    checked = bytes.fromhex(key) + struct.pack(">I", len(text)) + text + entry.body
    return MAGIC + struct.pack(">I", binascii.crc32(checked)) + checked


def decode(key: str, value: bytes) -> StoredResponse | None:
    """Give the entry, or None for a value that is damaged, of another version or of another key."""
    if len(value) < _HEAD.size:
        return None
    magic, crc, own, length = _HEAD.unpack_from(value)
    if magic != MAGIC or own != bytes.fromhex(key) or binascii.crc32(memoryview(value)[_CHECKED_FROM:]) != crc:
        return None
    start = _HEAD.size + length
    try:
        about: dict[str, Any] = orjson.loads(value[_HEAD.size : start])
        about["reason"] = about["reason"].encode("latin-1").decode("utf-8", "surrogateescape")
        lines = tuple((name.encode("latin-1"), text.encode("latin-1")) for name, text in about.pop("fields"))
        return StoredResponse(fields=lines, body=value[start:], **about)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        return None
