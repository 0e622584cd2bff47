"""The head of a request in a form that aiohttp's parser takes, where it refuses one that Go's server takes.

aiohttp takes a few fields once only, refuses the first key of an old WebSocket draft, and gives up the rest of a
connection after an Upgrade. Go's server (net/http, which Ollama serves with) takes and ignores all of that. So such a
field is given to the parser under another name, and gets its own back when the parser has read the head. What decides
where a request ends, Content-Length, Transfer-Encoding and Host, is never renamed: equal Content-Lengths become one
(RFC 9112, section 6.3; `fixLength` in Go's `net/http/transfer.go`), and everything else about them the parser judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.record import record

END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length"
_ONCE: Final = frozenset(
    {b"content-type", b"content-location", b"content-range", b"etag", b"max-forwards", b"server", b"user-agent"}
)
"""Fields of which aiohttp's parser refuses a second one."""
_NEVER: Final = frozenset({b"upgrade", b"sec-websocket-key1"})
"""Fields that aiohttp's parser acts upon, and Go's server does not."""
_OTHER_NAME: Final = b"X"


@record
class PlainHead:
    """A head for the parser."""

    data: bytes
    """The head, up to and with its empty line."""
    fields: int
    """How many fields it has."""
    names: Mapping[int, bytes]
    """The names that were sent, of the fields that have another one in `data`, by their place among the fields."""

    def restored(self, read: Fields) -> Fields:
        """Return the fields that the parser has read, under the names that were sent."""
        return tuple((self.names.get(place, name), value) for place, (name, value) in enumerate(read))


def plain_head(head: bytes) -> PlainHead | None:
    """Return a head, from its request line to its empty line, in a form for the parser; None where it has no other.

    Of lines that do not all end in CRLF, and of folded ones, it is not certain which fields they are: those have none.
    """
    text = head.removesuffix(END_OF_HEAD)
    if b"\r" in (rest := text.replace(b"\r\n", b"")) or b"\n" in rest:
        return None
    request_line, *lines = text.split(b"\r\n")
    seen: dict[bytes, bytes] = {}
    kept: list[bytes] = []
    names: dict[int, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        low, value = name.lower(), value.strip(b" \t")
        if not colon or name[:1] in (b"", b" ", b"\t"):
            return None
        if low == _LENGTH and seen.get(low) == value:
            continue
        renamed = low in _NEVER or (low in _ONCE and low in seen)
        if renamed:
            names[len(kept)] = name
        seen.setdefault(low, value)
        kept.append(_OTHER_NAME + line[len(name) :] if renamed else line)
    if not names and len(kept) == len(lines):
        return None
    return PlainHead(data=b"\r\n".join([request_line, *kept]) + END_OF_HEAD, fields=len(kept), names=names)


def may_become_plain(part: bytes) -> bool:
    """Return whether the beginning of a head has what `plain_head` changes, in the line that is cut off too."""
    seen: set[bytes] = set()
    for line in part.split(b"\r\n")[1:]:
        name, colon, _ = line.partition(b":")
        low = name.lower()
        if colon and (low in _NEVER or (low in seen and (low in _ONCE or low == _LENGTH))):
            return True
        seen.add(low)
    return False
