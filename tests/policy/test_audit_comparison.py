"""What counts as the same: vectors in any text, completions without what differs between two equal ones."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from ollama_cache_proxy.policy.audit_comparison import (
    CLOSE,
    SLIGHT,
    Kind,
    compare_texts,
    compare_vectors,
    floats,
    said,
    vectors_in,
)
from ollama_cache_proxy.policy.endpoints import find

UNIT = [0.6, 0.8]


def turned(distance: float) -> bytes:
    """A vector at this 1 - cosine from `UNIT`."""
    angle = math.acos(1 - distance) + math.atan2(0.8, 0.6)
    return packed([math.cos(angle), math.sin(angle)])


def packed(numbers: list[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.mark.parametrize(
    "text",
    [b"[0.1,-2,3e-5]", b"[0.10, -2.0, 0.00003]", b"[0.1000000015,-2e0,3.0000000e-5]"],
)
def test_equal_numbers_in_another_text_are_equal(text: bytes) -> None:
    assert floats(json.loads(text)) == packed([0.1, -2, 3e-5])
    assert floats(base64.b64encode(packed([0.1, -2, 3e-5])).decode()) == packed([0.1, -2, 3e-5])


@pytest.mark.parametrize(
    "value",
    [None, [], "", "AAA", "AAAA", "AACA!Pw==", "AACAPw==\n", [True], ["1"], [None], [1e39], {}, 1, [[1.0]], "****"],
)
def test_what_is_no_vector_is_none(value: Any) -> None:
    assert floats(value) is None


@pytest.mark.parametrize(
    ("other", "kind", "exact"),
    [
        (packed(UNIT), None, True),
        (turned(CLOSE / 10), None, False),
        (turned(CLOSE * 3), Kind.SLIGHTLY, False),
        (turned(SLIGHT / 2), Kind.SLIGHTLY, False),
        (turned(SLIGHT * 2), Kind.WHOLLY, False),
        (packed([-0.6, -0.8]), Kind.WHOLLY, False),
        (packed([0.0, 0.0]), Kind.WHOLLY, False),
        (packed([math.nan, 0.8]), Kind.WHOLLY, False),
        (packed([0.6]), Kind.LENGTH, False),
        (packed([0.6, 0.8, 0.0]), Kind.LENGTH, False),
    ],
)
def test_vectors_are_compared_bit_by_bit_and_then_by_their_cosine(other: bytes, kind: Kind | None, exact: bool) -> None:
    found = compare_vectors([packed(UNIT)], [other])
    assert (found.kind, found.exact) == (kind, exact)
    assert compare_vectors([other], [packed(UNIT)]).kind is kind


def test_of_several_vectors_the_worst_counts_and_signs_of_zero_do_not() -> None:
    one, far = packed(UNIT), packed([0.8, -0.6])
    assert compare_vectors([one, one], [one, far]).kind is Kind.WHOLLY
    assert compare_vectors([one], [one, one]).kind is Kind.LENGTH
    assert compare_vectors([one, one], [one, packed([0.6])]).kind is Kind.LENGTH
    assert compare_vectors([packed([0.0, 0.0])], [packed([-0.0, 0.0])]).kind is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {"embeddings": [UNIT, UNIT]}),
        ("/v1/embeddings", {"data": [{"embedding": UNIT}, {"embedding": base64.b64encode(packed(UNIT)).decode()}]}),
    ],
)
def test_vectors_are_found_where_their_endpoint_has_them(path: str, body: Any) -> None:
    assert vectors_in(find("POST", path)[0], json.dumps(body).encode()) == [packed(UNIT)] * 2


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b"{}", b'{"embeddings":[]}', b'{"embeddings":[[]]}'])
def test_a_response_without_vectors_has_none(body: bytes) -> None:
    assert vectors_in(find("POST", "/api/embed")[0], body) is None


WHOLE = {
    "model": "tiny",
    "created_at": "2026-01-01T00:00:00Z",
    "message": {
        "role": "assistant",
        "content": "yes",
        "tool_calls": [{"id": "1", "function": {"arguments": {"a": 1}}}],
    },
    "done_reason": "stop",
    "total_duration": 5,
    "prompt_eval_count": 3,
}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"created_at": "later"}, True),
        ({"total_duration": 7, "load_duration": 1}, True),
        ({"prompt_eval_count": 1}, True),
        ({"usage": {"prompt_tokens": 9}}, True),
        ({"done_reason": "length"}, False),
        ({"message": {**WHOLE["message"], "content": "no"}}, False),
        ({"message": {**WHOLE["message"], "tool_calls": [{"id": "2", "function": {"arguments": {"a": 1}}}]}}, True),
        ({"message": {**WHOLE["message"], "tool_calls": [{"id": "1", "function": {"arguments": {"a": 2}}}]}}, False),
        ({"message": {**WHOLE["message"], "tool_calls": [{"function": {"arguments": {"id": 1}}}]}}, False),
        ({"context": [1, 2]}, False),
    ],
)
def test_of_a_completion_its_words_count_and_not_its_times(change: dict[str, Any], same: bool) -> None:
    one, other = (said(json.dumps(body).encode(), stream=False) for body in (WHOLE, WHOLE | change))
    assert one is not None
    assert other is not None
    assert compare_texts(one, other).kind is (None if same else Kind.TEXT)


def test_what_differs_between_equal_completions_says_nothing() -> None:
    names = ["created", "created_at", "completed_at", "id", "call_id", "item_id", "response_id", "usage"]
    names += ["system_fingerprint", "sequence_number", "prompt_eval_count", "prompt_eval_cached_count", "eval_count"]
    names += ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"]
    body = json.dumps({"response": "yes"} | dict.fromkeys(names, 1)).encode()
    assert said(body, stream=False) == {("response",): "yes"}


def test_a_whole_completion_says_the_same_over_several_lines() -> None:
    written = json.dumps(WHOLE, indent=1).encode()
    assert said(written, stream=False) == said(json.dumps(WHOLE).encode(), stream=False)


def lines(*texts: str) -> bytes:
    parts = [{"created_at": f"{at}", "response": text, "done": False} for at, text in enumerate(texts)]
    return b"".join(
        json.dumps(part).encode() + b"\n" for part in [*parts, {"response": "", "done": True, "eval_count": 3}]
    )


def events(*texts: str) -> bytes:
    parts = [{"id": f"{at}", "choices": [{"index": 0, "delta": {"content": text}}]} for at, text in enumerate(texts)]
    return b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts) + b"data: [DONE]\n\n"


def named_events(*texts: str) -> bytes:
    """With names, a comment, and lines that end with CR LF."""
    return events(*texts).replace(b"data: {", b": keep-alive\r\nevent: delta\r\ndata:{")


@pytest.mark.parametrize("written", [lines, events, named_events])
def test_a_stream_is_what_its_pieces_are_together(written: Any) -> None:
    one = said(written("on", "ly ", "once"), stream=True)
    assert one == said(written("only ", "once"), stream=True)
    assert one != said(written("only ", "twice"), stream=True)


@pytest.mark.parametrize(
    "name",
    [
        *("response", "content", "text", "thinking", "reasoning", "delta"),
        *("partial_json", "arguments", "signature"),
    ],
)
def test_each_text_of_a_stream_is_joined_of_its_pieces(name: str) -> None:
    one, other = (
        b"".join(json.dumps({"index": 0, name: text}).encode() + b"\n" for text in pieces)
        for pieces in (("on", "ly ", "once"), ("only ", "once"))
    )
    assert said(one, stream=True) == said(other, stream=True) == {("index",): 0, (name,): "only once"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([{"id": 1, "text": "a"}, {"text": "b"}], {("content", 0, "text"): "a", ("content", 1, "text"): "b"}),
        ([{"id": 1, "text": "a"}, "b"], {("content",): [{"id": 1, "text": "a"}, "b"]}),
        (["a", "b"], {("content",): ["a", "b"]}),
        ([], {}),
    ],
)
def test_a_list_that_is_not_all_of_objects_counts_as_it_is(given: Any, expected: dict[Any, Any]) -> None:
    body = json.dumps({"done": True, "content": given}).encode()
    assert said(body, stream=False) == {("done",): True} | expected


@pytest.mark.parametrize("body", [b"", b"no", b"[1]", b"{}"])
def test_what_says_nothing_is_none(body: bytes) -> None:
    assert said(body, stream=False) is None


def test_the_length_of_vectors_does_not_count() -> None:
    assert compare_vectors([packed([3.0, 4.0])], [packed([6.0, 8.0])]).kind is None
    assert compare_vectors([packed([0.003, 0.004])], [packed([-0.004, 0.003])]).kind is Kind.WHOLLY


def test_kinds_have_the_names_that_metrics_show() -> None:
    assert [kind.value for kind in Kind] == ["vector-slightly", "vector-wholly", "vector-length", "text"]


def test_kinds_have_the_names_that_the_metric_shows() -> None:
    assert [kind.value for kind in Kind] == ["vector-slightly", "vector-wholly", "vector-length", "text"]
