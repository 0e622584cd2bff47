"""JSON values as Go's types: what json.Unmarshal does with a struct.

A `Kind` is a function that takes a value (`gojson`), the previous value of the field, and the place; it returns the new
value of the field. Names match without regard to case, a duplicate name is read twice, and `null` leaves a plain field
unchanged. The first type error is reported after the whole body has been read; an error of a type with its own rules
(a duration, `think`) ends the reading immediately. Both as in Go.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from ollama_cache_proxy.simulator.gojson import GoError, Members, Number, Value, scan

_INT64 = (-(2**63), 2**63 - 1)
_SECOND = 1_000_000_000
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3600 * _SECOND,
}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]*)")
FOREVER = 2**63 - 1
"""Nanoseconds that mean an unlimited keep_alive."""


class Place:
    """The current place in the body, and the first type error so far."""

    def __init__(self) -> None:
        self.struct = ""
        self.outer = ""
        """The struct to name instead, inside a type with its own rules."""
        self.path: list[str] = []
        self.error: GoError | None = None

    def mismatch(self, what: str, go_type: str) -> None:
        """Record a type error; only the first one counts."""
        if self.error is None:
            self.error = GoError(self.text(what, go_type))

    def text(self, what: str, go_type: str) -> str:
        """Return Go's text for a value of a wrong type at this place."""
        name = self.outer or self.struct
        where = f"struct field {name}.{'.'.join(self.path)} of" if name else "value of"
        return f"json: cannot unmarshal {what} into Go {where} type {go_type}"


Kind: TypeAlias = Callable[[Value, Any, Place], Any]


def decode(data: bytes, kind: Kind) -> dict[str, Any]:
    """Return a request body as the fields of a struct, Go's zero values for missing ones.

    Raise NoValueError for an empty body, GoError for anything else that Go refuses.
    """
    place = Place()
    fields: dict[str, Any] = kind(scan(data), None, place)
    if place.error is not None:
        raise place.error
    return fields


def named(value: Value) -> str:
    """Return Go's word for the type of a JSON value."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case Number():
            return "number"
        case Members():
            return "object"
        case list():
            return "array"
        case None:
            return "null"


def string(value: Value, old: Any, place: Place) -> Any:
    """A Go string."""
    if isinstance(value, str):
        return value
    if value is not None:
        place.mismatch(named(value), "string")
    return old if old is not None else ""


def boolean(value: Value, old: Any, place: Place) -> Any:
    """A Go bool."""
    if isinstance(value, bool):
        return value
    if value is not None:
        place.mismatch(named(value), "bool")
    return old if old is not None else False


def integer(value: Value, old: Any, place: Place) -> Any:
    """A Go int (64 bit)."""
    if isinstance(value, Number):
        if re.fullmatch(r"-?[0-9]+", value.text) and _INT64[0] <= int(value.text) <= _INT64[1]:
            return int(value.text)
        place.mismatch(f"number {value.text}", "int")
    elif value is not None:
        place.mismatch(named(value), "int")
    return old if old is not None else 0


def number(value: Value, old: Any, place: Place) -> Any:
    """A Go float64."""
    if isinstance(value, Number):
        return _float(value, place)
    if value is not None:
        place.mismatch(named(value), "float64")
    return old if old is not None else 0.0


def _float(value: Number, place: Place) -> float:
    result = float(value.text)
    if result in (float("inf"), float("-inf")):
        place.mismatch(f"number {value.text}", "float64")
        return 0.0
    return result


def anything(value: Value, _old: Any, place: Place) -> Any:
    """A Go any: dicts (the last of equal names wins), lists, floats."""
    match value:
        case Number():
            return _float(value, place)
        case Members():
            return {name: anything(member, None, place) for name, member in value.pairs}
        case list():
            return [anything(item, None, place) for item in value]
        case _:
            return value


def mapping(value: Value, old: Any, place: Place) -> Any:
    """A Go map[string]any: an object that comes twice is merged."""
    if value is None:
        return None
    if not isinstance(value, Members):
        place.mismatch(named(value), "map[string]interface {}")
        return old
    return {**(old or {}), **{name: anything(member, None, place) for name, member in value.pairs}}


def pointer(kind: Kind) -> Kind:
    """A Go pointer: None if it is `null` or absent."""

    def read(value: Value, old: Any, place: Place) -> Any:
        return None if value is None else kind(value, old, place)

    return read


def listed(kind: Kind, go_type: str) -> Kind:
    """A Go slice: None if it is `null` or absent."""

    def read(value: Value, old: Any, place: Place) -> Any:
        if value is None:
            return None
        if not isinstance(value, list):
            place.mismatch(named(value), go_type)
            return old
        return [kind(item, None, place) for item in value]

    return read


def fold(name: str) -> str:
    """Return a name with its letters folded as Go does: a long s is an s, but a sharp s is not two of them."""
    return "".join(folded if len(folded := letter.casefold()) == 1 else letter for letter in name)


def struct(name: str, fields: dict[str, Kind], *, package: str = "api") -> Kind:
    """A Go struct, as a dict with every field in it."""
    folded = {fold(field): field for field in reversed(fields)}

    def read(value: Value, old: Any, place: Place) -> Any:
        result = old if old is not None else {field: kind(None, None, place) for field, kind in fields.items()}
        if value is None:
            return result
        if not isinstance(value, Members):
            place.mismatch(named(value), f"{package}.{name}")
            return result
        outer = place.struct
        for member, item in value.pairs:
            field = member if member in fields else folded.get(fold(member))
            if field is None:
                continue
            place.struct = name
            place.path.append(field)
            result[field] = fields[field](item, result[field], place)
            place.path.pop()
            place.struct = outer
        return result

    return read


def own_rules(kind: Kind) -> Kind:
    """A type with its own UnmarshalJSON around a plain one: its first error ends the reading immediately."""

    def read(value: Value, old: Any, place: Place) -> Any:
        inner = Place()
        inner.outer, inner.struct, inner.path = place.outer or place.struct, place.struct, place.path
        result = kind(value, old, inner)
        if inner.error is not None:
            raise inner.error
        return result

    return read


def image(value: Value, old: Any, place: Place) -> Any:
    """A Go []byte: base64 text, with padding."""
    if not isinstance(value, str):
        if value is not None:
            place.mismatch(named(value), "api.ImageData")
        return old if old is not None else b""
    try:
        return base64.b64decode(value.replace("\r", "").replace("\n", ""), validate=True)
    except ValueError:  # also of what is not ASCII
        bad = re.search(r"[^A-Za-z0-9+/=]", value)
        if place.error is None:
            place.error = GoError(f"illegal base64 data at input byte {bad.start() if bad else len(value)}")
        return b""


def duration(value: Value, _old: Any, place: Place) -> Any:
    """A keep_alive (api.Duration): seconds or text such as `1h5m`; nanoseconds, negative means FOREVER."""
    match value:
        case None:
            return None
        case Number():
            seconds = _float(value, place)
            nanoseconds = int(seconds * _SECOND) if 0 <= seconds < FOREVER / _SECOND else FOREVER
        case str():
            nanoseconds = _parsed_duration(value)
        case _:
            words = {"bool": "bool", "object": "map[string]interface {}", "array": "[]interface {}"}
            raise GoError(f"Unsupported type: '{words[named(value)]}'")
    return FOREVER if nanoseconds < 0 else min(nanoseconds, FOREVER)


def _parsed_duration(text: str) -> int:
    """Return the nanoseconds of a Go duration text."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    total, at = 0.0, 0
    while at < len(body) or not body:
        found = _AMOUNT.match(body, at)
        if found is None:
            raise GoError(f"time: invalid duration {quoted}")
        if not found[2]:
            raise GoError(f"time: missing unit in duration {quoted}")
        if found[2] not in _UNITS:
            raise GoError(f'time: unknown unit "{found[2]}" in duration {quoted}')
        total += float(found[1]) * _UNITS[found[2]]
        at = found.end()
    return -int(total) if text.startswith("-") else int(total)


def think(value: Value, _old: Any, _place: Place) -> Any:
    """A `think` value (api.ThinkValue): a bool or a level."""
    levels = ("high", "medium", "low", "max")
    match value:
        case bool() | None:
            return value
        case str() if value in levels:
            return value
        case str():
            listing = '"high", "medium", "low", "max", true, or false'
            raise GoError(f'invalid think value: "{value}" (must be {listing})')
        case _:
            raise GoError('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
