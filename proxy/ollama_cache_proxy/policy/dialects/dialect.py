"""The Protocol of dialects, its values, and what several dialects share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import orjson

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import A_STEP, Steps

Text: TypeAlias = bytes | memoryview
"""JSON text of a vector; a memoryview saves a copy from an entry into a response."""


@record
class Storable:
    """The response may be stored. Token counts are None where it has none."""

    prompt_tokens: int | None
    output_tokens: int | None


@record
class NotStorable:
    """The response must not be stored, for this reason."""

    detail: Detail


Storing: TypeAlias = Storable | NotStorable


@record
class Usage:
    """Ollama's work for one response. Each figure is None where the response does not have it."""

    prompt_tokens: int | None = None
    """All of the prompt, with those that came from Ollama's prompt cache."""
    cached_tokens: int | None = None
    """Those of them that came from Ollama's prompt cache; at most `prompt_tokens`."""
    output_tokens: int | None = None
    prompt_seconds: float | None = None
    """For computing the prompt, without those from the prompt cache."""
    output_seconds: float | None = None
    """For writing the output."""
    load_seconds: float | None = None
    """For loading the model."""

    @property
    def computed_tokens(self) -> int | None:
        """Return the prompt tokens that did not come from the prompt cache."""
        if self.prompt_tokens is None or self.cached_tokens is None:
            return None
        return self.prompt_tokens - self.cached_tokens


@record
class Vectors:
    """The vectors of an embeddings response, not yet checked, and its token count, None where it has none."""

    found: Any
    prompt_tokens: int | None


@record
class Measures:
    """What the response to a list has beside its vectors."""

    tokens: int
    """Prompt tokens."""
    total_duration: int = 0
    """Nanoseconds; 0 where the response has none."""
    load_duration: int = 0
    """Likewise."""


class ListForm(Protocol):
    """How a list of vectors is written, byte for byte as Ollama writes it."""

    @property
    def content_type(self) -> bytes:
        """The response's Content-Type."""

    @property
    def begin(self) -> bytes:
        """What replaces everything up to the end of the last vector, so that the rest can be read as JSON."""

    def tokens(self, document: dict[str, Any]) -> Any:
        """Return the token count of a response. Raises KeyError or TypeError where it has none."""

    def parts(self, model: bytes, vectors: Iterable[Text], measures: Measures) -> Sequence[Text]:
        """Return the whole response in parts; `model` is a JSON string, each vector JSON text."""


class Dialect(Protocol):
    """One wire form; the modules of this folder implement it."""

    @property
    def WHOLE_TYPES(self) -> tuple[bytes, ...]:  # noqa: N802 - a module's constant
        """The media types of its whole responses; of one in plain text `text/plain` is in the place of JSON's."""

    @property
    def STREAM_TYPE(self) -> bytes:  # noqa: N802 - likewise
        """The media type of its streams."""

    @property
    def STREAM_DIRECTIVES(self) -> tuple[bytes, ...]:  # noqa: N802 - likewise
        """The response directives that Ollama gives every stream, whatever is in it: they forbid nothing."""

    @property
    def LISTS(self) -> ListForm | None:  # noqa: N802 - likewise
        """How it writes lists of vectors; None where it has none."""

    def failed(self, document: dict[str, Any]) -> bool:
        """Return whether a whole response holds an error."""

    def whole(self, document: dict[str, Any]) -> Storing:
        """Return whether a whole completion or chat may be stored; it has not failed."""

    def vectors(self, document: dict[str, Any], member: str) -> Vectors:
        """Return the vectors in this member of a response."""

    def stream(self, body: bytes) -> Steps[Storing]:
        """Return whether a stream that has ended may be stored, in steps; `body` is all of it."""

    def ends(self, chunk: bytes) -> bool:
        """Return whether this is the last chunk of a stream: some clients leave after that one."""

    def usage(self, tail: bytes) -> Usage | None:
        """Return the usage from the last bytes of a complete response; None where there is none."""

    def error(self, status: int, message: str) -> bytes:
        """Return the body of an error of the proxy's own."""


JSON_TYPES: Final = (b"application/json",)
INCOMPLETE: Final = NotStorable(detail=Detail.INCOMPLETE)
ANSWER_ERROR: Final = NotStorable(detail=Detail.ANSWER_ERROR)
_USAGE: Final = b'"usage":{'
_SPACED_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
"""As some other servers write it."""
_READER: Final = json.JSONDecoder()
_EMPTY: Final = Usage()


def objects(parts: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the JSON objects in `parts`; an empty list where one of them is no object."""
    try:
        read = [orjson.loads(part) for part in parts]
    except orjson.JSONDecodeError:
        return []
    return read if all(isinstance(document, dict) for document in read) else []


def split(body: bytes, end: bytes) -> Iterator[list[bytes]]:
    """Yield the parts of a stream, without the `end` of each: a list a step, the last one empty where it is torn."""
    if len(body) <= _IN_ONE_STEP:
        *found, rest = body.split(end)
        yield [] if rest else found
        return
    found, begin, step = [], 0, 0
    while (at := body.find(end, begin)) >= 0:
        found.append(body[begin:at])
        begin = at + len(end)
        if len(found) == A_STEP or begin - step > _IN_ONE_STEP:
            yield found
            found, step = [], begin
    if found or begin < len(body):
        yield found if begin == len(body) else []


_IN_ONE_STEP: Final = 1 << 16
"""Bytes of a stream that are read in one step."""


def events(blocks: Sequence[bytes]) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the names and objects of server-sent events; an empty list where one is of another form."""
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
    """Return the name of the event with which a chunk ends; empty where it ends inside of one."""
    if not chunk.endswith(b"\n\n"):
        return b""
    name, _, _ = chunk[:-2].rpartition(b"\n\n")[2].partition(b"\n")
    return name.removeprefix(b"event: ")


def member(document: Any, name: str) -> Any:
    """Return a member of an object; None where there is none."""
    return document.get(name) if isinstance(document, dict) else None


def has_error(document: dict[str, Any]) -> bool:
    """Return whether a response has an `error`; null is none."""
    return document.get("error") is not None


def no_vectors(_document: dict[str, Any], _member: str) -> Vectors:
    """Return that there are no vectors, for a dialect without embeddings."""
    return Vectors(found=None, prompt_tokens=None)


def no_stream(_body: bytes) -> Steps[Storing]:
    """Return that nothing is stored of a stream, for a dialect without streams."""
    yield
    return INCOMPLETE


def no_end(_chunk: bytes) -> bool:
    """Return that no chunk ends a stream, likewise."""
    return False


def no_usage(_tail: bytes) -> Usage | None:
    """Return that nothing is told of Ollama's work."""
    return None


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def count(document: Mapping[str, Any], name: str) -> int | None:
    """Return a member that is a count; None where there is none, or it is something else."""
    value = document.get(name)
    return value if type(value) is int and value >= 0 else None


def cached(document: dict[str, Any], name: str, prompt_tokens: int | None) -> int | None:
    """Return a count of cached prompt tokens; None where it is not told, or more than the whole prompt."""
    found = count(document, name)
    return found if found is not None and prompt_tokens is not None and found <= prompt_tokens else None


def last_usage(tail: bytes) -> dict[str, Any]:
    """Return the last `usage` in the last bytes of a response; empty where there is none.

    A model's own text cannot contain that name, since quotes are escaped there.
    """
    at = last_member(tail, _USAGE, _SPACED_USAGE)
    return {} if at < 0 else object_at(tail[tail.index(b"{", at) :])


def last_member(tail: bytes, compact: bytes, spaced: re.Pattern[bytes]) -> int:
    """Return where a member begins for the last time, as Ollama writes it, else with blanks; -1 where it is not."""
    at = tail.rfind(compact)
    return at if at >= 0 else max((found.start() for found in spaced.finditer(tail)), default=-1)


def object_at(text: bytes) -> dict[str, Any]:
    """Return the JSON object with which a text begins, whatever follows; empty where there is none."""
    try:
        found = orjson.loads(text)  # mostly nothing follows, and this is faster
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
    """Return the usage; None where it has no figures."""
    return None if usage == _EMPTY else usage
