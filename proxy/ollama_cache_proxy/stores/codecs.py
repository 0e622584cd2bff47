"""How entries become bytes in Redis: in the clear, or sealed (sealed_codec.py)."""

from __future__ import annotations

from typing import Final, Protocol

from ollama_cache_proxy.policy.messages import Description, StoredResponse
from ollama_cache_proxy.stores import entry_codec

SEALED: Final = b"OCS1"
"""What a sealed entry begins with: format and version."""


class Codec(Protocol):
    """Encodes and decodes the entries of a generation. A value that is no entry of this key is None, or 0."""

    @property
    def sealed(self) -> bool:
        """Whether entries are sealed."""

    @property
    def fingerprint_key(self) -> bytes | None:
        """What fingerprints of requests are made with; None: with a key in the store."""

    def encode(self, generation: str, key: str, entry: StoredResponse) -> bytes:
        """Return an entry as bytes."""

    def decode(self, generation: str, key: str, value: bytes) -> StoredResponse | None:
        """Return the entry."""

    def described_by(self, key: str, prefix: bytes) -> int:
        """Return how many first bytes of a value `decode_description` needs."""

    def decode_description(self, generation: str, key: str, prefix: bytes, total: int) -> Description | None:
        """Return the description in the first bytes of a value of `total` bytes."""

    def foreign(self, value: bytes) -> bool:
        """Return whether this may be an entry that a proxy with another seal key, or with none, can read."""


class PlainCodec:
    """Entries in the clear; see `Codec` and entry_codec.py. The bytes are the same in each generation."""

    sealed: Final = False
    fingerprint_key: Final = None

    def encode(self, _generation: str, key: str, entry: StoredResponse) -> bytes:
        return entry_codec.encode(key, entry)

    def decode(self, _generation: str, key: str, value: bytes) -> StoredResponse | None:
        return entry_codec.decode(key, value)

    def described_by(self, key: str, prefix: bytes) -> int:
        return entry_codec.described_by(key, prefix)

    def decode_description(self, _generation: str, key: str, prefix: bytes, total: int) -> Description | None:
        return entry_codec.decode_description(key, prefix, total)

    def foreign(self, value: bytes) -> bool:
        return type(value) is bytes and value.startswith(SEALED)
