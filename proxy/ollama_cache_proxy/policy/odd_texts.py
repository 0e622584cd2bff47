"""Texts of a list that have no item: blank ones, and those that are no text to every reader.

Go reads a lone surrogate and invalid UTF-8 as U+FFFD, other servers read them otherwise or refuse them. So such a text
is neither a part of a key nor written anew: it is asked for as the client wrote it, and Ollama decides. The other texts
of its list are known as ever.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import orjson

from ollama_cache_proxy.policy import document
from ollama_cache_proxy.policy.status import Detail

_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD](?:[89aAbB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
"""An escape, in JSON where no escape is that of a backslash."""
_NO_UTF_8: Final = re.compile("[\udc80-\udcff]")
_MOST: Final = 10_000
"""Bytes of a body that are no UTF-8; one with more is not looked at."""
_ONE, _OTHER = "\ufffd", "\ufffe"


OddTexts: TypeAlias = dict[int, tuple[str, bytes]]


def read(body: bytes, known: frozenset[str], prompt: str) -> tuple[dict[str, Any], OddTexts] | Detail:
    """Return what `document.read` does, or the reason, also where members of the list `prompt` are ill-formed texts.

    Those are returned by their places, each as a text that tells it from others, and as it was written. In the object,
    U+FFFD stands for what is ill-formed.
    """
    whole = document.read(body, known)
    if whole is not Detail.NOT_JSON:
        return whole if isinstance(whole, Detail) else (whole, {})
    mended = _mended(body, _ONE)
    if mended is None:
        return Detail.NOT_JSON
    read, again = document.read(mended, known), _loaded(_mended(body, _OTHER) or b"")
    if isinstance(read, Detail):
        return read
    here, there = read.pop(prompt, None), again.pop(prompt, None)
    if read != again or not isinstance(here, list) or not isinstance(there, list) or len(here) != len(there):
        return Detail.NOT_JSON  # what is ill-formed is not, or not only, in the texts
    places = [place for place, (one, other) in enumerate(zip(here, there, strict=True)) if one != other]
    raw = [text for text in document.STRING.findall(body) if _mended(text, _ONE) is not None]
    if len(places) != len(raw) or not all(isinstance(here[place], str) for place in places):
        return Detail.NOT_JSON
    read[prompt] = here
    return read, {place: named(text) for place, text in zip(places, raw, strict=True)}


def mended(text: bytes) -> str | None:
    """Return one ill-formed text, a JSON string, with U+FFFD for what is ill-formed; None where it is no text."""
    mended = _mended(text, _ONE)
    try:
        read = None if mended is None else orjson.loads(mended)
    except orjson.JSONDecodeError:
        return None
    return read if isinstance(read, str) else None


def named(text: bytes) -> tuple[str, bytes]:
    """Return an ill-formed text as a text that tells it from others, and as it was written."""
    return _MARK + text.decode("latin-1"), text


_MARK: Final = "\ud800"
"""With this, no ill-formed text equals one that has an item."""


def _mended(body: bytes, mark: str) -> bytes | None:
    """Return JSON with `mark` for each lone surrogate and whatever is no UTF-8; None where it has neither."""
    text, ill_formed = body.replace(rb"\\", rb"\u005c"), 0
    try:
        text.decode()
    except UnicodeDecodeError:
        kept = text.decode("utf-8", "surrogateescape")
        if text.decode("utf-8", "replace").count(_ONE) > _MOST:
            return None
        mended, ill_formed = _NO_UTF_8.subn(mark, kept)
        text = mended.encode()
    text, lone = _LONE_SURROGATE.subn(mark.encode(), text)
    return text if lone or ill_formed else None


def _loaded(body: bytes) -> dict[str, Any]:
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return read if isinstance(read, dict) else {}
