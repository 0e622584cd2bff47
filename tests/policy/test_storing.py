from __future__ import annotations

import json

import pytest

from proxy.policy.classify import Candidate
from proxy.policy.endpoints import find
from proxy.policy.messages import ResponseHead
from proxy.policy.status import Detail
from proxy.policy.storing import NotStorable, Storable, by_head, storable

JSON = (b"Content-Type", b"application/json; charset=utf-8")


def head(*fields: tuple[bytes, bytes], status: int = 200) -> ResponseHead:
    return ResponseHead(status=status, reason="", fields=(JSON, *fields))


def candidate(path: str, items: int = 1) -> Candidate:
    endpoint, _ = find("POST", path)
    return Candidate(endpoint=endpoint, model="m", document={}, items=items)


GENERATE = candidate("/api/generate")
COMPLETION = {
    "model": "m",
    "response": "hello",
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 7,
    "eval_count": 3,
}


def without(document: dict, name: str) -> dict:
    return {key: value for key, value in document.items() if key != name}


def test_a_whole_completion_is_kept_with_its_counts():
    body = json.dumps(COMPLETION).encode()
    assert storable(GENERATE, head(), body) == Storable(prompt_tokens=7, output_tokens=3)


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        pytest.param(head(status=201), Detail.STATUS, id="201"),
        pytest.param(head(status=203), Detail.STATUS, id="203"),
        pytest.param(head(status=204), Detail.STATUS, id="204"),
        pytest.param(head(status=206), Detail.STATUS, id="206"),
        pytest.param(head(status=304), Detail.STATUS, id="304"),
        pytest.param(head(status=400), Detail.STATUS, id="400"),
        pytest.param(head(status=404), Detail.STATUS, id="404"),
        pytest.param(head(status=500), Detail.STATUS, id="500"),
        pytest.param(head((b"content-encoding", b"gzip")), Detail.RESPONSE_ENCODING, id="gzip"),
        pytest.param(head((b"Content-Encoding", b"identity")), Detail.RESPONSE_ENCODING, id="any encoding"),
        pytest.param(head((b"Content-Encoding", b"")), Detail.RESPONSE_ENCODING, id="an empty encoding"),
        pytest.param(head((b"SET-COOKIE", b"a=b")), Detail.SET_COOKIE, id="cookie"),
        pytest.param(head((b"Cache-Control", b"no-store")), Detail.CACHE_CONTROL, id="no-store"),
        pytest.param(head((b"Cache-Control", b"No-Cache")), Detail.CACHE_CONTROL, id="no-cache"),
        pytest.param(head((b"cache-control", b"max-age=5, PRIVATE")), Detail.CACHE_CONTROL, id="private"),
        pytest.param(head((b"Cache-Control", b'private="x-a, x-b"')), Detail.CACHE_CONTROL, id="private of a field"),
        pytest.param(head((b"Cache-Control", b'no-cache = "x"')), Detail.CACHE_CONTROL, id="no-cache of a field"),
        pytest.param(
            head((b"Cache-Control", b"public"), (b"Cache-Control", b"no-store")),
            Detail.CACHE_CONTROL,
            id="no-store on a second line",
        ),
        pytest.param(head((b"Vary", b"*")), Detail.VARY, id="vary by anything"),
        pytest.param(head((b"Vary", b"Accept-Encoding")), Detail.VARY, id="vary by what is not in the key"),
        pytest.param(head((b"Vary", b"Origin, Accept")), Detail.VARY, id="vary by that and Origin"),
        pytest.param(head((b"vary", b"Origin"), (b"VARY", b"Accept")), Detail.VARY, id="vary on a second line"),
    ],
)
def test_a_head_that_breaks_one_rule_is_not_kept(response, detail):
    assert by_head(response) is detail
    assert storable(GENERATE, response, json.dumps(COMPLETION).encode()) == NotStorable(detail=detail)


@pytest.mark.parametrize(
    "value",
    [
        *(b"application/x-ndjson", b"text/plain", b"text/event-stream", b"application/json-seq", b"application/jsonp"),
        *(b"", b"json", b"application/problem+json", b"application/ json"),
    ],
)
def test_another_content_type_is_not_kept(value):
    response = ResponseHead(status=200, reason="", fields=((b"content-type", value),))
    assert by_head(response) is Detail.CONTENT_TYPE


def test_no_content_type_is_not_kept():
    assert by_head(ResponseHead(status=200, reason="", fields=())) is Detail.CONTENT_TYPE


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(((b"Content-Type", b"application/json"),), id="without a charset"),
        pytest.param(((b"CONTENT-TYPE", b"Application/JSON ;x=y"),), id="in another case"),
        pytest.param((JSON, (b"Vary", b"Origin"), (b"vary", b"ORIGIN")), id="vary by Origin"),
        pytest.param((JSON, (b"Vary", b"")), id="vary by nothing"),
        pytest.param((JSON, (b"Cache-Control", b"public, max-age=0, no-transform")), id="other directives"),
        pytest.param((JSON, (b"Cache-Control", b"x=no-store, no-storex")), id="names that only look alike"),
        pytest.param((JSON, (b"Date", b"x"), (b"Server", b"y"), (b"ETag", b"z")), id="other fields"),
        pytest.param((JSON, (b"Access-Control-Allow-Origin", b"*")), id="CORS"),
    ],
)
def test_a_head_that_breaks_no_rule_is_kept(fields):
    assert by_head(ResponseHead(status=200, reason="", fields=fields)) is None


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        pytest.param(without(COMPLETION, "done"), Detail.INCOMPLETE, id="done is absent"),
        pytest.param(COMPLETION | {"done": False}, Detail.INCOMPLETE, id="done is false"),
        pytest.param(COMPLETION | {"done": 1}, Detail.INCOMPLETE, id="done is a number"),
        pytest.param(COMPLETION | {"done": "true"}, Detail.INCOMPLETE, id="done is a text"),
        pytest.param(without(COMPLETION, "done_reason"), Detail.INCOMPLETE, id="no reason"),
        pytest.param(COMPLETION | {"done_reason": None}, Detail.INCOMPLETE, id="reason is null"),
        pytest.param(COMPLETION | {"done_reason": "load"}, Detail.INCOMPLETE, id="the model was loaded"),
        pytest.param(COMPLETION | {"done_reason": "unload"}, Detail.INCOMPLETE, id="the model was unloaded"),
        pytest.param(COMPLETION | {"done_reason": "Stop"}, Detail.INCOMPLETE, id="reason in another case"),
        pytest.param(COMPLETION | {"done_reason": ["stop"]}, Detail.INCOMPLETE, id="reason is a list"),
        pytest.param(COMPLETION | {"done_reason": {}}, Detail.INCOMPLETE, id="reason is an object"),
        pytest.param(COMPLETION | {"error": "boom"}, Detail.ANSWER_ERROR, id="error"),
        pytest.param(COMPLETION | {"error": None}, Detail.ANSWER_ERROR, id="error is null"),
        pytest.param({"error": "boom"}, Detail.ANSWER_ERROR, id="nothing but an error"),
        pytest.param([COMPLETION], Detail.INCOMPLETE, id="array"),
        pytest.param("done", Detail.INCOMPLETE, id="text"),
        pytest.param(None, Detail.INCOMPLETE, id="null"),
        pytest.param(7, Detail.INCOMPLETE, id="number"),
    ],
)
def test_a_completion_that_breaks_one_rule_is_not_kept(document, detail):
    assert storable(GENERATE, head(), json.dumps(document).encode()) == NotStorable(detail=detail)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(json.dumps(COMPLETION).encode()[:-1], id="cut off by one byte"),
        pytest.param(json.dumps(COMPLETION).encode() + b"\n" + json.dumps(COMPLETION).encode(), id="two lines"),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(COMPLETION).encode(), id="BOM"),
        pytest.param(json.dumps(COMPLETION).encode().replace(b"hello", b"\xff"), id="invalid UTF-8"),
        pytest.param(json.dumps(COMPLETION).encode().replace(b"7", b"NaN"), id="NaN"),
        pytest.param(b"<html>", id="another language"),
    ],
)
def test_a_body_that_does_not_parse_is_not_kept(body):
    assert storable(GENERATE, head(), body) == NotStorable(detail=Detail.INCOMPLETE)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({"prompt_eval_count": 0, "eval_count": 1}, (0, 1), id="zero is a count"),
        pytest.param({"prompt_eval_count": None, "eval_count": None}, (None, None), id="null is none"),
        pytest.param({"prompt_eval_count": -1, "eval_count": 1.5}, (None, None), id="no counts"),
        pytest.param({"prompt_eval_count": True, "eval_count": "3"}, (None, None), id="no numbers"),
    ],
)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_count_that_is_none_is_not_made_up(counts, expected, reason):
    body = json.dumps(COMPLETION | counts | {"done_reason": reason}).encode()
    prompt, output = expected
    assert storable(GENERATE, head(), body) == Storable(prompt_tokens=prompt, output_tokens=output)


def test_a_completion_without_counts_is_kept_without():
    body = json.dumps({"done": True, "done_reason": "length"}).encode()
    assert storable(GENERATE, head(), body) == Storable(prompt_tokens=None, output_tokens=None)


def native(*vectors: object, **more: object) -> dict:
    return {"model": "m", "embeddings": list(vectors), "prompt_eval_count": 5} | more


def openai(*vectors: object, **more: object) -> dict:
    rows = [{"object": "embedding", "embedding": vector, "index": index} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": rows, "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}} | more


EMBED, EMBEDDINGS, V1 = "/api/embed", "/api/embeddings", "/v1/embeddings"


@pytest.mark.parametrize(
    ("path", "items", "document", "tokens"),
    [
        pytest.param(EMBED, 1, native([0.5, -1]), 5, id="embed, one"),
        pytest.param(EMBED, 3, native([1.0], [2.0], [3.0]), 5, id="embed, three"),
        pytest.param(EMBED, 1, native([0.0]), 5, id="embed, a vector of zeros"),
        pytest.param(EMBED, 1, without(native([1.0]), "prompt_eval_count"), None, id="embed, no count"),
        pytest.param(EMBEDDINGS, 1, {"embedding": [1.0, 2.0]}, None, id="embeddings"),
        pytest.param(EMBEDDINGS, 1, {"embedding": [1.0], "prompt_eval_count": 2}, 2, id="embeddings with a count"),
        pytest.param(V1, 1, openai([1.0, 2.0]), 5, id="v1, one"),
        pytest.param(V1, 2, openai([1.0], [2.0]), 5, id="v1, two"),
        pytest.param(V1, 2, openai("AACAPw==", "AAAAQA=="), 5, id="v1, base64"),
        pytest.param(V1, 1, without(openai([1.0]), "usage"), None, id="v1, no usage"),
        pytest.param(V1, 1, openai([1.0], usage=None), None, id="v1, usage is null"),
        pytest.param(V1, 1, openai([1.0], usage=[1]), None, id="v1, usage is a list"),
        pytest.param(V1, 1, openai([1.0], usage=5), None, id="v1, usage is a number"),
        pytest.param(V1, 1, openai([1.0], usage={"prompt_tokens": "5"}), None, id="v1, count is a text"),
    ],
)
def test_an_embeddings_answer_of_the_right_count_is_kept(path, items, document, tokens):
    body = json.dumps(document).encode()
    assert storable(candidate(path, items), head(), body) == Storable(prompt_tokens=tokens, output_tokens=None)


@pytest.mark.parametrize(
    ("path", "items", "document", "detail"),
    [
        pytest.param(EMBED, 2, native([1.0]), Detail.ANSWER_COUNT, id="embed, one too few"),
        pytest.param(EMBED, 1, native([1.0], [2.0]), Detail.ANSWER_COUNT, id="embed, one too many"),
        pytest.param(EMBED, 1, native(), Detail.ANSWER_COUNT, id="embed, none"),
        pytest.param(EMBED, 2, native([1.0], []), Detail.ANSWER_COUNT, id="embed, an empty one"),
        pytest.param(EMBED, 2, native([1.0], None), Detail.ANSWER_COUNT, id="embed, a null"),
        pytest.param(EMBED, 1, native(1.0), Detail.ANSWER_COUNT, id="embed, a number for a vector"),
        pytest.param(EMBED, 1, native(True), Detail.ANSWER_COUNT, id="embed, true for a vector"),
        pytest.param(EMBED, 1, native({"0": 1.0}), Detail.ANSWER_COUNT, id="embed, an object for a vector"),
        pytest.param(EMBED, 1, without(native([1.0]), "embeddings"), Detail.ANSWER_COUNT, id="embed, absent"),
        pytest.param(EMBED, 1, native(embeddings=None), Detail.ANSWER_COUNT, id="embed, null"),
        pytest.param(EMBED, 1, native(embeddings={"0": [1.0]}), Detail.ANSWER_COUNT, id="embed, an object"),
        pytest.param(EMBED, 1, native(embeddings="x"), Detail.ANSWER_COUNT, id="embed, a text"),
        pytest.param(EMBED, 1, {"embedding": [1.0]}, Detail.ANSWER_COUNT, id="embed, of the other route"),
        pytest.param(EMBED, 1, native([1.0], error="x"), Detail.ANSWER_ERROR, id="embed, with an error"),
        pytest.param(EMBED, 1, [[1.0]], Detail.INCOMPLETE, id="embed, an array"),
        pytest.param(EMBEDDINGS, 1, {"embedding": []}, Detail.ANSWER_COUNT, id="embeddings, empty"),
        pytest.param(EMBEDDINGS, 1, {"embedding": None}, Detail.ANSWER_COUNT, id="embeddings, null"),
        pytest.param(EMBEDDINGS, 1, {}, Detail.ANSWER_COUNT, id="embeddings, absent"),
        pytest.param(EMBEDDINGS, 1, {"embedding": 1.0}, Detail.ANSWER_COUNT, id="embeddings, a number"),
        pytest.param(EMBEDDINGS, 1, native([1.0]), Detail.ANSWER_COUNT, id="embeddings, of the other route"),
        pytest.param(V1, 2, openai([1.0]), Detail.ANSWER_COUNT, id="v1, one too few"),
        pytest.param(V1, 1, openai([1.0], [2.0]), Detail.ANSWER_COUNT, id="v1, one too many"),
        pytest.param(V1, 1, openai(), Detail.ANSWER_COUNT, id="v1, none"),
        pytest.param(V1, 2, openai([1.0], []), Detail.ANSWER_COUNT, id="v1, an empty one"),
        pytest.param(V1, 2, openai([1.0], ""), Detail.ANSWER_COUNT, id="v1, an empty text"),
        pytest.param(V1, 2, openai([1.0], None), Detail.ANSWER_COUNT, id="v1, a null"),
        pytest.param(V1, 1, openai(7), Detail.ANSWER_COUNT, id="v1, a number for a vector"),
        pytest.param(V1, 1, without(openai([1.0]), "data"), Detail.ANSWER_COUNT, id="v1, absent"),
        pytest.param(V1, 1, openai(data=[[1.0]]), Detail.ANSWER_COUNT, id="v1, a row that is no object"),
        pytest.param(V1, 1, openai(data=[{"index": 0}]), Detail.ANSWER_COUNT, id="v1, a row without a vector"),
        pytest.param(V1, 1, openai(data={"embedding": [1.0]}), Detail.ANSWER_COUNT, id="v1, data is an object"),
        pytest.param(V1, 1, openai(data="x"), Detail.ANSWER_COUNT, id="v1, data is a text"),
        pytest.param(V1, 1, openai(data=5), Detail.ANSWER_COUNT, id="v1, data is a number"),
        pytest.param(V1, 1, openai(data=True), Detail.ANSWER_COUNT, id="v1, data is true"),
        pytest.param(V1, 1, openai([1.0], error={}), Detail.ANSWER_ERROR, id="v1, with an error"),
    ],
)
def test_an_embeddings_answer_that_breaks_one_rule_is_not_kept(path, items, document, detail):
    body = json.dumps(document).encode()
    assert storable(candidate(path, items), head(), body) == NotStorable(detail=detail)
