"""Decides what happens to incoming bytes before they are parsed: a state machine without sockets or timers.

    BETWEEN ---> Response                    the request is known by its bytes, and its response is in memory
       |   `---> Responses -------------> as BETWEEN, with the requests behind those that are known
       |   `---> Lookup (LOOKUP) ---> Response, or Pass if the store has none
       |   `---> Hold (HELD) -------> as BETWEEN, when more has arrived; Pass after a timeout
       v
     PARSED ---> Pass, until the parser has read exactly one request and nothing more: BETWEEN again
       `---> Wait                     for the response to the first of several requests, if its end is certain

A response may only be written when every earlier request has had its own, so the fast path is asked only where a
request begins. Once that position is uncertain (a request in an odd form, or a chunked body, with something behind it
in one segment), a connection stays PARSED until it closes.
"""

from __future__ import annotations

from collections.abc import Awaitable
from enum import Enum
from typing import Final, TypeAlias

from ollama_cache_proxy.core.ports import FastPath
from ollama_cache_proxy.policy.record import record

MAX_RAW_BYTES: Final = 65_536
"""Bytes of a request that are kept at most; the fast path recognises the next identical request by them."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_END_OF_CHUNKS: Final = b"0\r\n\r\n"

Response: TypeAlias = bytes
"""Write this complete response. Plain bytes, because wrapping them would cost a tenth of the time of a hit."""


@record
class Lookup:
    """Await `pending`, then call `lookup_done` with its result; continue to `feed` what arrives meanwhile."""

    pending: Awaitable[bytes | None]
    before: bytes = b""
    """Responses to write immediately, to requests before that one."""


@record
class Responses:
    """Write these complete responses to pipelined requests, then `feed` what follows those, if anything does."""

    data: bytes
    rest: bytes


@record
class Hold:
    """Wait for the body: the head of a known request is held back. Call `release` after a timeout."""


@record
class Queue:
    """Stop reading: this data waits until a lookup has ended, or a response."""


@record
class Wait:
    """Do nothing: this data waits for the end of a response. Then call `go_on`."""


@record
class Pass:
    """Feed the parser with `data`, then call `parsed` with the result."""

    data: bytes


Step: TypeAlias = Response | Responses | Lookup | Hold | Queue | Wait | Pass
_RESPONSES_BYTES: Final = 65_536
"""Bytes of responses after which it is seen whether the client reads them."""
_HOLD: Final = Hold()
_QUEUE: Final = Queue()
_WAIT: Final = Wait()


class Phase(Enum):
    """The state of a connection; see the diagram at the top of this module."""

    BETWEEN = "between"
    HELD = "held"
    LOOKUP = "lookup"
    PARSED = "parsed"


_BETWEEN, _HELD, _LOOKUP, _PARSED = Phase


class Gate:
    """The gate of one connection, in front of the parser.

    `ready` says for each call whether a response can be written now: the client is reading, and the connection is not
    about to close.
    """

    __slots__ = (
        *("_responses", "_behind", "_number", "_parts", "_requests", "_fast_path", "_size", "_pending", "_end_at"),
        *("_chunked", "_last"),
        "phase",
    )

    def __init__(self, fast_path: FastPath) -> None:
        self.phase = _BETWEEN
        self._fast_path = fast_path
        self._pending = b""  # the request that is held or looked up
        self._behind = b""  # what arrived during a lookup, or behind the request that is being answered
        self._requests = 0  # requests that the parser has started
        self._responses = 0  # requests that have had their response
        self._number = 0  # of the request that all bytes since its start belong to; 0 if none
        self._parts: list[bytes] | None = None  # bytes since that start; None once it cannot be one small request
        self._size = 0  # bytes since that start
        self._end_at: int | None = None  # least size of the request in bytes; None if not known
        self._chunked = False  # whether all bytes since that start belong to one request with a chunked body
        self._last = b""  # the last bytes of that

    @property
    def is_idle(self) -> bool:
        """Whether every parsed request has had its response."""
        return self._responses == self._requests and not self._behind

    @property
    def queued(self) -> int:
        """Bytes that wait for the end of a lookup, or of a response."""
        return len(self._behind)

    @property
    def may_go_on(self) -> bool:
        """Whether something waits for a response that has been written."""
        return bool(self._behind) and self.phase is _BETWEEN and self._responses == self._requests

    def feed(self, data: bytes, *, ready: bool) -> Step:
        """Return what to do with incoming `data`; empty data means that the parser may continue."""
        phase = self.phase
        if phase is _LOOKUP or (self._behind and data):
            self._behind += data
            return _QUEUE if phase is _LOOKUP or len(self._behind) > MAX_RAW_BYTES else _WAIT
        if phase is _HELD:
            data = self._pending + data
        elif phase is _PARSED or not data:
            return self._pass(data)
        response = None
        asked = ready and self._responses == self._requests
        if asked:
            if phase is _BETWEEN and data.endswith(_END_OF_HEAD) and self._fast_path.knows_head(data):
                self.phase, self._pending = _HELD, data
                return _HOLD
            response = self._fast_path.answer(data)
        if response is None:
            return self._begin_known(data) if asked else self._begin(data)
        if isinstance(response, bytes):
            if phase is _HELD:
                self.phase, self._pending = _BETWEEN, b""
            return response
        self.phase, self._pending = _LOOKUP, data
        return Lookup(pending=response)

    def _begin_known(self, data: bytes) -> Step:
        """Return what to do with data that is not one known request as a whole: several of them, a part, or others."""
        size, known = self._fast_path.first(data)
        if known and len(data) < size <= MAX_RAW_BYTES and self.phase is _BETWEEN:
            self.phase, self._pending = _HELD, data
            return _HOLD
        if not 0 < size < len(data):
            return self._begin(data)
        return self._several(data, size, known=known)

    def _several(self, data: bytes, size: int, *, known: bool) -> Step:
        """Return what to do with several requests, the first of which has so many bytes."""
        written: list[bytes] = []
        room = _RESPONSES_BYTES
        while known and size <= len(data) and room > 0:
            response = self._fast_path.answer(data[:size])
            if response is None:
                break
            if not isinstance(response, bytes):
                self.phase, self._pending, self._behind = _LOOKUP, data[:size], data[size:]
                return Lookup(pending=response, before=b"".join(written))
            written.append(response)
            room -= len(response)
            data = data[size:]
            size, known = self._fast_path.first(data)
        if not written:
            self._behind = data[size:]
            return self._begin(data[:size])
        self.phase, self._pending = _BETWEEN, b""
        return Responses(data=b"".join(written), rest=data)

    def go_on(self, *, ready: bool) -> Step:
        """Return what to do with what has waited for a response."""
        data, self._behind = self._behind, b""
        return self.feed(data, ready=ready)

    def behind(self) -> bytes:
        """Return what waits behind a request of which the parser says something else than was expected, once."""
        if self.phase is not _PARSED:
            return b""
        data, self._behind = self._behind, b""
        if data:
            self._pass(data)
        return data

    def release(self) -> Pass:
        """Return what to do with a head that has been held for long enough."""
        return self._begin(self._pending)

    def lookup_done(self, response: bytes | None, *, ready: bool) -> tuple[Response | Pass, bytes]:
        """Return what to do after a lookup, and the bytes to feed afterwards; `response` is None for a miss."""
        behind, self._behind = self._behind, b""
        if response is None or not (ready and self.is_idle):
            return self._begin(self._pending), behind
        self.phase, self._pending = _BETWEEN, b""
        return response, behind

    def parsed(self, begun: int, length: int | None, *, ended: bool, chunked: bool = False) -> None:
        """Update the state after the parser was fed.

        `begun` is the number of requests that began in that data, and `length` the Content-Length of the first, None
        if it has none; `chunked` says that it has a chunked body. `ended` says that the body of the last request has
        been read to its end.
        """
        if begun:
            first, self._number = self._number == 0, self._requests + 1
            self._requests += begun
            self._end_at = self._find_end(length) if first and begun == 1 and length is not None else None
            self._chunked = first and begun == 1 and chunked
            self._last = self._parts[-1][-len(_END_OF_CHUNKS) :] if self._chunked and self._parts else b""
            if self._end_at is None:
                self._parts = None
        if self._size > MAX_RAW_BYTES:
            self._parts = None
        if ended and self._chunked and self._last == _END_OF_CHUNKS:
            # Nothing is behind the last chunk, because that would be the whole head of another request.
            self.phase = _BETWEEN
        if ended and self._size == self._end_at:
            # The parser has read the request to its end, so it is not longer than what arrived. It is not shorter,
            # because its head ends at the first empty line or later.
            self.phase = _BETWEEN

    @property
    def serving(self) -> int:
        """The number of the request whose response is next; the first is 1."""
        return self._responses + 1

    def responded(self) -> bool:
        """Count a response that was written to its end on a connection that stays open; return `may_go_on`."""
        self._responses += 1
        return self.may_go_on

    def raw(self, number: int) -> bytes | None:
        """Return the bytes of a request by its number; None if they are not known or were dropped."""
        known = self._number == number and self.phase is not _PARSED
        return b"".join(self._parts) if known and self._parts is not None else None

    def use(self, fast_path: FastPath) -> None:
        """Ask another fast path from now on; the lookup of a request that has arrived goes on."""
        self._fast_path = fast_path

    def drop_raw(self, number: int) -> None:
        """Drop the bytes of this request: the connection may stay idle for an hour."""
        if self._number == number:
            self._parts = None

    def _begin(self, data: bytes) -> Pass:
        """Pass the start of a request to the parser."""
        self.phase, self._pending = _PARSED, b""
        self._number, self._end_at, self._chunked = 0, None, False
        self._parts, self._size = [data], len(data)
        return Pass(data=data)

    def _pass(self, data: bytes) -> Pass:
        self._size += len(data)
        if self._parts is not None:
            self._parts.append(data)
        if self._chunked:
            self._last = (self._last + data[-len(_END_OF_CHUNKS) :])[-len(_END_OF_CHUNKS) :]
        return Pass(data=data)

    def _find_end(self, length: int) -> int | None:
        """Return the least size of a request in bytes; None if the end of its head is no longer in the kept bytes."""
        at = -1 if self._parts is None else b"".join(self._parts).find(_END_OF_HEAD)
        return None if at < 0 else at + len(_END_OF_HEAD) + length
