from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.policy.dialects import openai
from ollama_cache_proxy.policy.dialects.dialect import Usage


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
        pytest.param(b'{"content":"\\"usage\\":{\\"prompt_tokens\\":9}"}', None, id="only-said"),
        pytest.param(b'"usage":' + b'{"a":' * 5000, None, id="deep"),
        pytest.param(b'"usage":{"prompt_tokens":\xff}', None, id="no-utf-8"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_what_the_last_bytes_tell(tail: bytes, expected: Usage | None) -> None:
    assert openai.usage(tail) == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (404, "not_found_error"), (502, "api_error"), (504, "api_error")],
)
def test_an_error_has_the_members_that_sdks_read(status: int, kind: str) -> None:
    told = json.loads(openai.error(status, "why"))
    assert told == {"error": {"message": "why", "type": kind, "param": None, "code": None}}
