"""Ed25519 keys for packs, in PEM files, as `openssl genpkey -algorithm ed25519` writes them too."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ollama_cache_proxy.cli.ending import WRONG, Failed, unwritten
from ollama_cache_proxy.service.new_file import write_new
from ollama_cache_proxy.workbench.pack_form import SIGNED

_MAX_BYTES: Final = 65_536
_SHOWN: Final = 16
"""Hexadecimal digits of a key's hash that name it."""


def make_pair(path: Path) -> str:
    """Write a new key to `path`, and its public half beside it, as `path.pub`; return the key's name. Raise Failed."""
    key = Ed25519PrivateKey.generate()
    public = path.with_name(path.name + ".pub")
    _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    try:
        _write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    except Failed:
        path.unlink(missing_ok=True)
        raise
    return name_of(raw(key.public_key()))


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        write_new(path, data, mode)
    except OSError as error:
        raise unwritten(path, error) from None


def private_key(path: Path) -> Ed25519PrivateKey:
    """Return the key in a file that signs. Raise Failed."""
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _wrong(path, "private") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _wrong(path, "private")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Return the key in a file that signatures are checked with. Raise Failed."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _wrong(path, "public") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong(path, "public")
    return key


def raw(key: Ed25519PublicKey) -> bytes:
    """Return a public key as 32 bytes."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def name_of(public: bytes) -> str:
    """Return what a public key is called in lines."""
    return f"SHA256:{sha256(public).hexdigest()[:_SHOWN]}"


def sign(key: Ed25519PrivateKey, digest: bytes) -> bytes:
    """Return the signature of a pack; `digest` is the SHA-256 of all that is before it."""
    return raw(key.public_key()) + key.sign(SIGNED + digest)


def signer(signature: bytes, digest: bytes) -> bytes | None:
    """Return the public key that has signed a pack; None where the signature is not of this key, or of this pack."""
    public, signed = signature[:32], signature[32:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signed, SIGNED + digest)
    except (InvalidSignature, ValueError):
        return None
    return public


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise Failed(f"{str(path)!r} cannot be read: {error.strerror}", status=WRONG) from None


def _wrong(path: Path, kind: str) -> Failed:
    return Failed(
        f"{str(path)!r} is no {kind} Ed25519 key in PEM without a password",
        "`ollama-cache-proxy pack-key FILE` makes one",
        status=WRONG,
    )
