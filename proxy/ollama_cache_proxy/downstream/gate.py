"""What becomes of the bytes that a client sends, before they are parsed: a state machine without sockets or timers.

    BETWEEN ---> Answer                      the request is known by its bytes, and so is its response
       |   `---> Lookup (LOOKUP) ---> Answer, or Pass where the store has none
       |   `---> Hold (HELD) -------> what BETWEEN does, once more has come; Pass after a while
       v
     PARSED ---> Pass, until the parser has read exactly one request and nothing more: BETWEEN again

A response may be written only where every request that came has had its own, so a request is looked at where it begins
and nowhere else. Where that is becomes unsure (pipelined requests in one segment, a body in chunks), a connection stays
PARSED for good.
"""

from __future__ import annotations

from collections.abc import Awaitable
from enum import Enum
from typing import Final, TypeAlias

from ollama_cache_proxy.core.ports import FastPath
from ollama_cache_proxy.policy.record import record

MAX_RAW_BYTES: Final = 65_536
"""Bytes of a request that are kept, so that the next one like it is known by them."""
_END_OF_HEAD: Final = b"\r\n\r\n"

Response: TypeAlias = bytes
"""Write this, a whole response. An object around it would take a tenth of the time of a hit."""


@record
class Lookup:
    """Wait for a response, and tell `found`; what comes until then is fed as ever."""

    pending: Awaitable[bytes | None]


@record
class Hold:
    """Wait for more: a head was kept back whose body mostly comes at once. After a while, `release` it."""


@record
class Queue:
    """Stop reading: what comes now waits for a lookup."""


@record
class Pass:
    """Let the parser have this, and tell `parsed` what it made of it."""

    data: bytes


Step: TypeAlias = Response | Lookup | Hold | Queue | Pass
_HOLD: Final = Hold()
_QUEUE: Final = Queue()


class Phase(Enum):
    """What a connection waits for; see the module."""

    BETWEEN = "between"
    HELD = "held"
    LOOKUP = "lookup"
    PARSED = "parsed"


_BETWEEN, _HELD, _LOOKUP, _PARSED = Phase


class Gate:
    """The gate of one connection, behind which a parser reads one request after another.

    `ready` says each time whether a response can be written now: the client takes what it is sent, and the connection
    is not about to end.
    """

    __slots__ = (
        *("_responses", "_behind", "_number", "_parts", "_requests", "_fast_path", "_size", "_pending", "_end_at"),
        "phase",
    )

    def __init__(self, fast_path: FastPath) -> None:
        self.phase = _BETWEEN
        self._fast_path = fast_path
        self._pending = b""  # the request that is held, or looked up
        self._behind = b""  # what came behind one that is looked up
        self._requests = 0  # that the parser has begun to give
        self._responses = 0  # of these
        self._number = 0  # of the request that has all of what came since it began; 0 for none
        self._parts: list[bytes] | None = None  # what came since then, while it may be one small request
        self._size = 0  # bytes of it
        self._end_at: int | None = None  # bytes that the request takes at least, where that is known

    @property
    def is_idle(self) -> bool:
        """Whether every request that was parsed has had its response."""
        return self._responses == self._requests

    @property
    def queued(self) -> int:
        """Bytes that wait for a lookup."""
        return len(self._behind)

    def feed(self, data: bytes, *, ready: bool) -> Step:
        """Say what to do now that this has come; no bytes stand for a parser that may go on."""
        phase = self.phase
        if phase is _LOOKUP:
            self._behind += data
            return _QUEUE
        if phase is _HELD:
            data = self._pending + data
        elif phase is _PARSED or not data:
            return self._pass(data)
        response = None
        if ready and self._responses == self._requests:
            if phase is _BETWEEN and self._fast_path.knows_head(data):
                self.phase, self._pending = _HELD, data
                return _HOLD
            response = self._fast_path.answer(data)
        if response is None:
            return self._begin(data)
        if isinstance(response, bytes):
            if phase is _HELD:
                self.phase, self._pending = _BETWEEN, b""
            return response
        self.phase, self._pending = _LOOKUP, data
        return Lookup(pending=response)

    def release(self) -> Pass:
        """Say what to do now that a head was held for long enough."""
        return self._begin(self._pending)

    def lookup_done(self, response: bytes | None, *, ready: bool) -> tuple[Response | Pass, bytes]:
        """Say what to do now that a lookup has ended, and what has to be fed after that."""
        behind, self._behind = self._behind, b""
        if response is None or not (ready and self.is_idle):
            return self._begin(self._pending), behind
        self.phase, self._pending = _BETWEEN, b""
        return response, behind

    def parsed(self, begun: int, length: int | None, *, ended: bool) -> None:
        """Take in what the parser made of what was passed last.

        `begun` requests have begun in it, the first of them with so many bytes of body; None where that is not told by
        a Content-Length. `ended` says that the body of the request that began last has been read to its end.
        """
        if begun:
            first, self._number = self._number == 0, self._requests + 1
            self._requests += begun
            self._end_at = self._find_end(length) if first and begun == 1 and length is not None else None
            if self._end_at is None:
                self._parts = None
        if self._size > MAX_RAW_BYTES:
            self._parts = None
        if ended and self._size == self._end_at:
            # The request ends behind nothing that came, since it was read; and before nothing, since the first empty
            # line is not behind the one that ended its head.
            self.phase = _BETWEEN

    @property
    def serving(self) -> int:
        """Return the number of the request that has its response next; the first is 1."""
        return self._responses + 1

    def responded(self) -> None:
        """Count a response that was written to its end, on a connection that stays."""
        self._responses += 1

    def raw(self, number: int) -> bytes | None:
        """Return the bytes of a request by its number, where they are known and were kept."""
        known = self._number == number and self.phase is not _PARSED
        return b"".join(self._parts) if known and self._parts is not None else None

    def drop_raw(self, number: int) -> None:
        """Keep no bytes of this request any longer: a connection may be idle for an hour."""
        if self._number == number:
            self._parts = None

    def _begin(self, data: bytes) -> Pass:
        """Pass the beginning of a request."""
        self.phase, self._pending = _PARSED, b""
        self._number, self._end_at = 0, None
        self._parts, self._size = [data], len(data)
        return Pass(data=data)

    def _pass(self, data: bytes) -> Pass:
        self._size += len(data)
        if self._parts is not None:
            self._parts.append(data)
        return Pass(data=data)

    def _find_end(self, length: int) -> int | None:
        """Return how many bytes a request takes at least; None where too much came before its head had ended."""
        at = -1 if self._parts is None else b"".join(self._parts).find(_END_OF_HEAD)
        return None if at < 0 else at + len(_END_OF_HEAD) + length
