from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.workbench.requests import Outcome, Request, embeddings, never_stored, outcome, read, total


def test_a_line_is_a_request() -> None:
    line = b'{"path": "/api/generate", "body": {"model": "tiny", "prompt": "a"}, "headers": {"X-Cache-TTL": "60"}}'
    assert read(line, "f:1") == Request(
        origin="f:1",
        path="/api/generate",
        body=b'{"model":"tiny","prompt":"a"}',
        headers={"X-Cache-TTL": "60"},
    )


def test_a_body_that_is_a_text_is_taken_byte_for_byte() -> None:
    assert read(b'{"path": "/api/embed", "body": "{ \\"a\\":  1 }"}', "f:1").body == b'{ "a":  1 }'


@pytest.mark.parametrize(("given", "weight"), [(["a", "b", "c"], 3), ("a", 1), ([], 1), (None, 1)])
def test_a_list_weighs_as_many_as_its_texts(given: object, weight: int) -> None:
    line = json.dumps({"path": "/api/embed", "body": {"model": "m", "input": given}}).encode()
    assert read(line, "f:1").weight == weight


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "f:7: not JSON"),
        ("[]", "f:7: a line must be"),
        ('"x"', "f:7: a line must be"),
        ("{}", "f:7: a line must be"),
        ('{"path": "/api/embed"}', "f:7: a line must be"),
        ('{"path": "/api/embed", "body": [1]}', "f:7: a line must be"),
        ('{"path": ["/api/embed"], "body": {}}', "f:7: a line must be"),
        ('{"path": "/api/embed", "body": {}, "method": "GET"}', "f:7: a line must be"),
        ('{"path": "/api/embed", "body": {}, "headers": []}', "f:7: a line must be"),
        ('{"path": "/api/pull", "body": {}}', "f:7: the path must be one of"),
        ('{"path": "/api/embed?x", "body": {}}', "f:7: the path must be one of"),
        ('{"path": "/api/embed", "body": {}, "headers": {"a b": "c"}}', "f:7: 'a b' in the headers"),
        ('{"path": "/api/embed", "body": {}, "headers": {"a": 1}}', "f:7: 'a' in the headers"),
        ('{"path": "/api/embed", "body": {}, "headers": {"a": "b\\r\\nc: d"}}', "f:7: 'a' in the headers"),
    ],
)
def test_a_line_that_is_no_request_is_named(line: str, why: str) -> None:
    with pytest.raises(ValueError) as error:
        read(line.encode(), "f:7")
    assert str(error.value).startswith(why)


def test_texts_go_into_lists_and_equal_ones_go_once() -> None:
    asked = list(embeddings(["a", "b", "a", "c"], "m", 2))
    assert [(one.origin, json.loads(one.body)["input"], one.weight) for one in asked] == [
        ("texts 1 to 2", ["a", "b"], 2),
        ("texts 3 to 3", ["c"], 1),
    ]
    assert {one.path for one in asked} == {"/api/embed"}
    assert json.loads(asked[0].body)["model"] == "m"


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        ((5, 200, "HIT", "ollama-cache-proxy; hit; ttl=5"), Outcome(known=5)),
        ((1, 200, "HIT", "ollama-cache-proxy; fwd=miss; collapsed"), Outcome(known=1)),
        ((5, 200, "MISS", "ollama-cache-proxy; fwd=miss; stored; ttl=5"), Outcome(asked=5)),
        (
            (5, 200, "MISS", "ollama-cache-proxy; fwd=miss; stored; ttl=5; detail=items; known=3; of=5"),
            Outcome(known=3, asked=2),
        ),
        ((1, 200, "MISS", "ollama-cache-proxy; fwd=miss; detail=recording"), Outcome(asked=1)),
        ((1, 200, "BYPASS", "ollama-cache-proxy; fwd=bypass; detail=opt-in"), Outcome(unkept=1, why="opt-in")),
        ((2, 200, "", ""), Outcome(unkept=2, why="no Cache-Status")),
        ((2, 502, "MISS", "ollama-cache-proxy; fwd=miss"), Outcome(failed=2, why="status 502")),
        ((2, 404, "MISS", ""), Outcome(failed=2, why="status 404")),
    ],
)
def test_what_became_of_a_request_is_read_off_its_answer(answer: tuple[int, int, str, str], came: Outcome) -> None:
    weight, *told = answer
    assert outcome(asked(weight), *told) == came


def asked(weight: int, *, recorded: bool = False) -> Request:
    return Request(origin="", path="/api/embed", body=b"{}", weight=weight, recorded=recorded)


@pytest.mark.parametrize(
    ("status", "came"),
    [
        (400, Outcome(skipped=2, why="status 400")),
        (404, Outcome(skipped=2, why="status 404")),
        (499, Outcome(skipped=2, why="status 499")),
        (401, Outcome(failed=2, why="status 401")),
        (403, Outcome(failed=2, why="status 403")),
        (429, Outcome(failed=2, why="status 429")),
        (302, Outcome(failed=2, why="status 302")),
        (500, Outcome(failed=2, why="status 500")),
    ],
)
def test_what_was_wrong_when_it_was_recorded_is_no_failure_now(status: int, came: Outcome) -> None:
    assert outcome(asked(2, recorded=True), status, "MISS", "") == came


@pytest.mark.parametrize(
    ("cache_status", "why"),
    [
        ("ollama-cache-proxy; detail=only-if-cached", ""),
        ("ollama-cache-proxy; detail=no-digest", ""),
        ("ollama-cache-proxy; detail=dated-template", ""),
        ("ollama-cache-proxy; detail=buffers-full", ""),
        ("ollama-cache-proxy; detail=opt-in", "opt-in"),
        ("ollama-cache-proxy; detail=stream", "stream"),
        ("", ""),
    ],
)
def test_a_504_tells_whether_a_response_would_ever_be_stored(cache_status: str, why: str) -> None:
    assert never_stored(cache_status) == why


def test_outcomes_add_up() -> None:
    summed = total(
        [Outcome(known=1, asked=2), Outcome(failed=3, why="x"), Outcome(unkept=4), Outcome(asked=1, skipped=5)]
    )
    assert summed == Outcome(known=1, asked=3, unkept=4, failed=3, skipped=5)
