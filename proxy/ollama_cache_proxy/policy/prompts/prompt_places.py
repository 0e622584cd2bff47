"""The JSON path of a place in a prompt, and the class of paths that it is counted under.

A path has the names that Ollama's request types define. A name that the client chose, such as that of a parameter of a
tool, shows as `…`, so that nothing of a prompt is in a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from ollama_cache_proxy.policy.outline import masked
from ollama_cache_proxy.policy.prompts.prompt_parts import Prompt, is_system, plain
from ollama_cache_proxy.policy.prompts.prompt_prints import BLOCK


class Where(StrEnum):
    """The part of a prompt in which a place is; a label of a metric."""

    SYSTEM = "system"
    TOOLS = "tools"
    MESSAGES = "messages"
    PROMPT = "prompt"


class Place(NamedTuple):
    """A place in a prompt."""

    where: Where
    path: str
    """Of the text that it is in, such as `system[0].text`."""
    at: int
    """Where in that text its block of 64 bytes begins."""


_CHOSEN: Final = "…"
_NAMES: Final = frozenset(
    {
        *("additionalProperties", "allOf", "anyOf", "arguments", "call_id", "content", "data", "default", "defs"),
        *("description", "enum", "file", "format", "function", "id", "image", "image_url", "images", "input"),
        *("input_schema", "instructions", "is_error", "items", "maximum", "messages", "minimum", "model", "name"),
        *("oneOf", "output", "parameters", "partial", "properties", "prompt", "required", "role", "signature"),
        *("source", "status", "strict", "suffix", "summary", "system", "template", "text", "thinking", "title"),
        *("tool_call_id", "tool_calls", "tool_name", "tool_use_id", "tools", "type", "url"),
    }
)
_SAYING: Final = (".content", ".text", ".description", ".output", ".thinking", ".arguments")
"""How paths of texts end, which are more likely to differ than what stands around them."""
_VALUE: Final = re.compile(rb'":"')
_BY_CLIENT: Final = frozenset({"properties", "defs", "arguments", "input"})
"""Members of whose own members a client chose the names."""
_CLOSED: Final = re.compile(rb"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}")
_OPENING: Final = re.compile(rb"[\[{]")
_ARRAY: Final = ord("[")


def place(prompt: Prompt, part: int, block: int) -> Place:
    """Return the place of a block of a part, by its number."""
    (member, item), text = prompt.source(part), prompt.texts[part]
    base = member if item is None else f"{member}[{item}]"
    where = _where(prompt, part, member)
    offset = block * BLOCK
    if isinstance(text, str):
        found = plain(prompt.value(part)) if item is not None else None
        return Place(where, base + (found[0] if found is not None else ""), offset)
    inner, begin = _inner(text, offset, member)
    if not inner.endswith(_SAYING):  # a block may begin in what is in front of the text that differs
        texts = (_inner(text, found.end(), member) for found in _VALUE.finditer(text, offset, offset + BLOCK))
        inner, begin = next((one for one in texts if one[0].endswith(_SAYING)), (inner, begin))
    return Place(where, base + inner, (offset - begin) // BLOCK * BLOCK if offset > begin else 0)


def _where(prompt: Prompt, part: int, member: str) -> Where:
    if member in ("system", "instructions", "template"):
        return Where.SYSTEM
    if member == "tools":
        return Where.TOOLS
    if member in ("prompt", "suffix"):
        return Where.PROMPT
    return Where.SYSTEM if is_system(prompt.value(part)) else Where.MESSAGES


def _inner(text: bytes, offset: int, member: str) -> tuple[str, int]:
    """Return the path at which an offset of a JSON text is, and where the value there begins."""
    before = masked(text[: offset + 1])
    pieces = before.split(b'"')
    inside = len(pieces) % 2 == 0
    structure = b'"'.join(pieces[::2]) + (b'"' if inside else b"")
    path, chosen = "", member in _BY_CLIENT
    for name in _open_names(structure, pieces):
        if isinstance(name, int):
            path += f"[{name}]"
        else:
            path += f".{_CHOSEN if chosen or name not in _NAMES else name}"
            chosen = name in _BY_CLIENT
    return path, len(before) - len(pieces[-1]) if inside else len(before)


def _open_names(structure: bytes, pieces: list[bytes]) -> Iterator[str | int]:
    """Yield the names and indexes of the values that are open at the end of `structure`, from the outermost on.

    Each string is one quote there; `pieces` are what stands between quotes, so that every second one is a string.
    """
    while _CLOSED.search(structure):  # what has closed is replaced by its quotes, so that strings can still be counted
        structure = _CLOSED.sub(lambda found: b'"' * found[0].count(b'"'), structure)
    openings = [found.start() for found in _OPENING.finditer(structure)]
    for begin, end in pairwise([*openings, len(structure)]):
        level = structure[begin + 1 : end]
        if structure[begin] == _ARRAY:
            yield level.count(b",")
        elif b":" in (member := level.rpartition(b",")[2]):
            number = structure[: end - len(member)].count(b'"')
            yield pieces[2 * number + 1].decode("utf-8", "replace")
