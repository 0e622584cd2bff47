from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.policy.dialects import openai, responses
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable, Storing, Usage
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish

USAGE = {"input_tokens": 2, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 4}
RESPONSE = {"object": "response", "status": "completed", "usage": USAGE, "metadata": {}}
STORABLE = Storable(prompt_tokens=2, output_tokens=4)
INCOMPLETE = NotStorable(detail=Detail.INCOMPLETE)


def event(name: str, **members: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({**members, 'type': name}, separators=(',', ':'))}\n\n".encode()


CREATED = event("response.created", response=RESPONSE | {"status": "in_progress", "usage": None})
PART = event("response.output_text.delta", delta="event: response.completed")
COMPLETED = event("response.completed", response=RESPONSE)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(RESPONSE, STORABLE, id="whole"),
        pytest.param(RESPONSE | {"status": "incomplete"}, INCOMPLETE, id="incomplete"),
        pytest.param(RESPONSE | {"usage": {"input_tokens": 0, "output_tokens": 0}}, INCOMPLETE, id="a-load"),
        pytest.param(
            RESPONSE | {"usage": {"input_tokens": 2, "output_tokens": 0}},
            Storable(prompt_tokens=2, output_tokens=0),
            id="an-empty-text",
        ),
        pytest.param(RESPONSE | {"usage": None}, Storable(prompt_tokens=None, output_tokens=None), id="no-usage"),
        pytest.param(RESPONSE | {"object": "chat.completion"}, INCOMPLETE, id="of-another-dialect"),
        pytest.param({}, INCOMPLETE, id="empty"),
    ],
)
def test_a_whole_response(document: dict[str, object], expected: Storing) -> None:
    assert responses.whole(document) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(CREATED + PART + COMPLETED, STORABLE, id="whole"),
        pytest.param(CREATED + PART, INCOMPLETE, id="no-end"),
        pytest.param(CREATED + COMPLETED + COMPLETED, INCOMPLETE, id="two-ends"),
        pytest.param((CREATED + COMPLETED)[:-1], INCOMPLETE, id="cut-off"),
        pytest.param(CREATED + event("response.completed"), INCOMPLETE, id="an-end-without-its-response"),
        pytest.param(
            CREATED + event("response.failed") + COMPLETED, NotStorable(detail=Detail.ANSWER_ERROR), id="an-error"
        ),
        pytest.param(b"data: [DONE]\n\n", INCOMPLETE, id="of-another-form"),
    ],
)
def test_a_stream(body: bytes, expected: Storing) -> None:
    assert finish(responses.stream(body)) == expected


@pytest.mark.parametrize(("error", "failed"), [(None, False), ({"code": "x"}, True), ("x", True)])
def test_an_error_that_is_null_is_none(error: object, *, failed: bool) -> None:
    assert responses.failed(RESPONSE | {"error": error}) is failed
    assert responses.failed(RESPONSE) is False
    stored = finish(responses.stream(CREATED + event("response.completed", response=RESPONSE | {"error": error})))
    assert stored == (NotStorable(detail=Detail.ANSWER_ERROR) if failed else STORABLE)


@pytest.mark.parametrize(
    ("chunk", "last"), [(COMPLETED, True), (PART + COMPLETED, True), (PART, False), (COMPLETED[:-1], False)]
)
def test_the_last_chunk_is_known(chunk: bytes, last: bool) -> None:
    assert responses.ends(chunk) is last


def test_what_the_last_bytes_tell() -> None:
    assert responses.usage(CREATED + COMPLETED) == Usage(prompt_tokens=2, output_tokens=4)


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        ({"cached_tokens": 1595}, 1595),
        ({"cached_tokens": 0}, None),
        ({"cached_tokens": 1599}, None),
        ({}, None),
        (None, None),
    ],
    ids=["cached", "the-0-that-ollama-always-writes", "more-than-there-are", "not-told", "null"],
)
def test_cached_tokens_are_part_of_the_prompt(details: object, cached: int | None) -> None:
    told = {"input_tokens": 1598, "input_tokens_details": details, "output_tokens": 4}
    completed = event("response.completed", response=RESPONSE | {"usage": told})
    assert responses.usage(completed) == Usage(prompt_tokens=1598, cached_tokens=cached, output_tokens=4)


def test_an_error_is_openais() -> None:
    assert responses.error(400, "why") == openai.error(400, "why")
