"""The parts of a stream that other processes get while it arrives: some chunks each, with the head of the response.

A part is encoded, and sealed, as an entry is, under a key of its own: one of another stream, or of another place in
this one, decodes to None.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256

from ollama_cache_proxy.policy.messages import ResponseHead, StoredResponse, packed, unpacked
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.stores.codecs import Codec


@record
class Part:
    """Chunks of a stream, of which the first one has the number `first`. An empty chunk is its end."""

    first: int
    head: ResponseHead
    chunks: Sequence[bytes]


class Parts:
    """Encodes the parts of one stream: of the flight with this name, while its lease has this token."""

    def __init__(self, codec: Codec, name: str, token: bytes) -> None:
        self._codec = codec
        self._generation = name.partition(":")[0]
        self._of = name.encode() + b" " + token

    def encode(self, part: Part) -> bytes:
        """Return a part as bytes."""
        entry = StoredResponse(
            status=part.head.status,
            reason=part.head.reason,
            fields=part.head.fields,
            body=b"".join(part.chunks),
            pieces=packed((0, len(chunk)) for chunk in part.chunks),
            stored_at=0.0,
            lifetime=0,
            took=0.0,
            operation="",
            model="",
            category="",
            namespace="",
            prompt_tokens=None,
            output_tokens=None,
        )
        return self._codec.encode(self._generation, self._key(part.first), entry)

    def decode(self, first: int, value: bytes) -> Part | None:
        """Return the part whose first chunk has this number; None where the value is not that."""
        entry = self._codec.decode(self._generation, self._key(first), value)
        if entry is None:
            return None
        chunks: list[bytes] = []
        begin = 0
        try:
            for _, size in unpacked(entry.pieces):
                chunks.append(entry.body[begin : begin + size])
                begin += size
        except struct.error:
            return None
        head = ResponseHead(status=entry.status, reason=entry.reason, fields=entry.fields)
        return Part(first=first, head=head, chunks=chunks)

    def _key(self, first: int) -> str:
        return sha256(b"%b %d" % (self._of, first)).hexdigest()
