"""What a JSON body is made of, by its quotes alone: how long reading it would take, and where its texts stand.

orjson reads a body in one go, and nothing else runs meanwhile, in no thread of the process. So a large body is looked
at in slices first: how many values, members, arrays and objects it has outside of its strings tells how long it would
take.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import Steps

SLICE: Final = 1 << 18
"""Bytes that are looked at in one step."""
QUICK_BYTES: Final = 1 << 15
"""A body of so many bytes is read without a look, whatever is in it: it takes 10 ms at most, empty arrays and all."""

BYTE, WIDE_BYTE, OUTSIDE, ESCAPE, VALUE, MEMBER, ARRAY, OBJECT = 1.1, 2.6, 1.3, 6.0, 100.0, 150.0, 400.0, 200.0
"""Nanoseconds that the slowest step of reading takes for each: of a byte of ASCII, of a byte of a body that has others,
of a byte outside of strings beside that, a backslash, a comma, a colon, an opening bracket and an opening brace.
Measured with orjson 3.11 and CPython 3.11 on a processor of 2024, with bodies of 8 MiB of nothing else, and rounded up.
The steps are orjson's, the survey of document.py, and writing for the key."""
_ALL_STEPS: Final = 8.0
"""All steps together take about so many times as long for a byte of text as the slowest one."""
MOST: Final = 12e6
"""Nanoseconds that a step may take. The goal is 20 ms of CPU; many processors are slower than the one measured."""
_QUICK: Final = 6e6
"""Nanoseconds that all steps together may take where no look is needed."""


@record
class Counts:
    """How often the characters of JSON's structure occur in a text."""

    commas: int
    colons: int
    arrays: int
    objects: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            commas=self.commas + other.commas,
            colons=self.colons + other.colons,
            arrays=self.arrays + other.arrays,
            objects=self.objects + other.objects,
        )

    @property
    def nanoseconds(self) -> float:
        """How long the slowest step of reading takes for them, if none is in a string."""
        return VALUE * self.commas + MEMBER * self.colons + ARRAY * self.arrays + OBJECT * self.objects

    @property
    def weight(self) -> int:
        """About how many bytes of memory the values take: small ones take many times their text."""
        return _VALUE_BYTES * (self.commas + self.arrays) + _OBJECT_BYTES * self.objects


_VALUE_BYTES: Final = 128
_OBJECT_BYTES: Final = 320
"""Bytes that a value and an object take in memory beside their text, roughly, while a key is made of them."""


def counts(text: bytes) -> Counts:
    """Return the counts of a text; what is in strings counts, too."""
    return Counts(commas=text.count(b","), colons=text.count(b":"), arrays=text.count(b"["), objects=text.count(b"{"))


def quick(body: bytes) -> Counts | None:
    """Return the counts of a body that is read so soon that no look at its structure is needed; else None.

    This errs on the side of a look: what is inside of strings counts, too.
    """
    nanoseconds = len(body) * _ALL_STEPS
    if nanoseconds >= _QUICK:
        return None
    found = counts(body)
    return found if len(body) <= QUICK_BYTES or nanoseconds + found.nanoseconds < _QUICK else None


def is_read_soon(body: bytes) -> Steps[bool]:
    """Return whether a response is read in one step: orjson alone reads it, in about half the time of all steps."""
    found = yield from outline(body, most=_READ_SHARE * MOST)
    return found is not None and found.nanoseconds(len(body)) < _READ_SHARE * MOST


_READ_SHARE: Final = 2.0


@record
class Outline:
    """The strings of a body, and what stands outside of them. The body need not be JSON."""

    structure: bytes
    """What stands outside of strings; each string is one quote."""
    counts: Counts
    """Of the structure."""
    strings: int
    escapes: int
    """Backslashes."""
    ascii: bool
    closed: bool
    """Whether the last string has an end."""
    begins: tuple[int, ...]
    """Where the slices begin, in bytes."""
    quotes: tuple[int, ...]
    """How many quotes there are before each slice, escaped ones aside."""

    def nanoseconds(self, size: int) -> float:
        """Return how long the slowest step of reading takes for a body of `size` bytes."""
        return self.of_bytes(size, len(self.structure)) + ESCAPE * self.escapes + self.counts.nanoseconds

    def of_bytes(self, size: int, outside: int) -> float:
        """Return the part of it that is for the bytes, `outside` of which are in no string."""
        return size * (BYTE if self.ascii else WIDE_BYTE) + outside * OUTSIDE

    def of_texts(self, part: bytes) -> float:
        """Return how long it takes for a part of the body that has nothing but long strings."""
        return self.of_bytes(len(part), 0) + ESCAPE * part.count(b"\\")

    def place(self, body: bytes, number: int) -> int:
        """Return where in the body a quote stands, by its number from 0; there is one."""
        at = bisect_right(self.quotes, number) - 1
        begin = self.begins[at]
        end = self.begins[at + 1] if at + 1 < len(self.begins) else len(body)
        text = masked(body[begin:end])
        rest = text.split(b'"', number - self.quotes[at] + 1)[-1]
        return end - len(rest) - 1


def outline(body: bytes, *, most: float = MOST) -> Steps[Outline | None]:
    """Return the outline of a body; None where reading its structure takes longer than `most` nanoseconds."""
    structure: list[bytes] = []
    begins: list[int] = []
    quotes: list[int] = []
    begin = seen = escapes = 0
    found = counts(b"")
    while begin < len(body):
        end = _end(body, begin)
        text = body[begin:end]
        escapes += text.count(b"\\")
        parts = masked(text).split(b'"')
        begins.append(begin)
        quotes.append(seen)
        outside = b'"'.join(parts[seen % 2 :: 2])
        more = len(parts) - 1
        if more and (seen + more) % 2:  # the string that begins last ends in another slice
            outside += b'"'
        structure.append(outside)
        found += counts(outside)
        if found.nanoseconds > most:
            return None
        seen, begin = seen + more, end
        yield
    return Outline(
        structure=b"".join(structure),
        counts=found,
        strings=(seen + 1) // 2,
        escapes=escapes,
        ascii=body.isascii(),
        closed=not seen % 2,
        begins=tuple(begins),
        quotes=tuple(quotes),
    )


def _end(body: bytes, begin: int) -> int:
    """Return where a slice ends: not between a backslash and what it escapes."""
    end = min(begin + SLICE, len(body))
    text = body[begin:end]
    backslashes = len(text) - len(text.rstrip(b"\\"))
    return min(end + backslashes % 2, len(body))


def masked(text: bytes) -> bytes:
    """Return a text of the same length in which each quote begins or ends a string: escaped ones are replaced."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in text else text
