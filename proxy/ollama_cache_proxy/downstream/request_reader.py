"""aiohttp's parser of requests, which reads a head once more in its plain form where that makes a difference.

An ordinary head is read once, and costs one call more. A head that was refused, or at whose Upgrade the parser has
stopped, is given to a new parser, where it is certain that the bytes that are kept begin with that request (gate.py).
Why it is done so: docs/decisions/0027-request-head-parser.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from ollama_cache_proxy.downstream.plain_head import END_OF_HEAD, may_become_plain, plain_head

MAX_HEAD: Final = 262_144
"""Bytes of a head."""
Feed: TypeAlias = tuple[Sequence[tuple[RawRequestMessage, Any]], bool, bytes]
"""What the parser returns: heads with their bodies, whether the protocol changes, and what follows that."""
_NOTHING: Final[Feed] = ((), False, b"")
_LINE_ENDS: Final = b"\r\n"
"""Empty lines before a request; the parser skips them (RFC 9112, section 2.2)."""


class RequestReader:
    """Stands in for a parser. `make` returns a new one.

    A head whose `upgrade` is set has stopped the parser, which has dropped what came behind it.
    `unread` returns the bytes since the beginning of a request of which no head has been read, None where they are not
    known.
    """

    __slots__ = ("_held", "_make", "_parser", "_refusal", "_unread")

    def __init__(self, make: Callable[[], HttpRequestParser], unread: Callable[[], bytes | None]) -> None:
        self._make = make
        self._unread = unread
        self._parser = make()
        self._refusal: HttpProcessingError | None = None
        self._held: bytearray | None = None  # a head that was refused, until all of it is there

    def feed_data(self, data: bytes) -> Feed:
        """Return what has been read. Raises HttpProcessingError."""
        if self._refusal is not None:
            return self._read_refused(data, self._refusal)
        try:
            fed: Feed = self._parser.feed_data(data)
        except HttpProcessingError as refusal:
            self._refusal = refusal
            begun = self._unread()
            if begun is None:
                raise
            self._held = bytearray()
            return self._read_refused(begun.lstrip(_LINE_ENDS), refusal)
        messages = fed[0]
        if messages and messages[-1][0].upgrade:
            begun = self._unread() if len(messages) == 1 else None
            plain = None if begun is None else self._read_plain(begun.lstrip(_LINE_ENDS))
            return fed if plain is None else plain
        return fed

    def _read_refused(self, data: bytes, refusal: HttpProcessingError) -> Feed:
        """Hold a head that was refused until all of it is there; then read it in its plain form."""
        held, self._held = self._held, None
        if held is not None:
            before = len(held)
            held += data
            if held.find(END_OF_HEAD, max(0, before - len(END_OF_HEAD))) >= 0:
                fed = self._read_plain(bytes(held))
                if fed is not None:
                    self._refusal = None
                    return fed
            elif len(held) <= MAX_HEAD and (before or may_become_plain(bytes(held))):
                self._held = held
                return _NOTHING
        raise refusal

    def _read_plain(self, begun: bytes) -> Feed | None:
        """Return what a new parser reads from a head in its plain form, and what follows it; None where it has none.

        Raises HttpProcessingError.
        """
        head, end, rest = begun.partition(END_OF_HEAD)
        plain = plain_head(head + end)
        if plain is None:
            return None
        parser = self._make()
        messages, changes, tail = parser.feed_data(plain.data + rest)
        (message, body), *more = messages
        if message.upgrade or len(message.raw_headers) != plain.fields:
            return None
        self._parser = parser
        named = message._replace(raw_headers=plain.restored(message.raw_headers))
        return [(named, body), *more], changes, tail

    def pause_reading(self) -> None:
        """See aiohttp's parser; likewise the others."""
        self._parser.pause_reading()

    def message_consumed(self) -> None:
        self._parser.message_consumed()

    def set_upgraded(self, val: bool) -> None:  # noqa: FBT001 - aiohttp's signature
        self._parser.set_upgraded(val)
