from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.dialects import ollama
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.messages import ResponseHead
from ollama_cache_proxy.policy.usage import Excerpt, has_output, model, streams_text, uses_model
from tests.support.recordings import RECORDINGS


def chunks_of(case: dict[str, Any]) -> list[bytes]:
    response = case["response"]
    if response.get("chunks") is None:
        return [(response.get("body") or "").encode()]
    return [chunk["data"].encode() for chunk in response["chunks"]]


def documents(chunks: list[bytes]) -> list[dict[str, Any]]:
    """Return the JSON objects of a response, whole or line by line."""
    lines = (line.removeprefix(b"data: ") for line in b"".join(chunks).splitlines())
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def recorded(documents: list[dict[str, Any]]) -> Usage | None:
    """What the recording says, read in full."""
    usage = [found for document in documents if (found := document.get("usage")) is not None]
    if usage:
        prompt = usage[-1].get("prompt_tokens", usage[-1].get("input_tokens"))
        return Usage(
            prompt_tokens=prompt, output_tokens=usage[-1].get("completion_tokens", usage[-1].get("output_tokens"))
        )
    last = documents[-1] if documents else {}
    if "total_duration" not in last:
        return None
    seconds = {
        ours: None if theirs not in last else last[theirs] / 1e9
        for ours, theirs in (
            ("prompt_seconds", "prompt_eval_duration"),
            ("output_seconds", "eval_duration"),
            ("load_seconds", "load_duration"),
        )
    }
    return Usage(prompt_tokens=last.get("prompt_eval_count"), output_tokens=last.get("eval_count"), **seconds)


WORKING = {
    (release, name): case
    for release, cases in RECORDINGS.items()
    for name, case in cases.items()
    if uses_model(endpoints.find(case["request"]["method"], case["request"]["path"])[0])
}


@pytest.mark.parametrize(("release", "name"), WORKING)
def test_what_ollama_said_is_found_at_the_end_of_what_it_sent(release: str, name: str) -> None:
    case = WORKING[release, name]
    request = case["request"]
    endpoint, _ = endpoints.find(request["method"], request["path"])
    chunks = chunks_of(case)
    excerpt = Excerpt()
    for chunk in chunks:
        excerpt.add(chunk)
    read = documents(chunks)
    expected = recorded(read)
    assert endpoint.dialect.usage(excerpt.tail) == expected
    if expected is not None:
        assert model(excerpt) == read[0]["model"]


def respelled(chunks: list[bytes], *, sort_keys: bool) -> bytes:
    """Return a response as a server that reads and writes JSON anew would send it."""
    lines = []
    for line in b"".join(chunks).splitlines():
        begin = b"data: " * line.startswith(b"data: ")
        text = line.removeprefix(b"data: ")
        lines.append(
            begin + json.dumps(json.loads(text), sort_keys=sort_keys).encode() if text.startswith(b"{") else line
        )
    return b"\n".join(lines)


@pytest.mark.parametrize("sort_keys", [False, True], ids=["blanks", "blanks and sorted"])
@pytest.mark.parametrize(("release", "name"), WORKING)
def test_it_is_found_however_the_json_is_written(release: str, name: str, *, sort_keys: bool) -> None:
    case = WORKING[release, name]
    endpoint, _ = endpoints.find(case["request"]["method"], case["request"]["path"])
    excerpt, chunks = Excerpt(), chunks_of(case)
    body = respelled(chunks, sort_keys=sort_keys)
    excerpt.add(body)
    expected = recorded(documents(chunks))
    if len(body) > len(excerpt.tail) and sort_keys and endpoint.dialect is ollama:  # then some are too far in front
        expected = None
    assert endpoint.dialect.usage(excerpt.tail) == expected
    if expected is not None:
        assert model(excerpt) == documents(chunks)[0]["model"]
    assert has_output(body) is has_output(b"".join(chunks))


def test_the_recording_says_enough_to_be_a_test() -> None:
    found = [recorded(documents(chunks_of(case))) for case in WORKING.values()]
    assert sum(usage is not None and usage.output_seconds is not None for usage in found) > 15
    assert sum(usage is not None and usage.output_seconds is None for usage in found) > 5
    assert sum(usage is None for usage in found) > 5


@pytest.mark.parametrize(("release", "name"), [key for key, case in WORKING.items() if case["response"].get("chunks")])
def test_a_stream_has_output_from_its_first_piece_of_text_on(release: str, name: str) -> None:
    case = WORKING[release, name]
    endpoint, _ = endpoints.find(case["request"]["method"], case["request"]["path"])
    fields = tuple((key.encode(), value.encode()) for key, value in case["response"]["headers"])
    streamed = "json;" not in str(case["response"]["headers"]) and "embed" not in name
    head = ResponseHead(status=int(case["response"]["status_line"].split()[1]), reason="", fields=fields)
    assert streams_text(endpoint, head) is streamed
    if streamed:
        said = [has_output(chunk) for chunk in chunks_of(case)]
        assert said[0]
        assert not has_output(chunks_of(case)[-1])  # it ends with figures, and no text


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        pytest.param(b'{"model":"m","response":"","done":false}\n', False, id="nothing"),
        pytest.param(b'{"model":"m","response":"\\"","done":false}\n', True, id="a-quote"),
        pytest.param(b'{"model":"m","response":"","thinking":"Hm","done":false}\n', True, id="a-thought"),
        pytest.param(
            b'{"message":{"role":"assistant","content":"","tool_calls":[{"function":{}}]}}\n', True, id="tool"
        ),
        pytest.param(b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n', False, id="role"),
        pytest.param(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n', True, id="delta"),
        pytest.param(b'data: {"choices":[{"delta":{"reasoning":"Hm"}}]}\n\n', True, id="reasoning"),
        pytest.param(b'data: {"type":"content_block_start","content_block":{"type":"text","text":""}}\n\n', False),
        pytest.param(b'data: {"delta":{"type":"text_delta","text":"Hi"}}\n\n', True, id="text-delta"),
        pytest.param(b'data: {"delta":{"type":"input_json_delta","partial_json":"{"}}\n\n', True, id="json-delta"),
        pytest.param(b'data: {"response":{"text":{"format":{"type":"text"}},"output":[]}}\n\n', False, id="created"),
        pytest.param(b'data: {"delta":"Hi","type":"response.output_text.delta"}\n\n', True, id="response-delta"),
        pytest.param(b"data: [DONE]\n\n", False, id="done"),
    ],
)
def test_what_counts_as_output(chunk: bytes, expected: bool) -> None:
    assert has_output(chunk) is expected


@pytest.mark.parametrize("size", [1, 7, 200, 8191, 8192, 8193, 16384, 16385, 70_000, 200_000])
def test_only_the_first_and_the_last_bytes_are_held(size: int) -> None:
    body = bytes(range(256)) * 800
    excerpt = Excerpt()
    for start in range(0, len(body), size):
        excerpt.add(body[start : start + size])
        assert len(excerpt._parts) <= 16384 // 64
    assert sum(map(len, excerpt._parts)) <= 16384
    assert excerpt.tail == body[-8192:]
    assert excerpt.head == body[:4096]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"model":"tiny:latest"}', "tiny:latest", id="a-name"),
        pytest.param(b'{"model":"t\xffny"}', "t\ufffdny", id="ill-formed"),
        pytest.param(b'{"model":""}', "", id="empty"),
        pytest.param(b'{"model":"' + b"m" * 300 + b'"}', "m" * 300, id="the-longest"),
        pytest.param(b'{"model":"' + b"m" * 301 + b'"}', "", id="longer"),
        pytest.param(b"{}", "", id="none"),
    ],
)
def test_the_name_of_the_model_is_read_as_far_as_it_can_be(body: bytes, expected: str) -> None:
    excerpt = Excerpt()
    excerpt.add(body)
    assert model(excerpt) == expected


def test_a_response_without_a_content_type_is_no_stream_with_output() -> None:
    endpoint, _ = endpoints.find("POST", "/api/generate")
    assert not streams_text(endpoint, ResponseHead(status=200, reason="", fields=()))
