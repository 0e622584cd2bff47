from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.policy.classify import Candidate, by_body
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable
from ollama_cache_proxy.policy.endpoints import Policy, find
from ollama_cache_proxy.policy.messages import ResponseHead
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish
from ollama_cache_proxy.policy.storing import by_head, for_one_client, storable, storable_in_steps
from tests.support.recordings import RECORDINGS

JSON = (b"Content-Type", b"application/json; charset=utf-8")


def head(*fields: tuple[bytes, bytes], status: int = 200) -> ResponseHead:
    return ResponseHead(status=status, reason="", fields=(JSON, *fields))


def candidate(path: str, items: int = 1, *, stream: bool = False) -> Candidate:
    endpoint, _ = find("POST", path)
    return Candidate(endpoint=endpoint, model="m", document={}, items=items, stream=stream)


EMBED, EMBEDDINGS, V1 = "/api/embed", "/api/embeddings", "/v1/embeddings"
CHAT, V1_CHAT, V1_COMPLETIONS = "/api/chat", "/v1/chat/completions", "/v1/completions"
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


@pytest.mark.parametrize("path", ["/api/generate", CHAT])
def test_a_whole_completion_is_stored_with_its_counts(path):
    body = json.dumps(COMPLETION).encode()
    assert storable(candidate(path), head(), body) == Storable(prompt_tokens=7, output_tokens=3)


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
        pytest.param(head((b"Cache-Control", b"must-understand, no-store")), Detail.CACHE_CONTROL, id="understood"),
        pytest.param(head((b"Cache-Control", b'x="a, no-store')), Detail.CACHE_CONTROL, id="in quotes that stay open"),
        pytest.param(
            head((b"Cache-Control", b"public"), (b"Cache-Control", b"no-store")),
            Detail.CACHE_CONTROL,
            id="no-store on a second line",
        ),
        pytest.param(head((b"Vary", b"*")), Detail.VARY, id="vary by anything"),
        pytest.param(head((b"Vary", b"Accept")), Detail.VARY, id="vary by what is not in the key"),
        pytest.param(head((b"Vary", b"User-Agent")), Detail.VARY, id="vary by the client"),
        pytest.param(head((b"Vary", b"Accept-Encoding, Cookie")), Detail.VARY, id="vary by a harmless one and another"),
        pytest.param(head((b"Vary", b"Origin, Accept")), Detail.VARY, id="vary by that and Origin"),
        pytest.param(head((b"vary", b"Origin"), (b"VARY", b"Accept")), Detail.VARY, id="vary on a second line"),
    ],
)
def test_a_head_that_breaks_one_rule_is_not_stored(response, detail):
    assert by_head(GENERATE, response) is detail
    assert storable(GENERATE, response, json.dumps(COMPLETION).encode()) == NotStorable(detail=detail)


@pytest.mark.parametrize(
    "value",
    [
        *(b"application/x-ndjson", b"text/plain", b"text/event-stream", b"application/json-seq", b"application/jsonp"),
        *(b"", b"json", b"application/problem+json", b"application/ json"),
    ],
)
def test_another_content_type_is_not_stored(value):
    response = ResponseHead(status=200, reason="", fields=((b"content-type", value),))
    assert by_head(GENERATE, response) is Detail.CONTENT_TYPE


def test_no_content_type_is_not_stored():
    assert by_head(GENERATE, ResponseHead(status=200, reason="", fields=())) is Detail.CONTENT_TYPE


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(((b"Content-Type", b"application/json"),), id="without a charset"),
        pytest.param(((b"CONTENT-TYPE", b"Application/JSON ;x=y"),), id="in another case"),
        pytest.param((JSON, (b"Vary", b"Origin"), (b"vary", b"ORIGIN")), id="vary by Origin"),
        pytest.param((JSON, (b"Vary", b"")), id="vary by nothing"),
        pytest.param((JSON, (b"Vary", b"Accept-Encoding, Origin")), id="vary by what is never sent"),
        pytest.param((JSON, (b"Vary", b"authorization, X-API-Key")), id="vary by what is in the key"),
        pytest.param((JSON, (b"Cache-Control", b"must-revalidate, proxy-revalidate")), id="nothing stale is served"),
        pytest.param((JSON, (b"Cache-Control", b"must-understand, max-age=5")), id="a 200 is understood"),
        pytest.param((JSON, (b"Cache-Control", b'x="a, no-store"')), id="a directive within quotes"),
        pytest.param((JSON, (b"Cache-Control", b"public, max-age=0, no-transform")), id="other directives"),
        pytest.param((JSON, (b"Cache-Control", b"x=no-store, no-storex")), id="names that only look alike"),
        pytest.param((JSON, (b"Date", b"x"), (b"Server", b"y"), (b"ETag", b"z")), id="other fields"),
        pytest.param((JSON, (b"Access-Control-Allow-Origin", b"*")), id="CORS"),
    ],
)
def test_a_head_that_breaks_no_rule_is_stored(fields):
    assert by_head(GENERATE, ResponseHead(status=200, reason="", fields=fields)) is None


@pytest.mark.parametrize(
    ("field", "alone"),
    [
        *(((b"Set-Cookie", b"a=b"), True), ((b"Cache-Control", b"private"), True), ((b"Vary", b"*"), True)),
        *(((b"cache-control", b"no-store"), True), ((b"VARY", b"Accept"), True)),
        *(((b"Vary", b"Origin, Accept-Encoding"), False), ((b"Cache-Control", b"max-age=0"), False)),
        *(((b"Content-Encoding", b"gzip"), False), ((b"ETag", b'"a"'), False), ((b"Content-Type", b"x/y"), False)),
    ],
)
@pytest.mark.parametrize("more", [(), ((b"Content-Encoding", b"gzip"),)], ids=["plain", "encoded"])
def test_what_is_for_one_client_alone_is_not_for_those_who_wait_for_it(field, alone, more):
    assert for_one_client(candidate("/api/generate"), head(*more, field)) is alone


TYPES = (b"application/json", b"application/x-ndjson", b"text/event-stream")


@pytest.mark.parametrize("charset", [b"", b"; charset=utf-8"], ids=["bare", "with a charset"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        *(
            pytest.param(candidate(path), b"application/json", id=path)
            for path in ("/api/generate", CHAT, EMBED, EMBEDDINGS, V1, V1_CHAT, V1_COMPLETIONS)
        ),
        *(
            pytest.param(candidate(path, stream=True), b"application/x-ndjson", id=f"a stream of {path}")
            for path in ("/api/generate", CHAT)
        ),
        *(
            pytest.param(candidate(path, stream=True), b"text/event-stream", id=f"a stream of {path}")
            for path in (V1_CHAT, V1_COMPLETIONS)
        ),
    ],
)
def test_each_form_of_response_has_its_own_content_type(asked, expected, charset):
    heads = {kind: ResponseHead(status=200, reason="", fields=((b"Content-Type", kind + charset),)) for kind in TYPES}
    assert [kind for kind in TYPES if by_head(asked, heads[kind]) is None] == [expected]
    assert {by_head(asked, heads[kind]) for kind in TYPES if kind != expected} == {Detail.CONTENT_TYPE}


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
        pytest.param(COMPLETION | {"error": ""}, Detail.ANSWER_ERROR, id="error is empty"),
        pytest.param({"error": "boom"}, Detail.ANSWER_ERROR, id="nothing but an error"),
        pytest.param([COMPLETION], Detail.INCOMPLETE, id="array"),
        pytest.param("done", Detail.INCOMPLETE, id="text"),
        pytest.param(None, Detail.INCOMPLETE, id="null"),
        pytest.param(7, Detail.INCOMPLETE, id="number"),
    ],
)
@pytest.mark.parametrize("path", ["/api/generate", CHAT])
def test_a_completion_that_breaks_one_rule_is_not_stored(document, detail, path):
    assert storable(candidate(path), head(), json.dumps(document).encode()) == NotStorable(detail=detail)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        pytest.param(GENERATE, json.dumps(COMPLETION | {"error": None}).encode(), id="whole"),
        pytest.param(
            candidate("/api/generate", stream=True),
            b'{"response":"a","done":false,"error":null}\n{"done":true,"done_reason":"stop","error":null}\n',
            id="lines",
        ),
        pytest.param(
            candidate(V1_CHAT, stream=True),
            b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"error":null}\n\ndata: [DONE]\n\n',
            id="events",
        ),
        pytest.param(
            candidate(EMBED), b'{"model":"m","embeddings":[[1.0]],"prompt_eval_count":5,"error":null}', id="vectors"
        ),
    ],
)
def test_an_error_that_is_null_is_none(asked, sent):
    kind = asked.endpoint.dialect.STREAM_TYPE if asked.stream else b"application/json"
    fields = ((b"Content-Type", kind),)
    assert isinstance(storable(asked, ResponseHead(status=200, reason="", fields=fields), sent), Storable)


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
def test_a_body_that_does_not_parse_is_not_stored(body):
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


def test_a_completion_without_counts_is_stored_without():
    body = json.dumps({"done": True, "done_reason": "length"}).encode()
    assert storable(GENERATE, head(), body) == Storable(prompt_tokens=None, output_tokens=None)


def native(*vectors: object, **more: object) -> dict:
    return {"model": "m", "embeddings": list(vectors), "prompt_eval_count": 5} | more


def openai(*vectors: object, **more: object) -> dict:
    rows = [{"object": "embedding", "embedding": vector, "index": index} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": rows, "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}} | more


@pytest.mark.parametrize(
    ("path", "items", "document", "tokens"),
    [
        pytest.param(EMBED, 1, native([0.5, -1]), 5, id="embed, one"),
        pytest.param(EMBED, 3, native([1.0], [2.0], [3.0]), 5, id="embed, three"),
        pytest.param(EMBED, 1, native([0.0]), 5, id="embed, a vector of zeros"),
        pytest.param(EMBED, 1, native([[1.0, 2], [3, 4.0]]), 5, id="embed, a row for each token"),
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
def test_an_embeddings_response_of_the_right_count_is_stored(path, items, document, tokens):
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
        pytest.param(EMBED, 1, native([None, 1]), Detail.ANSWER_COUNT, id="embed, a null for a number"),
        pytest.param(EMBED, 1, native(["1", 1]), Detail.ANSWER_COUNT, id="embed, a text for a number"),
        pytest.param(EMBED, 1, native([True]), Detail.ANSWER_COUNT, id="embed, true for a number"),
        pytest.param(EMBED, 1, native([[1.0], 1.0]), Detail.ANSWER_COUNT, id="embed, a row beside a number"),
        pytest.param(EMBED, 1, native([[1.0], []]), Detail.ANSWER_COUNT, id="embed, an empty row"),
        pytest.param(EMBED, 1, native([[1.0], [None]]), Detail.ANSWER_COUNT, id="embed, a null in a row"),
        pytest.param(EMBED, 1, native([[[1.0]]]), Detail.ANSWER_COUNT, id="embed, rows of rows"),
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
        pytest.param(EMBEDDINGS, 1, {"embedding": [1.0, None]}, Detail.ANSWER_COUNT, id="embeddings, a null in it"),
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
def test_an_embeddings_response_that_breaks_one_rule_is_not_stored(path, items, document, detail):
    body = json.dumps(document).encode()
    assert storable(candidate(path, items), head(), body) == NotStorable(detail=detail)


# responses in OpenAI's form


def choices(*reasons: object, **more: object) -> dict:
    rows = [{"index": index, "text": "hello", "finish_reason": reason} for index, reason in enumerate(reasons)]
    return {"id": "x", "choices": rows, "usage": {"prompt_tokens": 7, "completion_tokens": 3}} | more


each_of_openai = pytest.mark.parametrize("path", [V1_CHAT, V1_COMPLETIONS])


@each_of_openai
@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        *(pytest.param(choices(reason), (7, 3), id=reason) for reason in ("stop", "length", "tool_calls")),
        pytest.param(choices("stop", usage={"prompt_tokens": 0, "completion_tokens": 0}), (0, 0), id="zeros"),
        pytest.param(choices("stop", usage={"prompt_tokens": 7}), (7, None), id="one count"),
        pytest.param(choices("stop", usage={"prompt_tokens": -1, "completion_tokens": "3"}), (None, None), id="none"),
        pytest.param(choices("stop", usage={"prompt_tokens": True, "completion_tokens": 1.5}), (None, None), id="nor"),
        pytest.param(without(choices("stop"), "usage"), (None, None), id="no usage"),
        *(
            pytest.param(choices("stop", usage=usage), (None, None), id=f"usage {usage!r}")
            for usage in (None, {}, [7, 3], 7, "7")
        ),
    ],
)
def test_a_response_of_openais_form_that_has_come_to_its_end_is_stored(path, document, tokens):
    verdict = storable(candidate(path), head(), json.dumps(document).encode())
    assert verdict == Storable(prompt_tokens=tokens[0], output_tokens=tokens[1])


@each_of_openai
@pytest.mark.parametrize(
    ("document", "detail"),
    [
        *(
            pytest.param(choices(reason), Detail.INCOMPLETE, id=f"reason {reason!r}")
            for reason in (
                *(None, "", "load", "unload", "Stop", "content_filter", "function_call", "error"),
                *(True, 1, ["stop"], {"stop": 1}),
            )
        ),
        pytest.param(choices(choices=[{"index": 0}]), Detail.INCOMPLETE, id="no reason"),
        pytest.param(choices("stop", "stop"), Detail.INCOMPLETE, id="two choices"),
        pytest.param(choices(), Detail.INCOMPLETE, id="no choice"),
        pytest.param(without(choices("stop"), "choices"), Detail.INCOMPLETE, id="choices are absent"),
        *(
            pytest.param(choices(choices=rows), Detail.INCOMPLETE, id=f"choices {rows!r}")
            for rows in (None, "stop", 1, True, {"finish_reason": "stop"}, ["stop"], [None], [["stop"]])
        ),
        pytest.param(choices("stop", error={"message": "boom"}), Detail.ANSWER_ERROR, id="with an error"),
        pytest.param({"error": {"message": "boom"}}, Detail.ANSWER_ERROR, id="nothing but an error"),
        pytest.param(COMPLETION, Detail.INCOMPLETE, id="of another form"),
        pytest.param([choices("stop")], Detail.INCOMPLETE, id="a list"),
        pytest.param(None, Detail.INCOMPLETE, id="null"),
    ],
)
def test_a_response_of_openais_form_that_breaks_one_rule_is_not_stored(path, document, detail):
    assert storable(candidate(path), head(), json.dumps(document).encode()) == NotStorable(detail=detail)


# streams of JSON lines

NDJSON = ResponseHead(status=200, reason="", fields=((b"Content-Type", b"application/x-ndjson"),))
PART = {"model": "m", "response": "hel", "done": False}
each_of_lines = pytest.mark.parametrize("path", ["/api/generate", CHAT])


def lines(*documents: object) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


@each_of_lines
@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        pytest.param(lines(PART, PART, COMPLETION), (7, 3), id="several"),
        pytest.param(lines(COMPLETION), (7, 3), id="the end alone"),
        pytest.param(lines(PART, COMPLETION | {"done_reason": "length"}), (7, 3), id="at its limit"),
        pytest.param(lines(PART | {"eval_count": 9}, without(COMPLETION, "eval_count")), (7, None), id="by the last"),
    ],
)
def test_a_stream_of_lines_that_has_come_to_its_end_is_stored(path, body, tokens):
    verdict = storable(candidate(path, stream=True), NDJSON, body)
    assert verdict == Storable(prompt_tokens=tokens[0], output_tokens=tokens[1])


@each_of_lines
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        pytest.param(b"", Detail.INCOMPLETE, id="nothing"),
        pytest.param(b"\n", Detail.INCOMPLETE, id="an empty line"),
        pytest.param(lines(PART, PART), Detail.INCOMPLETE, id="no end"),
        pytest.param(lines(PART, COMPLETION)[:-1], Detail.INCOMPLETE, id="no line end"),
        pytest.param(lines(PART, COMPLETION)[:-2], Detail.INCOMPLETE, id="half a line"),
        pytest.param(lines(COMPLETION) + b" ", Detail.INCOMPLETE, id="something after the end"),
        pytest.param(lines(COMPLETION) + b"\n", Detail.INCOMPLETE, id="an empty line after the end"),
        pytest.param(lines(PART) + b"\n" + lines(COMPLETION), Detail.INCOMPLETE, id="an empty line within"),
        pytest.param(lines(PART) + b"junk\n" + lines(COMPLETION), Detail.INCOMPLETE, id="a line that is no JSON"),
        pytest.param(lines(PART, [PART], COMPLETION), Detail.INCOMPLETE, id="a line that is no object"),
        pytest.param(lines(PART, None, COMPLETION), Detail.INCOMPLETE, id="null"),
        pytest.param(lines(COMPLETION, COMPLETION), Detail.INCOMPLETE, id="two ends"),
        pytest.param(lines(COMPLETION, PART), Detail.INCOMPLETE, id="an end before the last line"),
        pytest.param(lines(PART, COMPLETION, PART, COMPLETION), Detail.INCOMPLETE, id="an end in the middle"),
        pytest.param(lines(without(PART, "done"), COMPLETION), Detail.INCOMPLETE, id="a part that does not say done"),
        pytest.param(lines(PART | {"done": 0}, COMPLETION), Detail.INCOMPLETE, id="or says it otherwise"),
        pytest.param(lines(PART, without(COMPLETION, "done")), Detail.INCOMPLETE, id="the last does not say done"),
        pytest.param(lines(PART, COMPLETION | {"done": False}), Detail.INCOMPLETE, id="the last is not done"),
        pytest.param(lines(PART, without(COMPLETION, "done_reason")), Detail.INCOMPLETE, id="done without a reason"),
        pytest.param(lines(COMPLETION | {"done_reason": "load"}), Detail.INCOMPLETE, id="the model was loaded"),
        pytest.param(lines(COMPLETION | {"done_reason": "unload"}), Detail.INCOMPLETE, id="the model was unloaded"),
        pytest.param(lines(PART, {"error": "boom"}), Detail.ANSWER_ERROR, id="an error at the end"),
        pytest.param(lines({"error": "boom"}), Detail.ANSWER_ERROR, id="nothing but an error"),
        pytest.param(lines(PART, {"error": "boom"}, COMPLETION), Detail.ANSWER_ERROR, id="an error in the middle"),
    ],
)
def test_a_stream_of_lines_that_breaks_one_rule_is_not_stored(path, body, detail):
    assert storable(candidate(path, stream=True), NDJSON, body) == NotStorable(detail=detail)


# streams of events

EVENTS = ResponseHead(status=200, reason="", fields=((b"Content-Type", b"text/event-stream"),))
DONE = b"data: [DONE]\n\n"
OPEN, ENDED = {"choices": [{"finish_reason": None}]}, {"choices": [{"finish_reason": "stop"}]}
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}


def events(*documents: object) -> bytes:
    return b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)


@each_of_openai
@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        pytest.param(events(OPEN, OPEN, ENDED), (None, None), id="without usage"),
        pytest.param(events(ENDED), (None, None), id="the end alone"),
        pytest.param(events(OPEN, ENDED, USAGE), (7, 3), id="with usage"),
        pytest.param(
            events(OPEN | {"usage": NO_USAGE}, ENDED | {"usage": NO_USAGE}, USAGE), (7, 3), id="zeros before it"
        ),
        pytest.param(events(OPEN, ENDED | {"usage": None}), (None, None), id="usage that is null"),
        *(
            pytest.param(events(OPEN, {"choices": [{"finish_reason": reason}]}), (None, None), id=reason)
            for reason in ("length", "tool_calls")
        ),
    ],
)
def test_a_stream_of_events_that_has_come_to_its_end_is_stored(path, body, tokens):
    verdict = storable(candidate(path, stream=True), EVENTS, body + DONE)
    assert verdict == Storable(prompt_tokens=tokens[0], output_tokens=tokens[1])


@each_of_openai
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        pytest.param(b"", Detail.INCOMPLETE, id="nothing"),
        pytest.param(DONE, Detail.INCOMPLETE, id="nothing but the last event"),
        pytest.param(events(OPEN, ENDED), Detail.INCOMPLETE, id="no last event"),
        pytest.param(events(OPEN, ENDED) + DONE[:-1], Detail.INCOMPLETE, id="half of it"),
        pytest.param(events(OPEN, ENDED) + DONE + b"\n", Detail.INCOMPLETE, id="something after it"),
        pytest.param(events(ENDED, USAGE)[:-2] + DONE, Detail.INCOMPLETE, id="no end of the event before it"),
        pytest.param(events(ENDED) + b"junk" + DONE, Detail.INCOMPLETE, id="something before it"),
        pytest.param(events(OPEN, ENDED) + DONE + DONE, Detail.INCOMPLETE, id="two of them"),
        pytest.param(events(OPEN) + DONE + events(ENDED) + DONE, Detail.INCOMPLETE, id="one in the middle"),
        pytest.param(events(OPEN) + DONE, Detail.INCOMPLETE, id="no reason to end"),
        pytest.param(events(OPEN, USAGE) + DONE, Detail.INCOMPLETE, id="nor with usage"),
        pytest.param(events({"choices": [{}]}) + DONE, Detail.INCOMPLETE, id="a choice without one"),
        pytest.param(events({}) + DONE, Detail.INCOMPLETE, id="an empty event"),
        pytest.param(events(ENDED, ENDED) + DONE, Detail.INCOMPLETE, id="two ends"),
        pytest.param(
            events({"choices": [{"finish_reason": "load"}]}) + DONE, Detail.INCOMPLETE, id="the model was loaded"
        ),
        pytest.param(events(OPEN) + b"data: junk\n\n" + events(ENDED) + DONE, Detail.INCOMPLETE, id="no JSON"),
        pytest.param(events(OPEN) + b"junk\n\n" + events(ENDED) + DONE, Detail.INCOMPLETE, id="no event"),
        pytest.param(b"{}    \n\n" + events(ENDED) + DONE, Detail.INCOMPLETE, id="an event without its field"),
        pytest.param(b": ping\n\n" + events(ENDED) + DONE, Detail.INCOMPLETE, id="a comment"),
        pytest.param(b"event: x\n" + events(ENDED) + DONE, Detail.INCOMPLETE, id="an event with a name"),
        pytest.param(events(OPEN)[:-1] + events(ENDED) + DONE, Detail.INCOMPLETE, id="an event of two lines"),
        pytest.param(events(OPEN) + b"\n\n" + events(ENDED) + DONE, Detail.INCOMPLETE, id="no event between two"),
        pytest.param(events([ENDED]) + DONE, Detail.INCOMPLETE, id="an event that is no object"),
        pytest.param(events(OPEN, {"error": {}}) + DONE, Detail.ANSWER_ERROR, id="an error at the end"),
        pytest.param(events(OPEN, {"error": "boom"}, ENDED) + DONE, Detail.ANSWER_ERROR, id="an error in the middle"),
        pytest.param(lines(PART, COMPLETION), Detail.INCOMPLETE, id="lines"),
    ],
)
def test_a_stream_of_events_that_breaks_one_rule_is_not_stored(path, body, detail):
    assert storable(candidate(path, stream=True), EVENTS, body) == NotStorable(detail=detail)


@pytest.mark.parametrize(
    ("field", "detail"),
    [
        pytest.param((b"Set-Cookie", b"a=b"), Detail.SET_COOKIE, id="cookie"),
        pytest.param((b"Content-Encoding", b"gzip"), Detail.RESPONSE_ENCODING, id="gzip"),
        pytest.param((b"Cache-Control", b"no-store"), Detail.CACHE_CONTROL, id="no-store"),
        pytest.param((b"Vary", b"*"), Detail.VARY, id="vary"),
    ],
)
@pytest.mark.parametrize(
    ("path", "response", "body"), [(CHAT, NDJSON, lines(COMPLETION)), (V1_CHAT, EVENTS, events(ENDED) + DONE)]
)
def test_a_stream_whose_head_breaks_a_rule_is_not_stored(path, response, body, field, detail):
    broken = ResponseHead(status=200, reason="", fields=(*response.fields, field))
    assert storable(candidate(path, stream=True), broken, body) == NotStorable(detail=detail)
    assert isinstance(storable(candidate(path, stream=True), response, body), Storable)


AGENTS = {
    "/v1/responses": b'event: response.completed\ndata: {"type":"response.completed","response":'
    b'{"object":"response","status":"completed","error":null}}\n\n',
    "/v1/messages": b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}


@pytest.mark.parametrize(("path", "body"), AGENTS.items())
@pytest.mark.parametrize(
    ("value", "stored"),
    [(b"no-cache", True), (b"no-cache, no-store", False), (b"private", False), (b"no-cache, private", False)],
)
def test_of_agents_streams_ollama_says_no_cache_whatever_is_in_them(path, body, value, stored):
    said = ResponseHead(status=200, reason="", fields=(*EVENTS.fields, (b"Cache-Control", value)))
    expected = Storable(prompt_tokens=None, output_tokens=None)
    assert storable(candidate(path, stream=True), said, body) == (
        expected if stored else NotStorable(detail=Detail.CACHE_CONTROL)
    )
    assert for_one_client(candidate(path, stream=True), said) is not stored


@pytest.mark.parametrize("path", [*AGENTS, CHAT, V1_CHAT])
def test_elsewhere_no_cache_is_heard(path):
    whole = ResponseHead(
        status=200, reason="", fields=((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-cache"))
    )
    assert storable(candidate(path), whole, b"{}") == NotStorable(detail=Detail.CACHE_CONTROL)
    if path not in AGENTS:
        streamed = NDJSON if path == CHAT else EVENTS
        said = ResponseHead(status=200, reason="", fields=(*streamed.fields, (b"Cache-Control", b"no-cache")))
        assert storable(candidate(path, stream=True), said, b"") == NotStorable(detail=Detail.CACHE_CONTROL)


TRANSCRIBED = find("POST", "/v1/audio/transcriptions")[0]


@pytest.mark.parametrize(
    ("text", "kind", "body", "expected"),
    [
        (False, b"application/json", b'{"text":"hello"}\n', None),
        (False, b"text/plain", b"hello", Detail.CONTENT_TYPE),
        (False, b"application/json", b"", Detail.INCOMPLETE),
        (False, b"application/json", b'{"error":"x","text":""}', Detail.ANSWER_ERROR),
        (True, b"text/plain", b"hello", None),
        (True, b"text/plain; charset=utf-8", b"hello", None),
        (True, b"application/json", b'{"text":"hello"}', Detail.CONTENT_TYPE),
        (True, b"text/plain", b"", Detail.INCOMPLETE),
        (True, b"text/plain", b" \n", Detail.INCOMPLETE),
        (True, b"text/html", b"hello", Detail.CONTENT_TYPE),
        (True, b"application/x-ndjson", b"hello", None),
        (True, b"application/x-ndjson", b"", Detail.INCOMPLETE),
        (False, b"application/x-ndjson", b'{"text":"hello"}\n', None),
        (False, b"application/x-ndjson", b"", Detail.INCOMPLETE),
    ],
)
def test_a_transcription_is_stored_in_the_form_that_was_asked_for(text, kind, body, expected):
    """Ollama says nothing where the model failed halfway, with status 200: an empty text may be no text.

    The type is that of a stream of lines unless the first token was the last one.
    """
    asking = Candidate(endpoint=TRANSCRIBED, model="m", document={}, items=1, text=text)
    answer = ResponseHead(status=200, reason="", fields=((b"Content-Type", kind),))
    stored = Storable(prompt_tokens=None, output_tokens=None)
    assert storable(asking, answer, body) == (stored if expected is None else NotStorable(detail=expected))


# responses of a real Ollama

RECORDED = {f"{release}/{name}": case for release, cases in RECORDINGS.items() for name, case in cases.items()}


def of_both(rows):
    """What both releases were asked, and answered alike."""
    return {f"{release}/{name}": value for release in RECORDINGS for name, value in rows.items()}


STREAMS = of_both(
    {
        "generate_stream_default": (3, 4),
        "generate_stream_true": (3, 4),
        "generate_stream_null": (3, 4),
        "chat_stream": (2, 4),
        "v1_chat_stream": (2, 4),
        "v1_completions_stream": (None, None),
    }
) | {"0.33/v1_chat_stream_33": (None, None), "0.33/v1_chat_stream_usage": (2, 4)}
WHOLE = of_both(
    {
        "generate_nonstream": (3, 8),
        "generate_keep_alive_str": (1, 2),
        "generate_stop": (3, 4),
        "generate_raw": (3, 4),
        "generate_format_json": (4, 8),
        "generate_context": (6, 4),
        "generate_logprobs": (3, 2),
        "generate_option_unknown": (3, 2),
        "generate_unknown_field": (3, 2),
        "generate_form_content_type": (3, 2),
        "generate_no_content_type": (3, 2),
        "generate_latest_tag": (3, 2),
        "generate_full_name": (3, 2),
        "generate_origin_ok": (3, 2),
        "generate_copy": (3, 2),
        "chat_nonstream": (2, 4),
        "v1_chat": (2, 4),
        "v1_completions": (3, 4),
        "v1_responses": (2, 4),
        "v1_messages": (2, 4),
    }
) | {
    "0.24/generate_images_bad": (8, 32),
    "0.24/generate_system": (6, 4),
    "0.33/generate_over_context": (2050, 4),
}
NOT_STORED = of_both(
    dict.fromkeys(
        (
            *(
                "generate_suffix_unsupported",
                "generate_think_unsupported",
                "generate_option_bad_type",
                "generate_origin_bad",
            ),
            *("generate_missing_model", "generate_missing_model_stream", "chat_tools_unsupported", "v1_chat_missing"),
        ),
        Detail.STATUS,
    )
) | {
    "0.33/generate_images_bad": Detail.STATUS,
    "0.33/generate_images_no_vision": Detail.STATUS,
    "0.33/generate_over_context_no_shift": Detail.STATUS,
    "0.33/chat_native_error": Detail.STATUS,
    "0.33/chat_native_error_stream": Detail.ANSWER_ERROR,
    "0.33/chat_effort_bad": Detail.STATUS,
    "0.33/chat_effort_minimal": Detail.STATUS,
    "0.33/generate_debug_jinja": Detail.INCOMPLETE,
    "0.33/generate_system": Detail.INCOMPLETE,
    "0.33/generate_no_text": Detail.INCOMPLETE,
    "0.33/generate_no_text_stream": Detail.INCOMPLETE,
    "0.33/chat_no_text": Detail.INCOMPLETE,
    "0.33/v1_chat_no_text": Detail.INCOMPLETE,
    "0.33/v1_chat_no_text_stream": Detail.CONTENT_TYPE,
}


def asked(name: str) -> Candidate | None:
    """The recorded request, where it is a candidate for a completion."""
    request = RECORDED[name]["request"]
    endpoint, exact = find(request["method"], request["path"])
    if endpoint.policy is None or endpoint.path in (EMBED, EMBEDDINGS, V1) or not exact:
        return None
    outcome = by_body(
        endpoint, (request["body"] or "").encode("latin-1"), policy_of=lambda _: Policy.ALWAYS, streams=True
    )
    return outcome if isinstance(outcome, Candidate) else None


def answered(name: str) -> tuple[ResponseHead, bytes]:
    response = RECORDED[name]["response"]
    fields = tuple((name.encode(), value.encode()) for name, value in response["headers"])
    text = response.get("body") or "".join(chunk["data"] for chunk in response.get("chunks") or ())
    status = int(response["status_line"].split()[1])
    return ResponseHead(status=status, reason="", fields=fields), text.encode("latin-1")


def test_every_recorded_candidate_is_looked_at():
    assert {name for name in RECORDED if asked(name) is not None} == {*STREAMS, *WHOLE, *NOT_STORED}


@pytest.mark.parametrize("name", [*STREAMS, *WHOLE])
def test_what_a_real_ollama_answered_to_its_end_is_stored(name):
    prompt, output = (STREAMS | WHOLE)[name]
    assert asked(name).stream is (name in STREAMS)
    assert storable(asked(name), *answered(name)) == Storable(prompt_tokens=prompt, output_tokens=output)


@pytest.mark.parametrize(("name", "detail"), NOT_STORED.items())
def test_what_a_real_ollama_refused_or_did_not_end_is_not_stored(name, detail):
    assert storable(asked(name), *answered(name)) == NotStorable(detail=detail)


@pytest.mark.parametrize("name", [*STREAMS, *WHOLE])
def test_what_a_real_ollama_answered_is_not_stored_without_its_last_bytes(name):
    response, body = answered(name)
    whole = body if name in STREAMS else body.rstrip(b"\n")
    verdicts = {storable(asked(name), response, whole[:length]) for length in range(len(whole))}
    assert verdicts == {NotStorable(detail=Detail.INCOMPLETE)}


@pytest.mark.parametrize("name", STREAMS)
def test_of_what_a_real_ollama_streamed_only_the_last_chunk_ends_it(name):
    chunks = [chunk["data"].encode("latin-1") for chunk in RECORDED[name]["response"]["chunks"]]
    endpoint = asked(name).endpoint
    assert [endpoint.dialect.ends(chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize(
    ("path", "chunk", "last"),
    [
        pytest.param(
            CHAT, b'{"done":false}\n{"done":true,"done_reason":"stop"}\n', True, id="lines, the last with more"
        ),
        pytest.param(CHAT, b'{"message":{"content":"{\\"done\\":true}"},"done":false}\n', False, id="lines, as a text"),
        pytest.param(CHAT, DONE, False, id="lines, of the other form"),
        pytest.param(CHAT, b"", False, id="lines, nothing"),
        pytest.param(V1_CHAT, events(ENDED) + DONE, True, id="events, the last with more"),
        pytest.param(V1_CHAT, DONE[:-1], False, id="events, half of the last"),
        pytest.param(V1_CHAT, DONE + b"x", False, id="events, something after it"),
        pytest.param(V1_CHAT, b'{"done":true}', False, id="events, of the other form"),
        pytest.param(V1_CHAT, b"", False, id="events, nothing"),
    ],
)
def test_a_chunk_that_holds_the_end_is_the_last(path, chunk, last):
    assert find("POST", path)[0].dialect.ends(chunk) is last


@pytest.mark.parametrize(
    "name",
    [
        *("generate_load_empty_prompt", "generate_load_nonstream", "generate_load_empty_string"),
        *("generate_unload", "chat_load"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("release", RECORDINGS)
def test_what_a_real_ollama_said_of_a_command_is_never_stored(release, name, stream):
    response, body = answered(f"{release}/{name}")
    path = RECORDED[f"{release}/{name}"]["request"]["path"]
    head_of_its_form = NDJSON if stream else response
    assert storable(candidate(path, stream=stream), head_of_its_form, body + b"\n" * stream) == NotStorable(
        detail=Detail.INCOMPLETE
    )


@pytest.mark.parametrize(
    ("path", "chunk", "last"),
    [
        ("/api/generate", b'{"response":"x","done":false}\n', False),
        ("/api/generate", b'{"response":"","done":true,"done_reason":"stop"}\n', True),
        ("/api/generate", b'{"response":"x","done":false}\n{"done":true}\n', True),
        ("/api/chat", b'{"message":{"tool_calls":[{"function":{"arguments":{"done":true}}}]},"done":false}\n', False),
        ("/api/chat", b'"done":true', False),
        ("/v1/chat/completions", b'data: {"choices":[]}\n\n', False),
        ("/v1/chat/completions", b"data: [DONE]\n\n", True),
        ("/v1/completions", b'data: {"text":"data: [DONE]"}\n\n', False),
    ],
)
def test_the_last_chunk_of_a_stream_is_known(path, chunk, last):
    assert find("POST", path)[0].dialect.ends(chunk) is last


@pytest.mark.parametrize("reasons", [["stop", None], ["stop", "stop"], [None], [], ["load"], [["stop"]]], ids=str)
def test_a_response_has_one_end_and_it_is_the_last(reasons):
    endpoint = find("POST", "/v1/chat/completions")[0]
    candidate = Candidate(endpoint=endpoint, model="m", document={}, items=1)
    head = ResponseHead(status=200, reason="OK", fields=((b"Content-Type", b"application/json"),))
    body = json.dumps({"choices": [{"finish_reason": reason} for reason in reasons]}).encode()
    assert storable(candidate, head, body) == NotStorable(detail=Detail.INCOMPLETE)
    parts = b"".join(
        b"data: %b\n\n" % json.dumps({"choices": [{"finish_reason": reason}]}).encode() for reason in reasons
    )
    stream = Candidate(endpoint=endpoint, model="m", document={}, items=1, stream=True)
    head = ResponseHead(status=200, reason="OK", fields=((b"Content-Type", b"text/event-stream"),))
    assert storable(stream, head, parts + b"data: [DONE]\n\n") == NotStorable(detail=Detail.INCOMPLETE)


def event(name: str, **members: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps(members).encode())


SMALL, LARGE = {"response": "a", "done": False}, {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}
USED = {"input_tokens": 7, "output_tokens": 3}
LONG: dict[str, tuple[bytes, bytes, bytes]] = {
    "/api/generate": (lines(SMALL), lines(COMPLETION), lines({"error": "x"})),
    V1_CHAT: (events(LARGE), events(ENDED, USAGE) + DONE, events({"error": "x"})),
    "/v1/responses": (
        event("response.output_text.delta", delta="a"),
        event("response.completed", response={"object": "response", "status": "completed", "usage": USED}),
        event("error", error="x"),
    ),
    "/v1/messages": (
        event("content_block_start", text="a"),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage=USED) + event("message_stop"),
        event("error", error="x"),
    ),
}
"""A part of a stream, its end, and an error."""


@pytest.mark.parametrize("path", LONG)
@pytest.mark.parametrize("count", [0, 1998, 1999, 2000, 2001])
def test_a_long_stream_is_read_in_steps_and_judged_as_a_short_one(path, count):
    asked = candidate(path, stream=True)
    kind = b"application/x-ndjson" if path == "/api/generate" else b"text/event-stream"
    good = ResponseHead(status=200, reason="OK", fields=((b"Content-Type", kind),))
    part, end, error = LONG[path]

    def judged(body: bytes) -> Storable | Detail:
        verdict = finish(storable_in_steps(asked, good, body))
        assert verdict == storable(asked, good, body)
        return verdict.detail if isinstance(verdict, NotStorable) else verdict

    parts = part * count
    assert judged(parts + end) == Storable(prompt_tokens=7, output_tokens=3)
    assert judged(parts + error + parts + end) == Detail.ANSWER_ERROR
    for wrong in (
        parts,
        parts + end[:-1],
        parts + end + part[:9],
        parts + end + parts + end,
        part[1:] + parts + end,
        parts + b"\n" + parts + end,
        parts + part[:-4] + parts + end,
        parts + end + b"\n",
    ):
        assert judged(wrong) == Detail.INCOMPLETE
    bad = ResponseHead(status=500, reason="", fields=good.fields)
    assert finish(storable_in_steps(asked, bad, parts + end)) == NotStorable(detail=Detail.STATUS)
    assert len(list(storable_in_steps(asked, good, parts + end))) >= (4 if count else 1)


def test_a_stream_with_a_line_that_takes_long_to_read_is_too_large():
    good = ResponseHead(status=200, reason="OK", fields=((b"Content-Type", b"application/x-ndjson"),))
    dense = b'{"done":false,"response":"a","more":[%b{}]}\n' % (b"{}," * 300_000)
    asked = candidate("/api/generate", stream=True)
    for body in (dense, dense[:-1], lines(SMALL) * 2000 + dense + lines(COMPLETION)):
        verdict = finish(storable_in_steps(asked, good, body))
        assert verdict == NotStorable(detail=Detail.ANSWER_TOO_LARGE)
    long = lines(SMALL | {"response": "a" * 2_000_000}) + lines(SMALL) * 20_000 + lines(COMPLETION)
    assert finish(storable_in_steps(asked, good, long)) == Storable(prompt_tokens=7, output_tokens=3)


def test_what_is_no_stream_is_judged_as_in_one_step():
    body = json.dumps(COMPLETION).encode()
    assert finish(storable_in_steps(GENERATE, head(), body)) == storable(GENERATE, head(), body)
