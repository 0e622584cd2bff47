"""Marks: which scope an entry's key was made of, as far as an entry tells it.

A key is a hash, so nobody can see whether anything could ever ask for it. The mark of an entry has a short hash of each
part that is not the request's content: `digest.version.settings.credentials.origin`, the last two empty where the
request had none. They sort entries and decide nothing: a response is found by its key alone.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

from ollama_cache_proxy.policy.credentials import given
from ollama_cache_proxy.policy.framing import frames
from ollama_cache_proxy.policy.key import Scope
from ollama_cache_proxy.policy.messages import Fields, values
from ollama_cache_proxy.policy.record import record

_DIGITS: Final = 8
"""Hexadecimal digits of one hash: enough to tell scopes apart, and few, since every entry has them."""
_DIGITS_OF_CREDENTIALS: Final = 2
"""Those of credentials: a few clients differ, and of all that somebody may guess one in 256 fits."""
_MARK: Final = re.compile(r"([0-9a-f]{8})\.([0-9a-f]{8})\.([0-9a-f]{8})\.((?:[0-9a-f]{2})?)\.((?:[0-9a-f]{8})?)")


@record
class Mark:
    """A mark, read."""

    digest: str
    version: str
    settings: str
    """Of the epoch and of what counts as a credential: settings of the proxy, which are in every key."""
    credentials: str
    origin: str


def marked(scope: Scope, fields: Fields) -> str:
    """Return the mark of what is stored for a request with these fields, which are those that Ollama gets."""
    shown, origins = given(scope.credentials, fields), values(fields, b"origin")
    common = common_mark(scope)
    if not (shown or origins):
        return common + ".."
    who = _short(shown)[:_DIGITS_OF_CREDENTIALS] if shown else ""
    return ".".join((common, who, _short(b"\n".join(origins)) if origins else ""))


def common_mark(scope: Scope) -> str:
    """Return the part of a mark that does not depend on the request: digest, version and settings."""
    return _common(scope.digest, scope.version, scope.epoch, scope.credentials.digest)


def read(text: str) -> Mark | None:
    """Return the mark in a text; None where it is none, as with entries that were stored before there were marks."""
    found = _MARK.fullmatch(text)
    if found is None:
        return None
    digest, version, settings, credentials, origin = found.groups()
    return Mark(digest=digest, version=version, settings=settings, credentials=credentials, origin=origin)


@lru_cache(maxsize=256)
def _common(digest: str, version: str, epoch: str, rules: str) -> str:
    parts = (digest.encode(), version.encode(), frames(epoch.encode(), rules.encode()))
    return ".".join(map(_short, parts))


def _short(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()[:_DIGITS]
