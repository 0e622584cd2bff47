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
_ELSEWHERE: Final = _NAMING | _HOLDING | _TYPE
_MEMBERS: Final = {
    **dict.fromkeys(("content", "output"), _NESTED),
    **dict.fromkeys(("image_url", "audio_url", "video_url", "file_url", "file_id"), _NAMING),
    "file": _HOLDING,
    "source": _HOLDING | _NESTED,
    "type": _TYPE,
}
"""What members mean; all others mean nothing here."""
_NAMES: Final = frozenset({"url", "file_url", "file_id"})
"""The members of an object that name data."""
_STORED_ITEM: Final = "item_reference"
"""The type of an item of `/v1/responses` that stands for a stored one."""


def depends(endpoint: Endpoint, document: dict[str, Any]) -> bool:
    """Return whether a field, a tool or a part of a message ties the response of a chat to what is outside."""
    if any(_is_given(document.get(name)) for name in endpoint.external):
        return True
    return not _are_pure(document.get("tools")) or _refers(document.get(endpoint.prompt))


def _is_given(value: object) -> bool:
    """Return whether a field says something; an empty object does, since it stands for defaults."""
    return not (value is None or value is False or value == [])


def _are_pure(tools: Any) -> bool:
    if not tools:
        return True
    return isinstance(tools, list) and all(isinstance(tool, dict) and _is_pure(tool) for tool in tools)


def _is_pure(tool: dict[str, Any]) -> bool:
    return all(kind in (None, "", *PURE_TOOLS) for name, kind in tool.items() if name.casefold() == "type")


def _refers(messages: Any) -> bool:
    """Return whether a part of the messages stands for data that is elsewhere."""
    waiting = [messages]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += [item for item in node if isinstance(item, dict | list)]
        elif isinstance(node, dict):
            for name, value in node.items():
                meaning = _MEMBERS.get(name.casefold(), 0)
                if meaning & _ELSEWHERE and _is_elsewhere(meaning, value):
                    return True
                if meaning & _NESTED and not isinstance(value, str):
                    waiting.append(value)
    return False


def _is_elsewhere(meaning: int, value: Any) -> bool:
    """Return whether the value of such a member names data."""
    if meaning & _TYPE:
        return bool(value == _STORED_ITEM)
    if isinstance(value, dict):
        return any(part.casefold() in _NAMES and _names(item) for part, item in value.items())
    return bool(meaning & _NAMING) and _names(value)


def _names(value: Any) -> bool:
    """Return whether a text names data; a data: URL holds it."""
    return isinstance(value, str) and value != "" and not value.startswith("data:")
