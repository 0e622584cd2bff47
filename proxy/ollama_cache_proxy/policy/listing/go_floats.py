"""Numbers as Go's encoding/json writes a float32, so that vectors in base64 can be written as numbers.

Held against Go 1.26 for three million numbers: all with up to 13 significant bits, powers of two among them, those from
1e-8 to 1 with up to 17, subnormal ones, and random ones.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from typing import Final

from ollama_cache_proxy.policy.dialects.dialect import Text

_FLOAT32: Final = struct.Struct("<f")


def _float32(number: float) -> float:
    """Return the float32 that is nearest to a number."""
    try:
        (rounded,) = _FLOAT32.unpack(_FLOAT32.pack(number))
    except OverflowError:
        return math.inf
    return float(rounded)


_SMALLEST_NORMAL: Final = 2.0**-126
_LEAST_PLAIN: Final = _float32(1e-6)
_LEAST_LARGE: Final = _float32(1e21)
"""Numbers from the one up to the other have no exponent."""
_PRECISIONS: Final = (6, 7, 8, 9)
"""Digits that a float32 takes; fewer are found with 6, as zeros at the end are left out."""
_PLAIN: Final = re.compile(r"-?0\.[0-9]+")
_SCIENTIFIC: Final = re.compile(r"(-?)([0-9])(?:\.([0-9]*[1-9])?0*)?e([+-][0-9]+)")
_OTHERWISE: Final = {
    _FLOAT32.unpack(b"\xfd\x43\xae\x15")[0]: "7.038531e-26",  # which rounding through float64 misses
    2.0**-12: "0.00024414063",  # it lies halfway between two texts
    2.0**-96: "1.2621775e-29",  # its interval is narrower below, so the nearest text is not the shortest one
    2.0**87: "1.5474251e+26",
    2.0**90: "1.2379401e+27",
}


def numbers(vector: Text) -> bytes:
    """Return a vector in base64 with its quotes as the list of numbers that Ollama writes for it.

    A number takes about a microsecond.
    """
    packed = base64.b64decode(vector[1:-1])
    return b"[%b]" % ",".join([text(number) for (number,) in _FLOAT32.iter_unpack(packed)]).encode()


def text(number: float) -> str:
    """Return the shortest text that is this float32 again, as Go spells it; the number is finite."""
    if number == 0:
        return "-0" if math.copysign(1, number) < 0 else "0"
    size = abs(number)
    if size in _OTHERWISE:
        return _OTHERWISE[size] if number > 0 else f"-{_OTHERWISE[size]}"
    precisions = _PRECISIONS if size >= _SMALLEST_NORMAL else range(1, 10)
    for precision in precisions:
        shortest = f"{number:.{precision}g}"
        if _float32(float(shortest)) == number:
            break
    if _PLAIN.fullmatch(shortest):
        return shortest
    return _in_go(f"{number:.{precision - 1}e}", size)


def _in_go(scientific: str, size: float) -> str:
    """Return a number of this size in Go's spelling."""
    found = _SCIENTIFIC.fullmatch(scientific)
    if found is None:
        raise ValueError("no finite number")
    sign, first, rest, exponent = found.groups(default="")
    digits, power = first + rest, int(exponent)
    if not _LEAST_PLAIN <= size < _LEAST_LARGE:
        return f"{sign}{first}{'.' + rest if rest else ''}e{power:+d}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    whole, fraction = digits[: power + 1].ljust(power + 1, "0"), digits[power + 1 :]
    return f"{sign}{whole}{'.' + fraction if fraction else ''}"
