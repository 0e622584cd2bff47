"""The JSON path of a place: no name that a client chose is in it."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.prompts.prompt_parts import parts_of
from ollama_cache_proxy.policy.prompts.prompt_places import Place, Where, place

BY_NAME = {row.operation: row for row in ENDPOINTS}
HERE = "here" + "·" * 40
LONG = "x" * 200
USER = {"role": "user", "content": "hello"}


def found(operation: str, **body: Any) -> Place:
    """Return the place of the block in which HERE begins."""
    prompt = parts_of(BY_NAME[operation], {"model": "tiny", **body})
    assert prompt is not None
    for part, text in enumerate(prompt.texts):
        at = (text.encode() if isinstance(text, str) else text).find(b"here")
        if at >= 0:
            return place(prompt, part, at // 64)
    raise AssertionError


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        ("generate", {"prompt": LONG + HERE}, Place(Where.PROMPT, "prompt", 192)),
        ("generate", {"prompt": "why", "system": HERE}, Place(Where.SYSTEM, "system", 0)),
        (
            "v1-messages",
            {"system": [{"type": "text", "text": "x" * 250 + HERE}], "messages": [USER]},
            Place(Where.SYSTEM, "system[0].text", 192),
        ),
        (
            "v1-messages",
            {"system": "s", "messages": [USER, {"role": "user", "content": HERE}]},
            Place(Where.MESSAGES, "messages[1].content", 0),
        ),
        (
            "v1-messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": HERE}]}]},
            Place(Where.MESSAGES, "messages[0].content[0].text", 0),
        ),
        (
            "chat",
            {"messages": [{"role": "system", "content": LONG + HERE}, USER]},
            Place(Where.SYSTEM, "messages[0].content", 192),
        ),
        (
            "chat",
            {
                "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": HERE}],
                "tools": [{"type": "function"}],
            },
            Place(Where.MESSAGES, "messages[1].content", 0),
        ),
        ("v1-responses", {"instructions": HERE, "input": "why"}, Place(Where.SYSTEM, "instructions", 0)),
        (
            "v1-responses",
            {"input": [USER, {"role": "user", "content": HERE}]},
            Place(Where.MESSAGES, "input[1].content", 0),
        ),
    ],
)
def test_a_plain_text_has_a_path_and_a_block(operation: str, body: dict[str, Any], expected: Place) -> None:
    assert found(operation, **body) == expected


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": LONG + HERE}], "messages[0].content[1].text"),
        (
            [{"type": "tool_use", "input": {"secret name": {"type": LONG + HERE}}}, {}],
            "messages[0].content[0].input.….type",
        ),
        ([{"type": "x", "other": LONG + HERE}, {}], "messages[0].content[0].…"),
        ([{"text": 'a "quoted" {[,: text', "data": LONG + HERE}, {}], "messages[0].content[0].data"),
        ([[[], [{}], {"a": [1, 2]}, [LONG + HERE]], 1], "messages[0].content[0][3][0]"),
    ],
)
def test_a_path_goes_into_json_and_hides_names_that_a_client_chose(value: Any, path: str) -> None:
    seen = found("v1-messages", messages=[{"role": "user", "content": value}])
    assert seen.path == path
    assert seen.where is Where.MESSAGES


def test_a_block_that_begins_before_a_text_is_the_texts() -> None:
    """As where a tool's result is left out of the history later: it stands behind its id."""
    result = {"type": "tool_result", "tool_use_id": "call_0123", "content": HERE + LONG}
    seen = found("v1-messages", messages=[{"role": "user", "content": [result]}])
    assert (seen.path, seen.at) == ("messages[0].content[0].content", 0)


def test_a_path_into_tools() -> None:
    tools = [
        {"type": "function", "function": {"name": "a", "parameters": {"properties": {"p": {"description": "x"}}}}},
        {
            "type": "function",
            "function": {"name": "b", "parameters": {"properties": {"type": {"description": LONG + HERE}}}},
        },
    ]
    seen = found("chat", messages=[USER], tools=tools)
    assert (seen.where, seen.path) == (Where.TOOLS, "tools[1].function.parameters.properties.….description")
    assert seen.at in (128, 192)
