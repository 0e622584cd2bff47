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
        pytest.param(b'{"a":[1],' + DURATIONS.replace(b":", b": ").replace(b",", b", "), TOLD, id="with-blanks"),
        pytest.param(b"1, 2], " + DURATIONS.replace(b":", b" :\n"), TOLD, id="with-blanks-cut-off"),
        pytest.param(
            json.dumps({"response": "x", **json.loads(b"{" + DURATIONS)}, sort_keys=True).encode(), TOLD, id="sorted"
        ),
        pytest.param(
            b'{"done":false}\n' + json.dumps({"done": True, **json.loads(b"{" + DURATIONS)}, sort_keys=True).encode(),
            TOLD,
            id="the-last-line-sorted",
        ),
        pytest.param(
            json.dumps({"response": "x", **json.loads(b"{" + DURATIONS)}, sort_keys=True, indent=1).encode(),
            TOLD,
            id="sorted-on-lines-of-their-own",
        ),
        pytest.param(
            b'{"done":false,"eval_count":1}\n{"done":true,"prompt_eval_count":3,"eval_count":8}\n',
            Usage(prompt_tokens=3, output_tokens=8),
            id="no-durations",
        ),
        pytest.param(b'x","eval_count":8,"prompt_eval_count":3}', None, id="no-durations-cut-off"),
        pytest.param(b'{"total_duration":5,"load_duration":0}', Usage(load_seconds=0.0), id="durations-alone"),
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


@pytest.mark.parametrize(
    ("chunk", "last"),
    [
        (b'{"response":"a","done":false}\n', False),
        (b'{"response":"","done":true}\n', True),
        (b'{"response": "", "done": true}', True),
        (b'{"response":"a","done":false}\n{"done" : true}\n', True),
        (b'{"response":"\\"done\\": true","done":false}\n', False),
        (b'{"message":{"tool_calls":[{"arguments":{"done":true}}]},"done":false}\n', False),
        (b'"done":true}\n', False),
    ],
)
def test_the_chunk_that_ends_a_stream(chunk: bytes, last: bool) -> None:
    assert ollama.ends(chunk) is last
