"""The form of a pack: entries of one model as a file, in blocks that each fit into memory.

    "OCPPACK" and one byte: the version of the form
    blocks: kind (1 byte), bytes in the file (4), bytes of what it holds (4), and these bytes

    H  what the pack is of, as JSON; first, and once
    E  entries (policy/pack_records.py), compressed: one zstd frame that tells its size
    P  how far the export came, as JSON: an export that broke off goes on from the last one
    T  how many entries there are, as JSON, and the SHA-256 of all that is before it; once
    S  an Ed25519 key and its signature of all that is before it; last, and optional

Whatever a file says of sizes, no more than `MAX_HELD` bytes are ever read or made of one block.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.pack_records import MAX_ENTRY, cut, records
from ollama_cache_proxy.policy.record import record

NAME: Final = b"OCPPACK"
FORM: Final = 1
BEGIN: Final = NAME + bytes([FORM])

HEAD: Final = b"H"
ENTRIES: Final = b"E"
PROGRESS: Final = b"P"
TOTAL: Final = b"T"
SIGNATURE: Final = b"S"

BLOCK: Final = 4 * 1024 * 1024
"""Bytes of entries in one block, unless one entry has more."""
MAX_HELD: Final = MAX_ENTRY + 64 * 1024
"""Bytes in a block, and of what it holds."""
_MAX_TEXT: Final = 1024 * 1024
"""Bytes of JSON."""
SIGNED: Final = b"ollama-cache-proxy pack\n"
"""What a signature is of: this, and the SHA-256 of all that is before it in the file."""
SIGNATURE_BYTES: Final = 32 + 64
_PREFIX: Final = struct.Struct(">cII")
PREFIX_BYTES: Final = _PREFIX.size
MAX_SCOPES: Final = 100
"""Scopes that are listed; the entries of others are counted together."""


class BadPackError(ValueError):
    """The file is no pack, or not a sound one: what is wrong, to go after its name."""


@record
class Block:
    """The beginning of a block."""

    kind: bytes
    size: int
    """Bytes in the file."""
    holds: int
    """Bytes of what it holds: the same, but for entries."""


def check_begin(data: bytes) -> None:
    """Raise BadPackError where a file does not begin as a pack of this form."""
    if not data.startswith(NAME[: len(data)]) or not data:
        raise BadPackError("is not a pack")
    if len(data) < len(BEGIN):
        raise BadPackError("is not whole")
    if data[len(NAME)] != FORM:
        raise BadPackError(f"is a pack of form {data[len(NAME)]}; this version reads form {FORM}")


def prefix(kind: bytes, size: int, holds: int | None = None) -> bytes:
    """Return the beginning of a block."""
    return _PREFIX.pack(kind, size, size if holds is None else holds)


def text_block(kind: bytes, document: dict[str, Any]) -> bytes:
    """Return a block of JSON."""
    text = orjson.dumps(document)
    return prefix(kind, len(text)) + text


def read_prefix(data: bytes) -> Block:
    """Return the beginning of a block; raise BadPackError for one that there cannot be."""
    kind, size, holds = _PREFIX.unpack(data)
    most = {HEAD: _MAX_TEXT, PROGRESS: _MAX_TEXT, TOTAL: _MAX_TEXT, SIGNATURE: SIGNATURE_BYTES, ENTRIES: MAX_HELD}
    if kind not in most:
        raise BadPackError("is damaged: a block is of no known kind")
    if size > most[kind] or holds > most[kind] or (kind != ENTRIES and size != holds):
        raise BadPackError("is damaged: a block is too large")
    if kind == SIGNATURE and size != SIGNATURE_BYTES:
        raise BadPackError("is damaged: a signature is of the wrong size")
    return Block(kind=kind, size=size, holds=holds)


_NEXT: Final = {
    b"": {HEAD},
    HEAD: {ENTRIES, PROGRESS, TOTAL},
    ENTRIES: {ENTRIES, PROGRESS, TOTAL},
    PROGRESS: {ENTRIES, PROGRESS, TOTAL},
    TOTAL: {SIGNATURE},
    SIGNATURE: set(),
}
"""Which kinds of block may follow which."""


def check_order(before: bytes, kind: bytes) -> None:
    """Raise BadPackError where a block of one kind may not follow one of another, empty for none."""
    if kind not in _NEXT[before]:
        what = "there is more after its end" if before in {TOTAL, SIGNATURE} else "blocks are not in their order"
        raise BadPackError(f"is damaged: {what}")


def ends(kind: bytes) -> bool:
    """Return whether a file may end after a block of this kind."""
    return kind in {TOTAL, SIGNATURE}


def read_text(data: bytes) -> dict[str, Any]:
    """Return the JSON object in a block; raise BadPackError for anything else."""
    try:
        read = orjson.loads(data)
    except orjson.JSONDecodeError:
        read = None
    if not isinstance(read, dict):
        raise BadPackError("is damaged: a block is not JSON")
    return read


def count(data: bytes) -> int:
    """Return how many entries a block holds; raise BadPackError where one is not whole."""
    try:
        return sum(1 for _ in records(data))
    except ValueError as problem:
        raise BadPackError(f"is damaged: {problem}") from None


@record
class About:
    """What a pack is of, as its head says."""

    model: str
    digest: str
    version: str
    """Ollama's."""
    epoch: str
    settings: str
    """A hash of the epoch and of what counts as a credential."""
    filters: dict[str, str]
    made_by: str
    context: int | None = None
    """The context length with which Ollama loaded the model, in tokens; None where it was not known."""

    def document(self) -> dict[str, Any]:
        """Return the head as JSON values."""
        same: dict[str, Any] = {
            "model": self.model,
            "digest": self.digest,
            "version": self.version,
            "epoch": self.epoch,
        }
        same |= {"settings": self.settings, "filters": self.filters, "madeBy": self.made_by}
        return same if self.context is None else same | {"context": self.context}


def about(document: dict[str, Any]) -> About:
    """Return what a head says; raise BadPackError where it says something else."""
    filters = document.get("filters", {})
    texts = [document.get(name) for name in ("model", "digest", "version", "epoch", "settings", "madeBy")]
    context = document.get("context")
    length = context is None or (type(context) is int and context > 0)
    if not (all(isinstance(text, str) for text in texts) and isinstance(filters, dict) and length):
        raise BadPackError("is damaged: its head does not say what it is of")
    model, digest, version, epoch, settings, made_by = map(str, texts)
    return About(
        model=model,
        digest=digest,
        version=version,
        epoch=epoch,
        settings=settings,
        filters={str(name): str(value) for name, value in filters.items()},
        made_by=made_by,
        context=context,
    )


@dataclass(slots=True, kw_only=True)
class Totals:
    """How much an export has written. It is changed while it goes on."""

    entries: int = 0
    held: int = 0
    """Bytes of the entries before they are compressed."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Entries that match, and are not in the pack, by the reason."""
    scopes: dict[str, int] = field(default_factory=dict)
    """Entries by namespace, hash of the credentials and hash of the Origin, as a JSON list; "" for all others."""

    def document(self) -> dict[str, Any]:
        """Return the totals as JSON values."""
        same = {"entries": self.entries, "bytes": self.held, "leftOut": self.left_out}
        return same | {"scopes": [[*(orjson.loads(name) if name else ()), many] for name, many in self.scopes.items()]}

    def add_page(self, last: dict[str, Any]) -> None:
        """Add what the last record of a page says; raise BadPackError where that is something else."""
        try:
            for reason, many in dict(last["leftOut"]).items():
                self.left_out[str(reason)] = self.left_out.get(str(reason), 0) + int(many)
            for *scope, many in last["scopes"]:
                name = orjson.dumps(scope).decode()
                name = name if name in self.scopes or len(self.scopes) < MAX_SCOPES else ""
                self.scopes[name] = self.scopes.get(name, 0) + int(many)
        except (KeyError, TypeError, ValueError):
            raise BadPackError("cannot be written: the proxy sent something else") from None


def totals(document: dict[str, Any]) -> Totals:
    """Return the totals in JSON; raise BadPackError for anything else."""
    try:
        return Totals(
            entries=_natural(document["entries"]),
            held=_natural(document["bytes"]),
            left_out={str(reason): _natural(many) for reason, many in document["leftOut"].items()},
            scopes={
                orjson.dumps(scope).decode() if scope else "": _natural(many) for *scope, many in document["scopes"]
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadPackError("is damaged: its totals are not numbers") from None


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("no count")
    return value


class Arriving:
    """Cuts what arrives of a page into whole records, of which it holds one at most."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, dict[str, Any] | None]]:
        """Return the records that are whole now: the bytes of each, and its JSON where it is no entry.

        Raise BadPackError for what is none.
        """
        self._data += data
        try:
            found, used = cut(self._data)
        except ValueError:
            raise BadPackError("cannot be written: the proxy sent something else") from None
        del self._data[:used]
        return found
