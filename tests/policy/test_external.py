from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.endpoints import REUSABLE, Endpoint, Kind, find
from ollama_cache_proxy.policy.external import depends

CHAT, V1_CHAT, RESPONSES, MESSAGES = "/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages"
COUNT = "/v1/messages/count_tokens"
PICTURE = "data:image/png;base64,aGk="
ADDRESS = "https://example.org/cat.png"

each_chat = pytest.mark.parametrize("path", [row.path for row in REUSABLE if row.kind is Kind.CHAT])


def row(path: str) -> Endpoint:
    return find("POST", path)[0]


def of_block(path: str, block: dict[str, Any]) -> bool:
    message = {"role": "user", "content": [{"type": "text", "text": "what is it?"}, block]}
    return depends(row(path), {"model": "m", row(path).prompt: [message]})


@each_chat
@pytest.mark.parametrize(
    ("tools", "external"),
    [
        *((tools, False) for tools in (None, [], [{}], [{"name": "f"}], [{"type": None}], [{"type": ""}])),
        *(([{"type": kind, "name": "f"}], False) for kind in ("function", "custom")),
        ([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], False),
        (
            [{"name": "web_search", "input_schema": {"type": "object", "properties": {"url": {"type": "string"}}}}],
            False,
        ),
        *(
            ([{"type": "function", "name": "f"}, {"type": kind}], True)
            for kind in (
                *("web_search", "web_search_20250305", "web_search_preview", "web_fetch_20250910", "namespace", "mcp"),
                *("file_search", "code_interpreter", "code_execution_20250825", "computer_use_preview", "Function"),
                *(0, [], {}, ["function"]),
            )
            if kind != 0
        ),
        ([{"Type": "web_search_20250305"}], True),
        ([{"type": "function", "TYPE": "web_search_20250305"}], True),
        (["web_search"], True),
        ({"type": "web_search"}, True),
        ("web_search", True),
        (7, True),
    ],
    ids=repr,
)
def test_only_tools_that_the_client_runs_are_pure(path: str, tools: Any, *, external: bool) -> None:
    assert depends(row(path), {"tools": tools}) is external


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *((RESPONSES, name) for name in ("previous_response_id", "conversation", "prompt", "store", "background")),
        *(
            (path, name)
            for path in (MESSAGES, COUNT)
            for name in ("container", "mcp_servers", "thread", "diagnostics", "fallbacks")
        ),
        (V1_CHAT, "web_search_options"),
    ],
)
def test_a_field_that_ties_it_to_what_is_outside(path: str, name: str) -> None:
    for value in ("x", {"id": "x"}, {}, [{"type": "url"}], True, 1, ""):
        assert depends(row(path), {name: value}) is True
        assert depends(row(path), {name.title(): value}) is True, "names are read without regard to case"
    for value in (None, False, []):
        assert depends(row(path), {name: value}) is False


@pytest.mark.parametrize("path", [CHAT, V1_CHAT, MESSAGES])
def test_elsewhere_such_a_field_says_nothing(path: str) -> None:
    assert depends(row(path), {"store": True, "previous_response_id": "x", "background": True}) is False


@pytest.mark.parametrize(
    ("path", "block", "external"),
    [
        (V1_CHAT, {"type": "image_url", "image_url": {"url": PICTURE}}, False),
        (V1_CHAT, {"type": "image_url", "image_url": PICTURE}, False),
        (V1_CHAT, {"type": "image_url", "image_url": {"url": ADDRESS}}, True),
        (V1_CHAT, {"type": "image_url", "image_url": ADDRESS}, True),
        (V1_CHAT, {"type": "image_url", "image_url": ""}, False),
        (V1_CHAT, {"type": "image_url", "image_url": {"URL": "HTTP://example.org"}}, True),
        (V1_CHAT, {"type": "image_url", "Image_URL": {"url": "file:///etc/passwd"}}, True),
        (V1_CHAT, {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}, False),
        (V1_CHAT, {"type": "audio_url", "audio_url": {"url": ADDRESS}}, True),
        (V1_CHAT, {"type": "text", "text": "x", "id": "x"}, False),
        (V1_CHAT, {"type": "video_url", "video_url": {"url": ADDRESS}}, True),
        (V1_CHAT, {"type": "file", "file": {"file_id": "f"}}, True),
        (V1_CHAT, {"type": "file", "file": {"file_url": ADDRESS}}, True),
        (V1_CHAT, {"type": "file", "file": {"filename": "a.pdf", "file_data": PICTURE}}, False),
        (V1_CHAT, {"type": "file", "file": {"file_data": PICTURE, "image_url": ADDRESS}}, False),
        (V1_CHAT, {"type": "text", "text": ADDRESS, "url": ADDRESS}, False),
        (RESPONSES, {"type": "input_image", "detail": "auto", "image_url": PICTURE}, False),
        (RESPONSES, {"type": "input_image", "image_url": ADDRESS}, True),
        (RESPONSES, {"type": "input_image", "file_id": "f"}, True),
        (RESPONSES, {"type": "input_image", "file_id": None, "image_url": PICTURE}, False),
        (RESPONSES, {"type": "input_file", "file_url": ADDRESS}, True),
        (RESPONSES, {"type": "input_file", "file_data": PICTURE, "filename": "a"}, False),
        (MESSAGES, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}, False),
        (MESSAGES, {"type": "image", "source": {"type": "url", "url": ADDRESS}}, True),
        (MESSAGES, {"type": "image", "\u017fource": {"type": "url", "url": ADDRESS}}, True),
        (MESSAGES, {"type": "document", "source": {"type": "file", "file_id": "f"}}, True),
        (MESSAGES, {"type": "document", "source": {"type": "text", "data": "x"}}, False),
        (MESSAGES, {"type": "document", "source": {"content": [{"type": "text", "text": "x"}]}}, False),
        (
            MESSAGES,
            {"source": {"type": "content", "content": [{"type": "image", "source": {"type": "url", "url": ADDRESS}}]}},
            True,
        ),
        (MESSAGES, {"type": "search_result", "source": ADDRESS, "title": "t", "content": []}, False),
        (MESSAGES, {"type": "container_upload", "file_id": "f"}, True),
        (MESSAGES, {"type": "tool_use", "id": "t", "name": "fetch", "input": {"url": ADDRESS, "file_id": "f"}}, False),
        (MESSAGES, {"type": "tool_result", "tool_use_id": "t", "content": ADDRESS}, False),
        (
            MESSAGES,
            {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": ADDRESS}}]},
            True,
        ),
        (
            MESSAGES,
            {"type": "web_search_tool_result", "content": [{"type": "web_search_result", "url": ADDRESS}]},
            False,
        ),
    ],
    ids=repr,
)
def test_a_block_that_names_data_instead_of_holding_it(path: str, block: dict[str, Any], *, external: bool) -> None:
    assert of_block(path, block) is external


@pytest.mark.parametrize(
    ("item", "external"),
    [
        ({"type": "item_reference", "id": "x"}, True),
        ({"id": "x"}, True),
        ({"ID": "x", "type": None}, True),
        ({"id": "x", "type": "message", "role": "user", "content": "hello"}, False),
        ({"id": "x", "role": "user", "content": "hello"}, False),
        ({"id": None}, False),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"url": "https://example.org"}'}, False),
        ({"type": "function_call_output", "call_id": "c", "output": ADDRESS}, False),
        ({"type": "function_call_output", "output": [{"type": "input_image", "image_url": ADDRESS}]}, True),
        ({"type": "function_call_output", "output": [{"type": "input_image", "image_url": PICTURE}]}, False),
        ({"type": "message", "role": "user", "content": "see https://example.org"}, False),
    ],
    ids=repr,
)
def test_an_item_of_responses(item: dict[str, Any], *, external: bool) -> None:
    assert depends(row(RESPONSES), {"input": [item]}) is external


@pytest.mark.parametrize(
    ("path", "document", "external"),
    [
        (MESSAGES, {"system": [{"type": "document", "source": {"type": "url", "url": ADDRESS}}]}, True),
        (MESSAGES, {"System": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}, True),
        (MESSAGES, {"system": [{"type": "text", "text": ADDRESS}]}, False),
        (MESSAGES, {"system": ADDRESS}, False),
        (COUNT, {"system": [{"type": "document", "source": {"type": "url", "url": ADDRESS}}]}, True),
        (RESPONSES, {"instructions": [{"type": "item_reference", "id": "x"}]}, True),
        (RESPONSES, {"instructions": f"see {ADDRESS}"}, False),
        (V1_CHAT, {"messages": [{"role": "assistant", "content": None, "audio": {"id": "audio_1"}}]}, True),
        (V1_CHAT, {"messages": [{"role": "assistant", "Audio": {"ID": "audio_1"}}]}, True),
        (V1_CHAT, {"messages": [{"role": "assistant", "content": "yes", "audio": None}]}, False),
        (V1_CHAT, {"messages": [{"role": "assistant", "audio": {"data": "aGk="}}], "audio": {"voice": "x"}}, False),
    ],
    ids=repr,
)
def test_what_is_named_elsewhere_in_a_request(path: str, document: dict[str, Any], *, external: bool) -> None:
    assert depends(row(path), document) is external


@each_chat
@pytest.mark.parametrize(
    "prompt", [None, "text", [], [[]], [None], [{"content": [[[{"image_url": "x"}]]]}], 0], ids=repr
)
def test_any_form_of_a_prompt_is_survived(path: str, prompt: Any) -> None:
    assert depends(row(path), {row(path).prompt: prompt}) is ("image_url" in repr(prompt))
