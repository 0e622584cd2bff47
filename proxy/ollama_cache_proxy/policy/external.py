"""Whether a response would depend on what is outside of the request and its model.

Ollama searches the web for tools whose type begins with `web_search` (`middleware/anthropic.go`, 0.24; `/v1/responses`
too: `middleware/openai.go`, 0.33). It refuses URLs of images and ids of files, and ignores stored conversations
(`openai/responses.go`); a server that speaks its API may have them. Names are compared without regard to case, as Go
reads them.
"""

from __future__ import annotations

from typing import Any, Final

from ollama_cache_proxy.policy.endpoints import Endpoint

PURE_TOOLS: Final = ("function", "custom")
"""The types of tools that the client runs; any other may be run by the server, such as `web_search_20250305`, `mcp`."""

_NESTED: Final = 1
"""The member of a message, or of a block in it, holds more blocks."""
_NAMING: Final = 2
"""It may name data instead of holding it: by a text, or by a member of an object."""
_HOLDING: Final = 4
"""It may name data by a member of an object; a text is a title."""
_TYPE: Final = 8
_STORED: Final = 16
"""It names what was said before, by the id in an object."""
_ELSEWHERE: Final = _NAMING | _HOLDING | _TYPE | _STORED
_MEMBERS: Final = {
    **dict.fromkeys(("content", "output"), _NESTED),
    **dict.fromkeys(("image_url", "audio_url", "video_url", "file_url", "file_id"), _NAMING),
    "file": _HOLDING,
    "source": _HOLDING | _NESTED,
    "type": _TYPE,
    "audio": _STORED,
}
"""What members mean; all others mean nothing here."""
_NAMES: Final = frozenset({"url", "file_url", "file_id"})
"""The members of an object that name data."""
_STORED_ITEM: Final = "item_reference"
"""The type of an item of `/v1/responses` that stands for a stored one; it may be left out."""
_REFERENCE: Final = frozenset({"id", "type"})
"""All the members that such an item has."""
_SAID: Final = frozenset({"system", "instructions"})
"""Members of a request that may hold messages or blocks, beside its prompt."""


def depends(endpoint: Endpoint, document: dict[str, Any]) -> bool:
    """Return whether a field, a tool or a part of a message ties the response of a chat to what is outside."""
    said = [document.get(endpoint.prompt)]
    for name, value in document.items():
        folded = name.casefold()
        if folded in endpoint.external and _is_given(value):
            return True
        if folded in _SAID:
            said.append(value)
    return not _are_pure(document.get("tools")) or _refers(said)


def _is_given(value: object) -> bool:
    """Return whether a field says something; an empty object does, since it stands for defaults."""
    return not (value is None or value is False or value == [])


def _are_pure(tools: Any) -> bool:
    if not tools:
        return True
    return isinstance(tools, list) and all(isinstance(tool, dict) and _is_pure(tool) for tool in tools)


def _is_pure(tool: dict[str, Any]) -> bool:
    return all(kind in (None, "", *PURE_TOOLS) for name, kind in tool.items() if name.casefold() == "type")


def _refers(waiting: list[Any]) -> bool:
    """Return whether a part of what is said stands for data that is elsewhere. The list is used up."""
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += [item for item in node if isinstance(item, dict | list)]
        elif isinstance(node, dict):
            if _is_reference(node):
                return True
            for name, value in node.items():
                meaning = _MEMBERS.get(name.casefold(), 0)
                if meaning & _ELSEWHERE and _is_elsewhere(meaning, value):
                    return True
                if meaning & _NESTED and not isinstance(value, str):
                    waiting.append(value)
    return False


def _is_reference(node: dict[str, Any]) -> bool:
    """Return whether an item is nothing but the id of another one."""
    if len(node) > len(_REFERENCE):
        return False
    found = {name.casefold(): value for name, value in node.items()}
    return found.keys() <= _REFERENCE and _names(found.get("id")) and found.get("type") is None


def _is_elsewhere(meaning: int, value: Any) -> bool:
    """Return whether the value of such a member names data."""
    if meaning & _TYPE:
        return bool(value == _STORED_ITEM)
    if meaning & _STORED:
        return isinstance(value, dict) and any(part.casefold() == "id" and _names(item) for part, item in value.items())
    if isinstance(value, dict):
        return any(part.casefold() in _NAMES and _names(item) for part, item in value.items())
    return bool(meaning & _NAMING) and _names(value)


def _names(value: Any) -> bool:
    """Return whether a text names data; a data: URL holds it."""
    return isinstance(value, str) and value != "" and not value.startswith("data:")
