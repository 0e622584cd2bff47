"""Entries sealed with a key that is not in the store: AES-256-GCM of `cryptography` (NIST SP 800-38D).

    "OCS1"       4 bytes      format and version
    id           8 bytes      which key it is sealed with; says nothing of the key
    nonce        12 bytes     random, new for each value
    length       4 bytes      of the sealed JSON that follows, with its tag
    JSON         sealed       see entry_codec.py; 16 bytes longer than in the clear
    chunks, body sealed       likewise, 16 bytes longer

JSON and body have a subkey each, derived from the key and the generation (HKDF with SHA-256, RFC 5869), so that neither
passes for the other; the nonce that they share ties them together. The first 28 bytes, the generation and the entry's
own key are associated data: a value that was changed, or put under another name, decodes to None. With random nonces
one subkey should seal no more than 2^32 values (SP 800-38D, 8.3); a clear begins new ones.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ollama_cache_proxy.policy.messages import Description, StoredResponse
from ollama_cache_proxy.stores import entry_codec
from ollama_cache_proxy.stores.codecs import SEALED

_HEAD: Final = struct.Struct(">4s8s12sI")
_NONCE: Final = slice(12, 24)
_TAG: Final = 16
"""Bytes that a sealed part is longer than in the clear."""
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 8
_GENERATIONS: Final = 4
"""Generations whose subkeys are held: the current one, and those before it that lookups may still be in."""


class SealedCodec:
    """See `codecs.Codec`. `secret` has 32 random bytes."""

    sealed: Final = True

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._begin = SEALED + self._derived("id", length=_ID_BYTES)
        self._subkeys: dict[str, tuple[AESGCM, AESGCM]] = {}
        self.fingerprint_key: Final = self._derived("fingerprints")

    def encode(self, generation: str, key: str, entry: StoredResponse) -> bytes:
        """See codecs.Codec."""
        text = entry_codec.metadata(entry)
        nonce = os.urandom(_NONCE.stop - _NONCE.start)
        head = self._begin + nonce + struct.pack(">I", len(text) + _TAG)
        bound = _bound(head, generation, key)
        for_text, for_body = self._of(generation)
        return b"".join(
            (head, for_text.encrypt(nonce, text, bound), for_body.encrypt(nonce, entry.pieces + entry.body, bound))
        )

    def decode(self, generation: str, key: str, value: bytes) -> StoredResponse | None:
        """See codecs.Codec."""
        opened = self._opened(generation, key, value, len(value)) if type(value) is bytes else None
        if opened is None:
            return None
        text, start, bound = opened
        try:
            body = self._of(generation)[1].decrypt(value[_NONCE], memoryview(value)[start:], bound)
        except InvalidTag:
            return None
        return entry_codec.entry_in(text, body, 0)

    def described_by(self, key: str, prefix: bytes) -> int:  # noqa: ARG002 - `decode_description` checks it
        """See codecs.Codec. The length is not authentic yet: only what is opened with it is."""
        if len(prefix) < _HEAD.size or not prefix.startswith(self._begin):
            return 0
        return _HEAD.size + int.from_bytes(prefix[_NONCE.stop : _HEAD.size], "big")

    def decode_description(self, generation: str, key: str, prefix: bytes, total: int) -> Description | None:
        """See codecs.Codec."""
        opened = self._opened(generation, key, prefix, total)
        if opened is None:
            return None
        text, start, _ = opened
        return entry_codec.description_in(key, text, total - start - _TAG)

    def foreign(self, value: bytes) -> bool:
        """See codecs.Codec."""
        if type(value) is not bytes or value.startswith(self._begin):
            return False
        return value.startswith((entry_codec.MAGIC, SEALED))

    def _opened(self, generation: str, key: str, prefix: bytes, total: int) -> tuple[bytes, int, bytes] | None:
        """Return the JSON in the first bytes of a value of `total` bytes, where it ends, and the associated data.

        None where it is not authentic.
        """
        end = self.described_by(key, prefix)
        if not 0 < end <= len(prefix) or end > total:
            return None
        try:
            bound = _bound(prefix[: _HEAD.size], generation, key)
            return self._of(generation)[0].decrypt(prefix[_NONCE], prefix[_HEAD.size : end], bound), end, bound
        except (InvalidTag, ValueError):  # a key that is no key, too
            return None

    def _of(self, generation: str) -> tuple[AESGCM, AESGCM]:
        """Return what seals the JSON and the body of entries of a generation."""
        found = self._subkeys.get(generation)
        if found is None:
            found = AESGCM(self._derived("metadata", generation)), AESGCM(self._derived("body", generation))
            while len(self._subkeys) >= _GENERATIONS:
                del self._subkeys[next(iter(self._subkeys))]
            self._subkeys[generation] = found
        return found

    def _derived(self, label: str, generation: str = "", *, length: int = _KEY_BYTES) -> bytes:
        about = f"ollama-cache-proxy seal 1 {label} {generation}".encode()
        return HKDF(algorithm=SHA256(), length=length, salt=None, info=about).derive(self._secret)


def _bound(head: bytes, generation: str, key: str) -> bytes:
    """Return the associated data. Raises ValueError for a key that is not in hexadecimal digits."""
    return head + bytes.fromhex(key) + generation.encode()
