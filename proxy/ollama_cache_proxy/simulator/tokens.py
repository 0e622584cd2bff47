"""Tokens of texts: numbers from the recording, bytes for the rest, and a simple count.

The vocabulary is the known part of the recorded model's. Its single bytes follow GPT-2's order after three
special tokens: printable ASCII first, then printable Latin-1, then the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ollama_cache_proxy.simulator import recorded

_SPECIAL = 3
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {
    byte: _SPECIAL + index
    for index, byte in enumerate([*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)])
}
_LONGEST = max(map(len, recorded.TOKENS))
_COUNTED = re.compile(r"\w{1,6}|[^\w\s]")
_PIECES = re.compile(r"\s*(?:\w{1,6}|[^\w\s])")
_TEXTS = {number: text for text, number in recorded.TOKENS.items()}
_VALUES = {number: byte for byte, number in _BYTES.items()}


def encode(text: str) -> list[int]:
    """Return the token numbers of a text: the longest known token at each place, bytes if none is known."""
    numbers: list[int] = []
    at = 0
    while at < len(text):
        for length in range(min(_LONGEST, len(text) - at), 1, -1):
            number = recorded.TOKENS.get(text[at : at + length])
            if number is not None:
                numbers.append(number)
                at += length
                break
        else:
            numbers += [_BYTES[byte] for byte in text[at].encode("utf-8", "replace")]
            at += 1
    return numbers


def decode(numbers: Iterable[int]) -> str:
    """Return the text of token numbers; unknown ones have none."""
    parts = (
        bytes([_VALUES[number]]) if number in _VALUES else _TEXTS.get(number, "").encode("utf-8", "replace")
        for number in numbers
    )
    return b"".join(parts).decode("utf-8", "replace")


def pieces(text: str) -> list[str]:
    """Return the tokens of a text as `count` counts them, each with the space before it; none for an empty one."""
    return _PIECES.findall(text)


def count(text: str) -> int:
    """Return the number of tokens of a text: pieces of up to six letters, and other characters one by one."""
    return max(1, len(_COUNTED.findall(text)))


def cut(text: str, limit: int) -> str:
    """Return the longest prefix of a text with at most `limit` tokens by `count`."""
    for index, found in enumerate(_COUNTED.finditer(text)):
        if index == limit:
            return text[: found.start()]
    return text
