"""The credentials for Ollama: an Authorization value from a setting, a file or a URL. No error contains any of it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

_MAX_BYTES: Final = 16_384
_VALUE: Final = re.compile(r"[!-~]+(?:[ \t]+[!-~]+)*")
_AUTHORITY: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#]*)@(?P<rest>[^@]*)")
_CUT_OFF: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*:[^/?#]*[/?#].*@", re.DOTALL)
"""A password up to its first slash reads like a port, and the rest of it like a path, which is no secret."""


def authorization(text: str) -> str:
    """Return an Authorization value without surrounding white space; raise ValueError if it is none (RFC 9110, 5.5)."""
    value = text.strip()
    if _VALUE.fullmatch(value) is None:
        message = "must be the whole value of an Authorization field, such as Bearer and a token, on one line of ASCII"
        raise ValueError(message)
    return value


def authorization_in(path: str) -> str:
    """Return the Authorization value that a file holds; raise ValueError, or OSError if it cannot be read."""
    with Path(path).open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        message = "must be a file with an Authorization value and nothing else"
        raise ValueError(message)
    return authorization(content.decode("latin-1"))


def without_user(url: str) -> tuple[str, str]:
    """Return a URL without user and password, and these as an Authorization value; raise ValueError.

    The value is that of RFC 7617, and empty where the URL has no user. Percent-encoded characters are decoded.
    """
    match = _AUTHORITY.fullmatch(url)
    if match is None and _CUT_OFF.match(url):
        message = "must have / ? # and @ in a user and password percent-encoded, as %2F, %3F, %23 and %40"
        raise ValueError(message)
    if match is None:
        return url, ""
    name, _, password = match["user"].partition(":")
    user, secret = unquote_to_bytes(name), unquote_to_bytes(password)
    if b":" in user or not user + secret or any(byte < ord(" ") or byte == _DELETE for byte in user + secret):
        message = "must have a user without a colon, and no control characters in user and password"
        raise ValueError(message)
    return match["scheme"] + match["rest"], "Basic " + base64.b64encode(user + b":" + secret).decode()


_DELETE: Final = 0x7F
