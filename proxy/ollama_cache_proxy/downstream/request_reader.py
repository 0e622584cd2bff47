"""aiohttp's parser of requests, which reads requests one by one where it cannot read them as they came.

An ordinary request is read at once, and only where it ends is noted. Where the parser refuses what it is given, or
stops at an Upgrade, everything from the beginning of the first request that it has not returned goes to a new parser, a
head and a body at a time: each head in its plain form if need be (plain_head.py), and nothing of what follows a request
that closes its connection (RFC 9112, section 9.6). The end of a request is what a parser says it is, or the
Content-Length that it has read; where neither tells, what follows is the old parser's alone.
Why it is done so: docs/decisions/0027-request-head-parser.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from aiohttp.http import HttpRequestParser, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

from ollama_cache_proxy.downstream.plain_head import END_OF_HEAD, may_become_plain, plain_head

MAX_HEAD: Final = 262_144
"""Bytes of a head."""
Message: TypeAlias = tuple[RawRequestMessage, Any]
"""A head and its body."""
Feed: TypeAlias = tuple[Sequence[Message], bool, bytes]
"""What the parser returns: heads with their bodies, whether the protocol changes, and what follows that."""
_NOTHING: Final[Feed] = ((), False, b"")
_LINE_ENDS: Final = b"\r\n"
"""Empty lines before a request; the parser skips them (RFC 9112, section 2.2)."""


class RequestReader:
    """Stands in for a parser. `make` returns a new one.

    A head whose `upgrade` is set has stopped the parser, which has dropped what came behind it.
    """

    __slots__ = (
        "_begun",
        "_body",
        "_closes",
        "_ended",
        "_held",
        "_left",
        "_make",
        "_parser",
        "_refusal",
        "_tail",
        "_waiting",
    )

    def __init__(self, make: Callable[[], HttpRequestParser]) -> None:
        self._make = make
        self._parser = make()
        self._begun = b""  # of a request whose head has not been read
        self._left: int | None = 0  # bytes of the body of the last request that are still to come; None if not known
        self._body: Any = None  # the last request's, if it is chunked and goes on
        self._tail = b""  # the last bytes of that
        self._closes = False  # whether the last request closes the connection
        self._ended = False  # whether that has been read to its end
        self._waiting = b""  # what follows a body that has to be taken before
        self._refusal: HttpProcessingError | None = None
        self._held: bytearray | None = None  # a head that was refused, until all of it is there

    @property
    def refused(self) -> bool:
        """Whether a request was refused behind those that were returned: `feed_data` raises next time."""
        return self._refusal is not None and self._held is None

    def feed_data(self, data: bytes) -> Feed:
        """Return what has been read. Raises HttpProcessingError."""
        if self._ended:
            return _NOTHING
        if self._refusal is not None:
            return self._read_refused(data, self._refusal)
        if self._waiting:
            return self._read_waiting(data)
        left = self._left
        try:
            fed: Feed = self._parser.feed_data(data)
        except HttpProcessingError:
            if left is None:
                raise
            return self._read_again(data[left:])
        messages = fed[0]
        if messages and messages[-1][0].upgrade and left is not None:
            return self._read_apart(self._begun + data[left:])
        if messages:
            self._note_heads(messages, None if left is None else self._begun + data[left:])
        elif data:
            self._note_more(data)
        return fed

    # Where requests end, as long as the parser takes what comes.

    def _note_heads(self, messages: Sequence[Message], data: bytes | None) -> None:
        """Note where the last of these ends; `data` begins with the first, and is None where that is not known."""
        self._begun, self._body, self._left = b"", None, None
        self._closes = messages[-1][0].should_close
        if data is None:
            return
        end = 0
        for message, body in messages:
            while data[end : end + 1] in (b"\r", b"\n"):
                end += 1
            begin, end = end, data.find(END_OF_HEAD, end) + 4  # its length
            if message.version is not HttpVersion11:
                _hold_to_http(data[begin:end])
            if not message.chunked:
                end += int(message.headers.get("Content-Length", 0))
            elif message is not messages[-1][0]:
                return
            elif not body.is_eof():
                self._body, self._tail = body, data[-len(END_OF_HEAD) :]
                return
            elif data.endswith(END_OF_HEAD):  # behind it would be the whole head of another request
                end = len(data)
            else:
                return
        self._left = max(0, end - len(data))
        self._begun = data[end:]

    def _note_more(self, data: bytes) -> None:
        """Note that more has come, and no head."""
        left = self._left
        if left is not None:
            self._left = max(0, left - len(data))
            self._begun += data[left:]
            if len(self._begun) > MAX_HEAD:
                self._begun, self._left = b"", None
        elif self._body is not None:
            self._tail = (self._tail + data)[-len(END_OF_HEAD) :]
            if self._body.is_eof():
                self._left = 0 if self._tail == END_OF_HEAD else None
                self._body = None

    # One request after the other.

    def _read_again(self, data: bytes) -> Feed:
        """Read what the parser has refused, unless it is behind a request that closes the connection."""
        if self._closes:
            self._ended = True
            return _NOTHING
        return self._read_apart(self._begun + data)

    def _read_apart(self, data: bytes) -> Feed:
        """Return what new parsers read from the beginning of a request. Raises HttpProcessingError."""
        self._begun, self._left, self._body = b"", 0, None
        read: list[Message] = []
        while data := data.lstrip(_LINE_ENDS):
            if len(read) >= MAX_MSG_QUEUE_SIZE:
                self._waiting = data
                break
            head, end, rest = data.partition(END_OF_HEAD)
            self._parser = self._make()  # one each: a parser remembers the trailers of what it has read
            try:
                if not end:
                    self._read_part(head)
                    break
                message, body = self._read_head(head + end)
                data = b"" if message.upgrade else self._read_body(message, body, rest)
            except HttpProcessingError as refusal:
                self._refusal = refusal
                if not read:
                    raise
                break
            read.append((message, body))
            self._closes = message.should_close or message.upgrade
            if self._closes:
                self._ended, self._waiting = message.upgrade or body.is_eof(), b""
            if self._closes or self._waiting:
                break
        return read, False, b""

    def _read_part(self, head: bytes) -> None:
        """Give the parser the beginning of a head; hold one that is refused if it can become plain."""
        self._begun = head
        try:
            self._parser.feed_data(head)
        except HttpProcessingError as refusal:
            if not (len(head) <= MAX_HEAD and may_become_plain(head)):
                raise
            self._refusal, self._held = refusal, bytearray(head)

    def _read_head(self, head: bytes) -> Message:
        """Return what is read from a whole head, in its plain form if need be. Raises HttpProcessingError."""
        try:
            found: Message = self._parser.feed_data(head)[0][0]
        except HttpProcessingError:
            plain = self._read_plain(head)
            if plain is None:
                raise
            return plain
        if found[0].version is not HttpVersion11:
            _hold_to_http(head)
        return found if not found[0].upgrade else self._read_plain(head) or found

    def _read_plain(self, head: bytes) -> Message | None:
        """Return what a new parser reads from a head in its plain form; None where it has none."""
        plain = plain_head(head)
        if plain is None:
            return None
        parser = self._make()
        message, body = parser.feed_data(plain.data)[0][0]
        if message.upgrade or len(message.raw_headers) != plain.fields:
            return None
        self._parser = parser
        return message._replace(raw_headers=plain.restored(message.raw_headers)), body

    def _read_body(self, message: RawRequestMessage, body: Any, data: bytes) -> bytes:
        """Give the parser the body of a request; return what follows it. Raises HttpProcessingError."""
        if message.chunked:
            return self._read_chunks(body, data)
        length = int(message.headers.get("Content-Length", 0))
        if length:
            self._parser.feed_data(data[:length])
        self._left = max(0, length - len(data))
        return self._behind(body, data[length:])

    def _read_chunks(self, body: Any, data: bytes) -> bytes:
        """Likewise for chunks: their end is an empty line, so the parser is asked at each whether it is the end."""
        begin = 0
        while (at := data.find(END_OF_HEAD, begin)) >= 0:
            end = at + len(END_OF_HEAD)
            self._parser.feed_data(data[begin:end])
            if body.is_eof():
                return data[end:]
            begin = end
        if data[begin:]:
            self._parser.feed_data(data[begin:])
        self._left, self._body, self._tail = None, body, data[-len(END_OF_HEAD) :]
        return b""

    def _behind(self, body: Any, rest: bytes) -> bytes:
        """Return what follows a body; where the parser was told to wait, that waits too."""
        if rest and not body.is_eof():
            self._body, self._waiting = body, rest
            return b""
        return rest

    def _read_waiting(self, data: bytes) -> Feed:
        """Go on with what waits, once the body before it has been taken."""
        self._waiting += data
        fed: Feed = self._parser.feed_data(b"")
        if self._body is not None and not self._body.is_eof():
            return fed
        data, self._waiting = self._waiting, b""
        return self._read_apart(data)

    def _read_refused(self, data: bytes, refusal: HttpProcessingError) -> Feed:
        """Hold a head that was refused until all of it is there; then read it in its plain form."""
        held = self._held
        if held is None:
            raise refusal
        before = len(held)
        held += data
        if held.find(END_OF_HEAD, max(0, before - len(END_OF_HEAD))) >= 0:
            self._held = self._refusal = None
            return self._read_apart(bytes(held))
        if len(held) > MAX_HEAD:
            self._held = None
            raise refusal
        return _NOTHING

    def pause_reading(self) -> None:
        """See aiohttp's parser; likewise the others."""
        self._parser.pause_reading()

    def message_consumed(self) -> None:
        self._parser.message_consumed()

    def set_upgraded(self, val: bool) -> None:  # noqa: FBT001 - aiohttp's signature
        self._parser.set_upgraded(val)


def _hold_to_http(head: bytes) -> None:
    """Raise BadHttpMessage for RTSP/1.0 and its like, of which llhttp tells as HTTP/1.0."""
    if b" HTTP/" not in head.partition(b"\r\n")[0]:
        raise BadHttpMessage("another protocol")
