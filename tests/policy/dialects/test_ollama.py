from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.dialects import ollama
from ollama_cache_proxy.policy.dialects.dialect import Usage

TOLD = Usage(prompt_tokens=3, output_tokens=8, prompt_seconds=0.25, output_seconds=1.5, load_seconds=4.0)
DURATIONS = (
    b'"total_duration":6000000000,"load_duration":4000000000,"prompt_eval_count":3,"prompt_eval_duration":250000000,'
    b'"eval_count":8,"eval_duration":1500000000}'
)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        pytest.param(b'{"model":"m","done":true,' + DURATIONS, TOLD, id="whole"),
        pytest.param(b'1,2,3],"done":true,' + DURATIONS + b"\n", TOLD, id="cut-off-in-a-long-context"),
        pytest.param(DURATIONS[:-1] + b',"logprobs":[{"token":"a"}]}', TOLD, id="more-behind"),
        pytest.param(b'{"arguments":{"total_duration":1}},' + DURATIONS, TOLD, id="a-name-alike-before"),
        pytest.param(
            DURATIONS.replace(b'"prompt_eval_d', b'"prompt_eval_cached_count":2,"prompt_eval_d'),
            replace(TOLD, cached_tokens=2),
            id="cached",
        ),
        pytest.param(
            DURATIONS.replace(b'"prompt_eval_d', b'"prompt_eval_cached_count":4,"prompt_eval_d'),
            TOLD,
            id="more-cached-than-there-are",
        ),
        pytest.param(b'{"response":"\\"total_duration\\":1","done":false}', None, id="only-said"),
        pytest.param(DURATIONS[:-1], None, id="broken-off"),
        pytest.param(b'"total_duration":"x","eval_count":-1,"prompt_eval_count":true}', None, id="no-numbers"),
        pytest.param(b'"total_duration":5,"eval_count":2}', Usage(output_tokens=2), id="what-is-zero-is-left-out"),
        pytest.param(b'"usage":{"prompt_tokens":7,"total_tokens":7}}', None, id="of-another-dialect"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_what_the_last_bytes_tell(tail: bytes, expected: Usage | None) -> None:
    assert ollama.usage(tail) == expected


@pytest.mark.parametrize("message", ['no "one" there ☕', ""])
def test_an_error_is_one_member(message: str) -> None:
    assert json.loads(ollama.error(502, message)) == {"error": message}
