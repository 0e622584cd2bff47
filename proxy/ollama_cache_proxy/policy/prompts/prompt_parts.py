"""The parts of a prompt, in the order in which templates render them, whatever their order in the JSON.

A part is one message, one block of a system prompt, all tools together, or one text. Where a part is plain text, it is
that text; else its JSON, without marks for caches elsewhere and with stand-ins for images. Whether two parts are the
same is all that matters here, so nothing is rendered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from ollama_cache_proxy.policy.dialects import anthropic, ollama, openai, responses
from ollama_cache_proxy.policy.dialects.dialect import Dialect
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, Endpoint, Kind

Text: TypeAlias = str | bytes
"""A part: plain text, or the JSON of what is not plain."""

MOST_PARTS: Final = 2048
"""Parts of a prompt; one with more is not looked at."""
_SYSTEM: Final = ("system", "developer")  # tuples: what is compared may be any JSON value
_ANSWERS: Final = ("assistant", "model")
_ANSWER_ITEMS: Final = ("function_call", "reasoning")
_TEXT_KINDS: Final = ("text", "input_text", "output_text")
_MARK: Final = b'"cache_control"'
_MARKS: Final = re.compile(rb',"cache_control":(?:null|\{[^{}]*\})|"cache_control":(?:null|\{[^{}]*\}),?')
_IMAGE: Final = b'"image'
_BLOB: Final = re.compile(rb"[A-Za-z0-9+/_=-]{1024,}")
_CONVERSATIONS: Final = ("messages", "input")
_TWO: Final = 2
"""Members of a plain message: its role and its content."""


Segment: TypeAlias = tuple[str, int, int | None]
"""Parts in a row that are of one member of the body: the member, the number of the first part, and that part's index
in the member, None where the whole member is one part."""


class Prompt(NamedTuple):
    """The parts of a prompt, and where they come from."""

    texts: list[Text]
    segments: Sequence[Segment]
    document: Mapping[str, Any]

    def source(self, part: int) -> tuple[str, int | None]:
        """Return the member that a part is of, and its index in that; None where it is the whole member."""
        for member, first, item in reversed(self.segments):
            if first <= part:
                return member, None if item is None else item + part - first
        raise IndexError(part)

    def value(self, part: int) -> Any:
        """Return the JSON value that a part is made of."""
        member, item = self.source(part)
        return self.document[member] if item is None else self.document[member][item]

    def is_answer(self, part: int) -> bool:
        """Return whether a part is what the model said before."""
        if not 0 < part < len(self.texts):
            return False
        value = self.value(part)
        if not isinstance(value, dict):
            return False
        return value.get("role") in _ANSWERS or ("role" not in value and value.get("type") in _ANSWER_ITEMS)

    def leading(self) -> int:
        """Return how many parts come before the first message that is not the system's."""
        for member, first, item in self.segments:
            if member in _CONVERSATIONS and item is not None and not is_system(self.value(first)):
                return first
        return len(self.texts)


class _Parts:
    """Collects parts and their segments."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.texts: list[Text] = []
        self.segments: list[Segment] = []

    def whole(self, member: str) -> None:
        """Add a member as one part, where it is not empty."""
        value = self._document.get(member)
        if value:
            self.segments.append((member, len(self.texts), None))
            self.texts.append(value if type(value) is str else dumped(value))

    def each(self, member: str, parts: list[Text], index: int = 0) -> None:
        """Add parts that are items of a member, from `index` on."""
        if parts:
            self.segments.append((member, len(self.texts), index))
            self.texts += parts


_Adding: TypeAlias = Callable[[_Parts, Mapping[str, Any]], None]


def _wholes(*members: str) -> _Adding:
    """Return what adds these members, each as one part."""

    def add(parts: _Parts, _document: Mapping[str, Any]) -> None:
        for member in members:
            parts.whole(member)

    return add


def _chat(parts: _Parts, document: Mapping[str, Any]) -> None:
    """Add the system's messages, wherever they are, the tools, and all other messages.

    Templates write `.System`, which is what all messages of the system say, and the tools behind it.
    """
    messages = document.get("messages")
    if type(messages) is not list:
        return
    texts = _texts(messages)
    first = _leading(messages)
    parts.each("messages", texts[:first])
    rest = [(number, message) for number, message in enumerate(messages[first:], first) if is_system(message)]
    for number, _ in rest:
        parts.each("messages", texts[number : number + 1], number)
    parts.whole("tools")
    begin = first
    for number, _ in (*rest, (len(messages), None)):
        parts.each("messages", texts[begin:number], begin)
        begin = number + 1


def _messages(parts: _Parts, document: Mapping[str, Any]) -> None:
    """Add a system prompt of one text or of blocks, the tools, and the messages."""
    system = document.get("system")
    if type(system) is list:
        parts.each("system", [_text(block) for block in system])
    else:
        parts.whole("system")
    parts.whole("tools")
    messages = document.get("messages")
    if type(messages) is list:
        parts.each("messages", _texts(messages))


def _responses(parts: _Parts, document: Mapping[str, Any]) -> None:
    """Add the instructions, the tools, and the items of the input, or its text."""
    parts.whole("instructions")
    parts.whole("tools")
    items = document.get("input")
    if type(items) is list:
        parts.each("input", _texts(items))
    else:
        parts.whole("input")


_ADDING: Final[Mapping[tuple[Kind, Dialect], _Adding]] = {
    (Kind.COMPLETION, ollama): _wholes("template", "system", "prompt", "suffix"),
    (Kind.COMPLETION, openai): _wholes("prompt", "suffix"),
    (Kind.CHAT, ollama): _chat,
    (Kind.CHAT, openai): _chat,
    (Kind.CHAT, responses): _responses,
    (Kind.CHAT, anthropic): _messages,
}
"""What adds the parts of a prompt. All other endpoints have no prompt that begins like others."""
ORDER: Final[Mapping[str, _Adding]] = {
    row.operation: _ADDING[row.kind, row.dialect] for row in ENDPOINTS if (row.kind, row.dialect) in _ADDING
}
"""The same by operation."""


def has_prompt(endpoint: Endpoint) -> bool:
    """Return whether the requests of an endpoint have a prompt of which Ollama may have worked on the beginning."""
    return endpoint.operation in ORDER


def parts_of(endpoint: Endpoint, document: Any) -> Prompt | None:
    """Return the parts of a prompt; None where it has none, or too many."""
    if type(document) is not dict:
        return None
    parts = _Parts(document)
    try:
        ORDER[endpoint.operation](parts, document)
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return None
    if not 0 < len(parts.texts) <= MOST_PARTS:
        return None
    return Prompt(parts.texts, parts.segments, document)


def _leading(messages: Sequence[Any]) -> int:
    """Return how many messages at the beginning are the system's."""
    return next((number for number, message in enumerate(messages) if not is_system(message)), len(messages))


def is_system(message: Any) -> bool:
    """Return whether a message of a chat, which may be any JSON value, is the system's."""
    return type(message) is dict and message.get("role") in _SYSTEM


def _texts(values: Sequence[Any]) -> list[Text]:
    """Return the part that each message, block or item is."""
    try:  # nearly all of them are plain messages, mostly
        return [
            content if len(value) == _TWO and type(content := value["content"]) is str else _text(value)
            for value in values
        ]
    except (KeyError, TypeError):
        return [_text(value) for value in values]


def _text(value: Any) -> Text:
    """Return the part that any message, block or item is."""
    if type(value) is dict:
        found = plain(value)
        if found is not None:
            return found[1]
    return dumped(value)


def plain(value: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the path and the text of what is one text alone; None where there is more to it.

    A list of one text is rendered as that text is: some clients write one message now so, now so.
    """
    content = value.get("content")
    if content is None:
        text = value.get("text")
        return (".text", text) if type(text) is str and value.get("type") in _TEXT_KINDS else None
    if len(value) > _TWO and not (len(value) == _TWO + 1 and value.get("type") == "message"):
        return None
    if type(content) is str:
        return ".content", content
    if type(content) is list and len(content) == 1 and type(content[0]) is dict:
        text = content[0].get("text")
        if type(text) is str and content[0].get("type") in _TEXT_KINDS:
            return ".content[0].text", text
    return None


def dumped(value: Any) -> bytes:
    """Return the JSON of a value, without marks for caches elsewhere, and with stand-ins for images."""
    data = orjson.dumps(value)
    if _MARK in data:
        data = _MARKS.sub(b"", data)
    return _BLOB.sub(_stand_in, data) if _IMAGE in data else data


def _stand_in(blob: re.Match[bytes]) -> bytes:
    """Return what stands for an image: it is given to the model as a fixed number of tokens."""
    return b"%016x" % (hash(blob[0]) & 0xFFFF_FFFF_FFFF_FFFF)
