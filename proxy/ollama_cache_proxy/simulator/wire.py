"""The bytes of a response, as Go's net/http and encoding/json write them. Pure.

The rules follow recorded responses of a real server:

- an endpoint's fields come first, sorted by name; then `Date`, `Content-Length`, `Connection`, `Transfer-Encoding`;
- a whole body of at most 2048 bytes has a Content-Length, a larger one written at once is a single chunk;
- HTTP/1.0 has no chunks: a body of unknown length ends with the connection;
- JSON escapes `<`, `>`, `&`, U+2028 and U+2029, and writes exponents without leading zeros.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

Fields = tuple[tuple[str, str], ...]

WHOLE_LIMIT = 2048
"""Bytes that the server buffers before it decides between a length and chunks."""

JSON = "application/json; charset=utf-8"
BARE_JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
PLAIN = "text/plain"

_FLOAT32 = struct.Struct("<f")
_SMALLEST32 = float(_FLOAT32.unpack(_FLOAT32.pack(1e-6))[0])
_UNLIKE_PRINTF = {
    2.0**-12: "0.00024414063",
    2.0**-96: "1.2621775e-29",
    2.0**87: "1.5474251e+26",
    2.0**90: "1.2379401e+27",
}
"""Powers of two for which Go 1.26 takes another shortest text than the nearest one of as many digits."""
_NANOSECONDS = 1_000_000_000
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ESCAPED = re.compile("[<>&\u2028\u2029]")
_REASONS = {499: ""}


@dataclass(frozen=True, slots=True)
class Verbatim:
    """JSON text that is already rendered."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A status line and fields; at most one of `length` and `chunked` is set."""

    status: int
    fields: Fields = ()
    length: int | None = None
    chunked: bool = False
    close: bool = False
    keep: bool = False
    http10: bool = False

    def render(self, now: float | None = None) -> bytes:
        """Return the head, its empty line included; `now` is seconds since the epoch."""
        version = "1.0" if self.http10 else "1.1"
        lines = [f"HTTP/{version} {self.status} {reason(self.status)}"]
        lines += [f"{name}: {value}" for name, value in sorted(self.fields, key=lambda field: field[0])]
        lines.append(f"Date: {formatdate(now, usegmt=True)}")
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        if self.close and not self.http10:
            lines.append("Connection: close")
        if self.keep and self.http10:
            lines.append("Connection: keep-alive")
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reason(status: int) -> str:
    """Return the reason phrase of a status, empty if Go has none."""
    if status in _REASONS:
        return _REASONS[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status code {status}"


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def timestamp(nanoseconds: int) -> str:
    """Return a UTC instant in Go's RFC3339Nano form: at most nine decimals, trailing zeros trimmed."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    text = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    fraction = f"{rest:09d}".rstrip("0")
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"


def float32(value: float) -> float:
    """Return the value rounded to single precision."""
    return float(_FLOAT32.unpack(_FLOAT32.pack(value))[0])


def _is_float32(text: str, value: float) -> bool:
    try:
        return float32(float(text)) == value
    except OverflowError:
        return False


def _plain(text: str) -> str:
    """Return a decimal text without exponent, leading zeros kept, trailing ones dropped."""
    plain = format(Decimal(text), "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _go_exponent(text: str) -> str:
    """Return `d.ddde±x` in Go's form: no trailing zeros, and `e-7` instead of `e-07`."""
    sign, digits, exponent = Decimal(text).as_tuple()
    figures = "".join(map(str, digits)).rstrip("0") or "0"
    power = int(exponent) + len(digits) - 1
    mantissa = figures[0] + (f".{figures[1:]}" if len(figures) > 1 else "")
    # Go trims only one leading zero, and only of negative exponents: 1e-9 but 1e+21.
    return f"{'-' if sign else ''}{mantissa}e{'-' if power < 0 else '+'}{abs(power)}"


def _go_number(text: str, value: float, smallest: float) -> str:
    """Return the text with an exponent below `smallest` and from 1e21 on, plain otherwise."""
    return _go_exponent(text) if abs(value) < smallest or abs(value) >= 1e21 else _plain(text)


def float64_text(value: float) -> str:
    """Return a double as encoding/json writes a float64: the shortest text that reads back the same."""
    text = repr(value)
    if 1e-4 <= abs(value) < 1e16:
        return text.removesuffix(".0")
    if not math.isfinite(value):
        message = f"json: unsupported value: {value}"
        raise ValueError(message)
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    return _go_number(text, value, 1e-6)


def float32_text(value: float) -> str:
    """Return a single as encoding/json writes a float32; `value` must be exactly one."""
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if abs(value) in _UNLIKE_PRINTF:
        return "-" * (value < 0) + _UNLIKE_PRINTF[abs(value)]
    best = f"{value:.9g}"
    for precision in range(8, 0, -1):
        shorter = f"{value:.{precision}g}"
        if not _is_float32(shorter, value):
            break
        best = shorter
    return best if 1e-4 <= abs(value) < 1 else _go_number(best, value, _SMALLEST32)


def dumps(value: Any) -> str:
    """Return JSON text as Go's Marshal writes structs (dicts keep their order) and plain values."""
    out: list[str] = []
    _dump(value, out)
    return "".join(out)


def _dump(value: Any, out: list[str]) -> None:
    match value:
        case Verbatim():
            out.append(value.text)
        case str():
            out.append(_string(value))
        case bool() | None:
            out.append("null" if value is None else "true" if value else "false")
        case int():
            out.append(str(value))
        case float():
            out.append(float64_text(value))
        case dict() | list() | tuple():
            _dump_many(value, out)
        case _:
            message = f"no JSON form: {type(value).__name__}"
            raise TypeError(message)


def _dump_many(value: dict[str, Any] | list[Any] | tuple[Any, ...], out: list[str]) -> None:
    is_object = isinstance(value, dict)
    out.append("{" if is_object else "[")
    for index, item in enumerate(value):
        if index:
            out.append(",")
        if isinstance(value, dict):
            out.append(f"{_string(item)}:")
        _dump(value[item] if isinstance(value, dict) else item, out)
    out.append("}" if is_object else "]")


def _string(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: _ESCAPES[found[0]], quoted)


def by_name(value: Any) -> Any:
    """Return the value with the members of its objects sorted, as Go writes a map."""
    match value:
        case dict():
            return {name: by_name(value[name]) for name in sorted(value)}
        case list():
            return [by_name(item) for item in value]
        case _:
            return value
