"""Reading a multipart/form-data body only where Go's mime/multipart must read the same (RFC 7578; RFC 2046, 5.1).

The boundary may stand at the delimiters only, nothing before the first or after the last. Each part has a name of its
own that Ollama reads, and no header fields but Content-Disposition and Content-Type, in their plainest form. When in
doubt the result is a `Detail`, and the request is a bypass.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, Final

from ollama_cache_proxy.policy.messages import Fields, values
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps, finish

_TOKEN: Final = rb"[0-9A-Za-z!#$&'+.^_`{|}~-]"
_TYPE: Final = re.compile(
    rb"(?i:multipart/form-data)[ \t]*;[ \t]*(?i:boundary)="
    rb'(?:(?P<token>[0-9A-Za-z\'+_.-]{1,70})|"(?P<quoted>[0-9A-Za-z\'()+_,./:=?-]{1,70})")'
)
_LINE: Final = re.compile(rb"(?P<name>[A-Za-z-]+):[ ]?(?P<value>[^\x00-\x1f\x7f]*)")
_DISPOSITION: Final = re.compile(
    rb'form-data; name=(?:"(?P<quoted>[0-9A-Za-z_]+)"|(?P<token>[0-9A-Za-z_]+))'
    rb'(?:; filename=(?:"(?P<file>[^"\\]+)"|(?P<bare>' + _TOKEN + rb"+)))?"
)
_MAX_HEAD: Final = 1024
"""Bytes of a part's header section."""
_HASHED: Final = 1 << 20
"""Bytes of a file that are hashed in one step."""


def read(fields: Fields, body: bytes, known: frozenset[str]) -> dict[str, Any] | Detail:
    """Return what `read_in_steps` does, in one step."""
    return finish(read_in_steps(fields, body, known))


def read_in_steps(fields: Fields, body: bytes, known: frozenset[str]) -> Steps[dict[str, Any] | Detail]:
    """Return the parts by name: a text, or for a file an object with its name, type, size and SHA-256.

    `fields` are those of the request; `known` are the names that Ollama reads. The type of a part that is no file
    stands beside it, under its name with `:type`, which no part can have.
    """
    boundary = _boundary(values(fields, b"content-type"))
    pieces = None if boundary is None else (yield from _pieces(body, boundary, len(known)))
    if pieces is None:
        return Detail.MULTIPART
    document: dict[str, Any] = {}
    for piece in pieces:
        part = yield from _part(piece)
        if part is None or part.keys() & document.keys() or next(iter(part)) not in known:
            return Detail.MULTIPART
        document |= part
    return document


def _boundary(types: list[bytes]) -> bytes | None:
    """Return the boundary; one that ends with a hyphen is not told from the end of the last delimiter."""
    match = _TYPE.fullmatch(types[0].strip(b" \t")) if len(types) == 1 else None
    boundary = match and (match["token"] or match["quoted"])
    return None if boundary is None or boundary.endswith(b"-") else boundary


def _pieces(body: bytes, boundary: bytes, limit: int) -> Steps[list[memoryview] | None]:
    """Return what stands between the delimiters.

    None where that are more than `limit`, where the boundary stands elsewhere too, or where something is around them.
    """
    mark = b"--" + boundary
    delimiter = b"\r\n" + mark
    if not body.startswith(mark + b"\r\n"):
        return None
    pieces: list[memoryview] = []
    view, begin = memoryview(body), len(mark) + 2
    while len(pieces) <= limit and (end := body.find(delimiter, begin)) >= 0:
        pieces.append(view[begin:end])
        begin = end + len(delimiter) + 2
        if body[begin - 2 : begin] != b"\r\n":
            break
        yield
    is_closed = body[begin - 2 :] in (b"--", b"--\r\n")
    yield
    return pieces if is_closed and body.count(mark) == len(pieces) + 1 else None


def _part(piece: memoryview) -> Steps[dict[str, Any] | None]:
    """Return the members of a document for one part, the one under its name first; None where it is in doubt."""
    head, blank, _ = bytes(piece[: _MAX_HEAD + 4]).partition(b"\r\n\r\n")
    lines = [_LINE.fullmatch(line) for line in head.split(b"\r\n")] if blank else []
    found = {line["name"].lower(): line["value"] for line in lines if line is not None}
    disposition = _DISPOSITION.fullmatch(found.pop(b"content-disposition", b""))
    kind = found.pop(b"content-type", None)
    if disposition is None or found or len(lines) != 1 + (kind is not None):
        return None
    content = piece[len(head) + len(blank) :]
    name, file = disposition["quoted"] or disposition["token"], disposition["file"] or disposition["bare"]
    try:
        value = str(content, "utf-8") if file is None else (yield from _file(file.decode(), kind, content))
        kinds = {} if file is not None or kind is None else {f"{name.decode()}:type": kind.decode()}
    except UnicodeDecodeError:
        return None
    return {name.decode(): value} | kinds


def _file(name: str, kind: bytes | None, content: memoryview) -> Steps[dict[str, Any]]:
    digest = sha256()
    for begin in range(0, len(content), _HASHED):
        digest.update(content[begin : begin + _HASHED])
        yield
    return {
        "filename": name,
        "type": None if kind is None else kind.decode(),
        "size": len(content),
        "sha256": digest.hexdigest(),
    }
