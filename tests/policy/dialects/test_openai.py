from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.policy.dialects import openai
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable, Storing, Usage
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish

INCOMPLETE = NotStorable(detail=Detail.INCOMPLETE)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        pytest.param(b'"usage":null}', None, id="no-usage"),
        pytest.param(b'"usage":{"total_tokens":1}}', None, id="usage-of-nothing"),
        pytest.param(b'"usage":{"prompt_tokens":7,"total_tokens":7}}', Usage(prompt_tokens=7), id="of-embeddings"),
        pytest.param(
            b'"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\ndata: {"choices":[],"usage":{"prompt_tokens":2,'
            b'"completion_tokens":5}}\n\ndata: [DONE]\n\n',
            Usage(prompt_tokens=2, output_tokens=5),
            id="the-last-usage",
        ),
        pytest.param(
            b'"usage":{"prompt_tokens":1598,"prompt_tokens_details":{"cached_tokens":1595},"completion_tokens":4}}',
            Usage(prompt_tokens=1598, cached_tokens=1595, output_tokens=4),
            id="cached",
        ),
        pytest.param(
            b'"usage":{"prompt_tokens":1598,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens":4}}',
            Usage(prompt_tokens=1598, cached_tokens=0, output_tokens=4),
            id="none-cached",
        ),
        pytest.param(
            b'"usage":{"prompt_tokens":1598,"prompt_tokens_details":null,"completion_tokens":4}}',
            Usage(prompt_tokens=1598, output_tokens=4),
            id="cached-not-told",
        ),
        pytest.param(
            b'{"usage": {"prompt_tokens": 1}} {"usage" :\n {"prompt_tokens": 7, "completion_tokens": 4}, "x": 1}',
            Usage(prompt_tokens=7, output_tokens=4),
            id="with-blanks",
        ),
        pytest.param(b'{"usage": null}', None, id="no-usage-with-blanks"),
        pytest.param(b'{"content":"\\"usage\\":{\\"prompt_tokens\\":9}"}', None, id="only-said"),
        pytest.param(b'"usage":' + b'{"a":' * 5000, None, id="deep"),
        pytest.param(b'"usage":{"prompt_tokens":\xff}', None, id="no-utf-8"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_what_the_last_bytes_tell(tail: bytes, expected: Usage | None) -> None:
    assert openai.usage(tail) == expected


def completion(reason: str | None, prompt: int, output: int, **more: object) -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": reason}
    return {"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": output}, **more}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(completion("stop", 2, 4), Storable(prompt_tokens=2, output_tokens=4), id="whole"),
        pytest.param(completion("tool_calls", 2, 4), Storable(prompt_tokens=2, output_tokens=4), id="a-call-of-a-tool"),
        pytest.param(completion("tool_calls", 0, 0), INCOMPLETE, id="a-call-of-a-tool-whose-end-was-lost"),
        pytest.param(
            completion("tool_calls", 0, 0) | {"usage": None},
            Storable(prompt_tokens=None, output_tokens=None),
            id="a-call-of-a-tool-without-counts",
        ),
        pytest.param(completion(None, 0, 0), INCOMPLETE, id="a-text-whose-end-was-lost"),
        pytest.param(
            # As Ollama 0.33 answers where the model writes what is no UTF-8.
            {
                "id": "chatcmpl-792",
                "object": "chat.completion",
                "created": -62135596800,
                "model": "",
                "system_fingerprint": "fp_ollama",
                "choices": [{"index": 0, "message": {"role": "", "content": ""}, "finish_reason": None}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            },
            INCOMPLETE,
            id="no-text-at-all",
        ),
    ],
)
def test_a_whole_completion(document: dict[str, object], expected: Storing) -> None:
    assert openai.whole(document) == expected


def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


FIRST, NEXT, FINISH = chunk({"role": "assistant", "content": "a"}), chunk({"content": "b"}), chunk({}, "stop")
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(FIRST + NEXT + FINISH + DONE, Storable(prompt_tokens=None, output_tokens=None), id="whole"),
        pytest.param(FIRST + NEXT, INCOMPLETE, id="without-finish"),
        pytest.param(FIRST + NEXT + DONE, INCOMPLETE, id="done-without-finish"),
        pytest.param(FIRST + NEXT + FINISH, INCOMPLETE, id="finish-without-done"),
        pytest.param(FIRST + NEXT + NEXT + DONE, INCOMPLETE, id="an-error-that-has-lost-its-text"),
        pytest.param(b"", INCOMPLETE, id="empty"),
    ],
)
def test_a_stream_of_0_33(body: bytes, expected: Storing) -> None:
    """The role once, and the reason in a chunk of its own."""
    assert finish(openai.stream(body)) == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (404, "not_found_error"), (502, "api_error"), (504, "api_error")],
)
def test_an_error_has_the_members_that_sdks_read(status: int, kind: str) -> None:
    told = json.loads(openai.error(status, "why"))
    assert told == {"error": {"message": "why", "type": kind, "param": None, "code": None}}
