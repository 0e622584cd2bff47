"""The parts of prompts, in the order in which templates render them, for every dialect."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, Endpoint, Kind
from ollama_cache_proxy.policy.prompts.prompt_parts import MOST_PARTS, ORDER, Prompt, has_prompt, parts_of

BY_NAME = {row.operation: row for row in ENDPOINTS}
SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "look"}}
TOOLS = b'[{"type":"function","function":{"name":"look"}}]'
MARK = {"type": "ephemeral"}


def parts(operation: str, **body: Any) -> Prompt:
    found = parts_of(BY_NAME[operation], {"model": "tiny", **body})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("operation", "body", "texts"),
    [
        (
            "generate",
            {"prompt": "why", "system": "brief", "template": "{{ .Prompt }}"},
            ["{{ .Prompt }}", "brief", "why"],
        ),
        ("generate", {"prompt": "why", "suffix": "so"}, ["why", "so"]),
        ("v1-completions", {"suffix": "so", "prompt": "why"}, ["why", "so"]),
        ("v1-completions", {"prompt": ["one", "two"]}, [b'["one","two"]']),
        ("chat", {"messages": [SYSTEM, USER]}, ["be brief", "hello"]),
        ("chat", {"messages": [SYSTEM, USER], "tools": [TOOL]}, ["be brief", TOOLS, "hello"]),
        ("chat", {"tools": [TOOL], "messages": [USER]}, [TOOLS, "hello"]),
        (
            "v1-chat",
            {"messages": [{"role": "developer", "content": "x"}, USER], "tools": [TOOL]},
            ["x", TOOLS, "hello"],
        ),
        (
            "chat",
            {"messages": [SYSTEM, USER, SYSTEM, USER], "tools": [TOOL]},
            ["be brief", "be brief", TOOLS, "hello", "hello"],
        ),
        ("v1-messages", {"messages": [USER], "tools": [TOOL], "system": "s"}, ["s", TOOLS, "hello"]),
        (
            "v1-messages",
            {
                "messages": [USER],
                "system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": MARK}],
            },
            ["a", "b", "hello"],
        ),
        ("v1-responses", {"input": "why", "instructions": "brief", "tools": [TOOL]}, ["brief", TOOLS, "why"]),
        ("v1-responses", {"input": [USER], "instructions": "brief"}, ["brief", "hello"]),
    ],
)
def test_parts_are_in_the_order_of_templates(operation: str, body: dict[str, Any], texts: list[str | bytes]) -> None:
    assert parts(operation, **body).texts == texts


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "hello"}]}, "hello"),
        ({"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": MARK}]}, "hello"),
        ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}, "hello"),
        ({"role": "user", "content": "hello", "images": []}, b'{"role":"user","content":"hello","images":[]}'),
        (
            {"role": "user", "content": [{"type": "tool_result", "content": "x", "cache_control": MARK}]},
            b'{"role":"user","content":[{"type":"tool_result","content":"x"}]}',
        ),
        (
            {"role": "user", "content": [{"cache_control": MARK, "type": "tool_result", "content": "x"}]},
            b'{"role":"user","content":[{"type":"tool_result","content":"x"}]}',
        ),
        ({"role": "user", "content": '"cache_control":null'}, '"cache_control":null'),
        ({"role": "user"}, b'{"role":"user"}'),
        ({"role": "user", "content": None}, b'{"role":"user","content":null}'),
        (17, b"17"),
    ],
)
def test_a_message_is_its_text_or_its_json_without_marks(message: Any, text: str | bytes) -> None:
    assert parts("v1-messages", messages=[message]).texts == [text]
    assert parts("v1-messages", messages=[USER, message]).texts == ["hello", text]


def test_an_image_counts_as_little_as_it_is_given_to_the_model() -> None:
    one, other = "A" * 5000, "B" * 5000
    texts = [parts("chat", messages=[{**USER, "images": [image]}]).texts[0] for image in (one, other, one)]
    assert texts[0] == texts[2] != texts[1]
    assert len(texts[0]) < 100


def test_what_the_model_said_is_told_from_what_it_was_told() -> None:
    found = parts("chat", messages=[SYSTEM, USER, {"role": "assistant", "content": "hi"}, USER], tools=[TOOL])
    assert [found.is_answer(number) for number in range(6)] == [False, False, False, True, False, False]
    calls = parts(
        "v1-responses", input=[USER, {"type": "function_call", "name": "x"}, {"type": "function_call_output"}]
    )
    assert [calls.is_answer(number) for number in range(3)] == [False, True, False]


def test_the_leading_parts_are_those_before_the_messages() -> None:
    assert parts("v1-messages", system="s", tools=[TOOL], messages=[USER, USER]).leading() == 2
    assert parts("chat", messages=[SYSTEM, USER], tools=[TOOL]).leading() == 2
    assert parts("generate", system="s", prompt="p").leading() == 2


@pytest.mark.parametrize(
    ("operation", "document"),
    [
        ("chat", []),
        ("chat", {}),
        ("chat", {"messages": []}),
        ("chat", {"messages": {"role": "user"}}),
        ("generate", {"prompt": ""}),
        ("chat", {"messages": [USER] * (MOST_PARTS + 1)}),
    ],
)
def test_what_has_no_prompt_or_too_many_parts_is_not_looked_at(operation: str, document: Any) -> None:
    assert parts_of(BY_NAME[operation], document) is None


def test_all_conversations_have_an_order_and_nothing_else() -> None:
    spoken = {row.operation for row in ENDPOINTS if row.kind in (Kind.CHAT, Kind.COMPLETION)}
    assert set(ORDER) == spoken - {"v1-count-tokens", "v1-transcriptions"}
    embed: Endpoint = endpoints.find("POST", "/api/embed")[0]
    assert not has_prompt(embed)


def test_a_part_knows_its_message_whatever_was_moved() -> None:
    messages = [SYSTEM, {"role": "user", "content": "0"}, SYSTEM, {"role": "user", "content": "1"}, SYSTEM]
    found = parts("chat", messages=messages, tools=[TOOL])
    assert [found.value(number) for number in range(6)] == [*[SYSTEM] * 3, [TOOL], messages[1], messages[3]]
