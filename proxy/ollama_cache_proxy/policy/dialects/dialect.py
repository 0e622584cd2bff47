"""What a dialect tells of a response, and what all of them read alike."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, Protocol, TypeAlias

import orjson

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail

Text: TypeAlias = bytes | memoryview
"""What is large is not copied on its way from an entry into a response."""


@record
class Storable:
    """The response may be stored. Token counts are None where it does not tell them."""

    prompt_tokens: int | None
    output_tokens: int | None


@record
class NotStorable:
    """The response must not be stored, for this reason."""

    detail: Detail


Storing: TypeAlias = Storable | NotStorable


@record
class Usage:
    """Tokens, and the seconds that Ollama spent on each part; None where it did not say.

    `prompt_seconds` went into reading the prompt, `output_seconds` into writing, `load_seconds` into loading the model.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    prompt_seconds: float | None = None
    output_seconds: float | None = None
    load_seconds: float | None = None


@record
class Vectors:
    """The vectors of an embeddings response, not yet judged, and its token count, None where it is not told."""

    found: Any
    prompt_tokens: int | None


@record
class Measures:
    """What a list's response tells beside its vectors: prompt tokens, and durations in nanoseconds, 0 where untold."""

    tokens: int
    total_duration: int = 0
    load_duration: int = 0


class ListForm(Protocol):
    """How a list of vectors is written, byte for byte as Ollama writes it."""

    @property
    def content_type(self) -> bytes:
        """The response's Content-Type."""

    @property
    def begin(self) -> bytes:
        """What stands in the place of all vectors but the last one's end, so that the rest reads as JSON."""

    def tokens(self, document: dict[str, Any]) -> Any:
        """Return the token count that a response tells; raises KeyError or TypeError where it tells none."""

    def rendered(self, model: bytes, vectors: Iterable[Text], measures: Measures) -> bytes:
        """Return the whole response; `model` is a JSON string, each vector JSON text."""


class Dialect(Protocol):
    """One wire form; its modules are the implementations.

    `STREAM_TYPE` is the media type of its streams, `CREDENTIALS` are the request fields, in lower case, by which
    whoever asks is known, `LISTS` is how it writes lists of vectors, None where it has none.
    """

    @property
    def STREAM_TYPE(self) -> bytes: ...  # noqa: N802 - a module's constant
    @property
    def CREDENTIALS(self) -> tuple[bytes, ...]: ...  # noqa: N802 - likewise
    @property
    def LISTS(self) -> ListForm | None: ...  # noqa: N802 - likewise

    def whole(self, document: dict[str, Any]) -> Storing:
        """Judge the whole response of a completion or a chat, which has no error in it."""

    def vectors(self, document: dict[str, Any], member: str) -> Vectors:
        """Return the vectors that stand in this member of a response."""

    def stream(self, body: bytes) -> Storing:
        """Judge a stream that has ended; `body` is all of it."""

    def ends(self, chunk: bytes) -> bool:
        """Return whether this is the last chunk of a stream: some clients leave when they have read that."""

    def usage(self, tail: bytes) -> Usage | None:
        """Return what the last bytes of a complete response tell of the work it took; None where they tell nothing."""

    def error(self, status: int, message: str) -> bytes:
        """Return the body of an error of the proxy's own."""


INCOMPLETE: Final = NotStorable(detail=Detail.INCOMPLETE)
ANSWER_ERROR: Final = NotStorable(detail=Detail.ANSWER_ERROR)
_USAGE: Final = b'"usage":{'
_READER: Final = json.JSONDecoder()
_EMPTY: Final = Usage()


def objects(parts: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return JSON objects; an empty list where one of the parts is none."""
    try:
        read = [orjson.loads(part) for part in parts]
    except orjson.JSONDecodeError:
        return []
    return read if all(isinstance(document, dict) for document in read) else []


def events(body: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the names and objects of a stream of server-sent events; an empty list where one is of another form."""
    *blocks, rest = body.split(b"\n\n")
    if rest:
        return []
    names: list[bytes] = []
    texts: list[bytes] = []
    for block in blocks:
        first, _, second = block.partition(b"\n")
        if not first.startswith(b"event: ") or not second.startswith(b"data: ") or b"\n" in second:
            return []
        names.append(first.removeprefix(b"event: "))
        texts.append(second.removeprefix(b"data: "))
    read = objects(texts)
    return list(zip(names, read, strict=True)) if read else []


def last_event(chunk: bytes) -> bytes:
    """Return the name of the event that a chunk ends with; empty where it ends within one."""
    if not chunk.endswith(b"\n\n"):
        return b""
    name, _, _ = chunk[:-2].rpartition(b"\n\n")[2].partition(b"\n")
    return name.removeprefix(b"event: ")


def member(document: Any, name: str) -> Any:
    """Return a member, None where there is none."""
    return document.get(name) if isinstance(document, dict) else None


def count(document: Any, name: str) -> int | None:
    """Return a member that counts something; None where there is none, or it is no count."""
    value = document.get(name) if isinstance(document, dict) else None
    return value if type(value) is int and value >= 0 else None


def usage_in(tail: bytes, prompt: str, output: str) -> Usage | None:
    """Return what the last `usage` tells in these members.

    In the text that a model writes no such name can stand: there its quotes are escaped.
    """
    at = tail.rfind(_USAGE)
    if at < 0:
        return None
    document = object_at(tail[at + len(_USAGE) - 1 :])
    return unless_empty(Usage(prompt_tokens=count(document, prompt), output_tokens=count(document, output)))


def object_at(text: bytes) -> dict[str, Any]:
    """Return the object that a text begins with, whatever follows; empty where there is none."""
    try:
        found = orjson.loads(text)  # mostly nothing follows, and this is quicker
    except orjson.JSONDecodeError:
        pass
    else:
        return found if isinstance(found, dict) else {}
    try:
        found, _ = _READER.raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def unless_empty(usage: Usage) -> Usage | None:
    """Return what is told, None where that is nothing."""
    return None if usage == _EMPTY else usage
