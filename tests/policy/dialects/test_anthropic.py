from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.policy.dialects import anthropic
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable, Storing, Usage
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish

MESSAGE = {"type": "message", "stop_reason": "end_turn", "usage": {"input_tokens": 2, "output_tokens": 4}}
INCOMPLETE = NotStorable(detail=Detail.INCOMPLETE)


def event(name: str, **members: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **members}, separators=(',', ':'))}\n\n".encode()


START = event("message_start", message={"type": "message", "usage": {"input_tokens": 9, "output_tokens": 0}})
PART = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "event: message_stop"})
DELTA = event("message_delta", delta={"stop_reason": "max_tokens"}, usage={"input_tokens": 2, "output_tokens": 4})
OPEN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
STOPPED = event("message_delta", delta={"stop_reason": "stop_sequence"}, usage={"input_tokens": 9, "output_tokens": 0})
STOP = event("message_stop")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(MESSAGE, Storable(prompt_tokens=2, output_tokens=4), id="whole"),
        pytest.param(MESSAGE | {"usage": None}, Storable(prompt_tokens=None, output_tokens=None), id="no-usage"),
        pytest.param(
            MESSAGE | {"usage": {"input_tokens": 2, "cache_read_input_tokens": 7, "output_tokens": 4}},
            Storable(prompt_tokens=9, output_tokens=4),
            id="the-whole-prompt-with-what-was-cached",
        ),
        pytest.param(MESSAGE | {"stop_reason": None}, INCOMPLETE, id="no-reason"),
        pytest.param(MESSAGE | {"stop_reason": "pause_turn"}, INCOMPLETE, id="not-the-end"),
        pytest.param(
            MESSAGE | {"stop_reason": "stop_sequence", "content": [{"type": "text", "text": "x"}]},
            Storable(prompt_tokens=2, output_tokens=4),
            id="a-stop-sequence",
        ),
        pytest.param(MESSAGE | {"stop_reason": "stop_sequence", "content": None}, INCOMPLETE, id="a-load"),
        pytest.param(MESSAGE | {"stop_reason": "stop_sequence"}, INCOMPLETE, id="a-load-without-content"),
        pytest.param(MESSAGE | {"stop_reason": ["end_turn"]}, INCOMPLETE, id="a-reason-that-is-a-list"),
        pytest.param(
            MESSAGE | {"stop_reason": "tool_use"}, Storable(prompt_tokens=2, output_tokens=4), id="a-call-of-a-tool"
        ),
        pytest.param(
            MESSAGE | {"stop_reason": "tool_use", "usage": {"input_tokens": 0, "output_tokens": 0}},
            INCOMPLETE,
            id="a-call-of-a-tool-whose-end-was-lost",
        ),
        pytest.param(MESSAGE | {"type": "error"}, INCOMPLETE, id="no-message"),
        pytest.param({}, INCOMPLETE, id="empty"),
    ],
)
def test_a_whole_message(document: dict[str, object], expected: Storing) -> None:
    assert anthropic.whole(document) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(START + PART + DELTA + STOP, Storable(prompt_tokens=2, output_tokens=4), id="whole"),
        pytest.param(
            START + OPEN + PART + STOPPED + STOP, Storable(prompt_tokens=9, output_tokens=0), id="a-stop-sequence"
        ),
        pytest.param(START + STOPPED + STOP, INCOMPLETE, id="a-load"),
        pytest.param(START + PART + DELTA, INCOMPLETE, id="no-end"),
        pytest.param(START + PART + STOP, INCOMPLETE, id="no-reason"),
        pytest.param(START + DELTA + STOP + STOP, INCOMPLETE, id="two-ends"),
        pytest.param(START + DELTA + STOP + PART, INCOMPLETE, id="more-after-the-end"),
        pytest.param((START + DELTA + STOP)[:-1], INCOMPLETE, id="cut-off"),
        pytest.param(b": ping\n\n" + START + DELTA + STOP, INCOMPLETE, id="of-another-form"),
        pytest.param(
            START + event("message_delta", delta={"stop_reason": None}) + STOP, INCOMPLETE, id="a-reason-of-null"
        ),
        pytest.param(
            START + event("error", error={"message": "x"}) + DELTA + STOP,
            NotStorable(detail=Detail.ANSWER_ERROR),
            id="an-error",
        ),
        pytest.param(b"", INCOMPLETE, id="nothing"),
    ],
)
def test_a_stream(body: bytes, expected: Storing) -> None:
    assert finish(anthropic.stream(body)) == expected


@pytest.mark.parametrize(
    ("chunk", "last"), [(STOP, True), (DELTA + STOP, True), (PART, False), (STOP[:-1], False), (STOP + PART, False)]
)
def test_the_last_chunk_is_known(chunk: bytes, last: bool) -> None:
    assert anthropic.ends(chunk) is last


def test_what_the_last_bytes_tell() -> None:
    assert anthropic.usage(START + DELTA + STOP) == Usage(prompt_tokens=2, output_tokens=4)
    assert anthropic.usage(STOP) is None


@pytest.mark.parametrize(
    ("told", "prompt", "cached"),
    [
        ({"input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1595}, 1598, 1595),
        ({"input_tokens": 1598, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}, 1598, 0),
        ({"input_tokens": 3, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 5}, 18, 5),
        ({"input_tokens": 1598}, 1598, None),
        ({"input_tokens": 1598, "cache_read_input_tokens": None}, 1598, None),
        ({"cache_read_input_tokens": 5}, None, None),
    ],
    ids=["cached", "none-cached", "as-anthropic-counts", "not-told", "null", "no-prompt"],
)
def test_cached_tokens_are_part_of_the_prompt(told: dict[str, object], prompt: int | None, cached: int | None) -> None:
    """`input_tokens` is without them."""
    delta = event("message_delta", delta={"stop_reason": "end_turn"}, usage=told | {"output_tokens": 4})
    expected = Usage(prompt_tokens=prompt, cached_tokens=cached, output_tokens=4)
    assert anthropic.usage(START + delta + STOP) == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "api_error"),
    ],
)
def test_an_error_has_the_members_that_sdks_read(status: int, kind: str) -> None:
    told = json.loads(anthropic.error(status, "why"))
    assert told == {"type": "error", "error": {"type": kind, "message": "why"}}
