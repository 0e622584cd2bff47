"""A JSON parser that follows Go's json.Decoder.

Only the first value is read, and what follows it is ignored. Each invalid byte of UTF-8 and each lone surrogate
becomes U+FFFD. The members of an object stay a list of pairs, because a struct takes them one after another (see
`goschema`). The error texts are Go's, since Ollama sends them to its clients.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TypeAlias, cast

MAX_DEPTH = 10_000

_SPACE = re.compile(rb"[ \t\r\n]*")
_RUN = re.compile(rb'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DIGIT = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_ESCAPES = {0x22: '"', 0x5C: "\\", 0x2F: "/", 0x62: "\b", 0x66: "\f", 0x6E: "\n", 0x72: "\r", 0x74: "\t"}
_LITERALS: dict[int, tuple[bytes, bool | None]] = {
    0x74: (b"true", True),
    0x66: (b"false", False),
    0x6E: (b"null", None),
}
_VALUE = "looking for beginning of value"


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    # Go replaces each invalid byte, Python's "replace" the longest invalid sequence.
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("simulator-each-byte", _each_byte)


class GoError(ValueError):
    """A request body that Go refuses; the text is the error for the client."""


class NoValueError(GoError):
    """An empty body (io.EOF)."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written."""

    text: str


@dataclass(frozen=True, slots=True)
class Members:
    """An object: its members in their order, duplicates included."""

    pairs: tuple[tuple[str, Value], ...]


Value: TypeAlias = "str | bool | Number | Members | list[Value] | None"


def scan(data: bytes) -> Value:
    """Return the first JSON value of a body.

    Raise NoValueError for a body of only white space, GoError for a syntax error.
    """
    return _Scanner(data).first()


class _Open:
    """An array or object that is not closed yet."""

    __slots__ = ("items", "key", "pairs")

    def __init__(self, *, is_object: bool) -> None:
        self.items: list[Value] | None = None if is_object else []
        self.pairs: list[tuple[str, Value]] = []
        self.key = ""

    def take(self, value: Value) -> None:
        if self.items is None:
            self.pairs.append((self.key, value))
        else:
            self.items.append(value)

    def close(self) -> Value:
        return Members(tuple(self.pairs)) if self.items is None else self.items


class _Scanner:
    """One pass over the bytes; open containers are on a list, so that depth needs no recursion."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def first(self) -> Value:
        if self._peek() is None:
            raise NoValueError("EOF")
        stack: list[_Open] = []
        while True:
            value = self._begin(stack)
            # The value may also close the containers around it.
            while not isinstance(value, _Open):
                if not stack:
                    return value
                stack[-1].take(value)
                value = self._after_value(stack)

    def _begin(self, stack: list[_Open]) -> Value | _Open:
        """Read a scalar, or open a container; an empty container is closed immediately."""
        byte = self._must()
        if byte in b"{[":
            self.at += 1
            if len(stack) >= MAX_DEPTH:
                raise GoError("exceeded max depth")
            opened = _Open(is_object=byte == 0x7B)
            if self._must() == (0x7D if opened.items is None else 0x5D):
                self.at += 1
                return opened.close()
            if opened.items is None:
                self._key(opened)
            stack.append(opened)
            return opened
        return self._scalar(byte)

    def _after_value(self, stack: list[_Open]) -> Value | _Open:
        """Read `,` (and the next key), or the end of the innermost container."""
        top = stack[-1]
        byte = self._must()
        is_object = top.items is None
        if byte == 0x2C:
            self.at += 1
            if is_object:
                self._must()
                self._key(top)
            return top
        if byte == (0x7D if is_object else 0x5D):
            self.at += 1
            return stack.pop().close()
        raise self._unexpected("after object key:value pair" if is_object else "after array element")

    def _key(self, opened: _Open) -> None:
        if self._must() != 0x22:
            raise self._unexpected("looking for beginning of object key string")
        opened.key = self._string()
        if self._must() != 0x3A:
            raise self._unexpected("after object key")
        self.at += 1

    def _scalar(self, byte: int) -> Value:
        if byte == 0x22:
            return self._string()
        if byte in _LITERALS:
            text, value = _LITERALS[byte]
            for expected in text:
                if self._byte() != expected:
                    raise self._unexpected(f"in literal {text.decode()} (expecting {_quote(expected)})")
                self.at += 1
            return value
        if byte == 0x2D or byte in _DIGIT:
            return self._number()
        raise self._unexpected(_VALUE)

    def _number(self) -> Number:
        found = _NUMBER.match(self.data, self.at)
        if found is None:
            self.at += 1
            self._byte()
            raise self._unexpected("in numeric literal")
        start, self.at = self.at, found.end()
        if self.at < len(self.data):
            byte, text = self.data[self.at], found[0]
            simple = text.lstrip(b"-").isdigit()
            if byte == 0x2E and simple:
                self.at += 1
                self._byte()
                raise self._unexpected("after decimal point in numeric literal")
            if byte in b"eE" and not re.search(rb"[eE]", text):
                self.at += 1
                if self._byte() in b"+-":
                    self.at += 1
                    self._byte()
                raise self._unexpected("in exponent of numeric literal")
        return Number(self.data[start : self.at].decode("ascii"))

    def _string(self) -> str:
        self.at += 1
        parts: list[str] = []
        while True:
            found = cast("re.Match[bytes]", _RUN.match(self.data, self.at))
            if found[0]:
                parts.append(found[0].decode("utf-8", "simulator-each-byte"))
            self.at = found.end()
            byte = self._byte()
            if byte == 0x22:
                self.at += 1
                return parts[0] if len(parts) == 1 else "".join(parts)
            if byte != 0x5C:
                raise self._unexpected("in string literal")
            self.at += 1
            parts.append(self._escape())

    def _escape(self) -> str:
        byte = self._byte()
        if byte in _ESCAPES:
            self.at += 1
            return _ESCAPES[byte]
        if byte != 0x75:
            raise self._unexpected("in string escape code")
        self.at += 1
        unit = self._hex4()
        if not 0xD800 <= unit < 0xE000:
            return chr(unit)
        # Only a low surrogate right after a high one makes a character.
        after = self.at
        if unit < 0xDC00 and self.data[after : after + 2] == b"\\u":
            self.at += 2
            low = self._hex4()
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))
            self.at = after
        return "\ufffd"

    def _hex4(self) -> int:
        for _ in range(4):
            if self._byte() not in _HEX:
                raise self._unexpected("in \\u hexadecimal character escape")
            self.at += 1
        return int(self.data[self.at - 4 : self.at], 16)

    def _peek(self) -> int | None:
        found = cast("re.Match[bytes]", _SPACE.match(self.data, self.at))
        self.at = found.end()
        return self.data[self.at] if self.at < len(self.data) else None

    def _must(self) -> int:
        """Return the next byte that is not white space."""
        byte = self._peek()
        if byte is None:
            raise GoError("unexpected EOF")
        return byte

    def _byte(self) -> int:
        if self.at >= len(self.data):
            raise GoError("unexpected EOF")
        return self.data[self.at]

    def _unexpected(self, where: str) -> GoError:
        return GoError(f"invalid character {_quote(self.data[self.at])} {where}")


def _quote(byte: int) -> str:
    """Return one byte in quotes as in Go's error texts, as a Latin-1 character."""
    special = {0x27: "'\\''", 0x22: "'\"'", 0x5C: "'\\\\'", 0x07: "'\\a'", 0x08: "'\\b'", 0x0C: "'\\f'"}
    special |= {0x0A: "'\\n'", 0x0D: "'\\r'", 0x09: "'\\t'", 0x0B: "'\\v'"}
    if byte in special:
        return special[byte]
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    if 0x80 <= byte < 0xA1 or byte == 0xAD:
        return f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"
