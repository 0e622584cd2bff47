from __future__ import annotations

import pytest

from ollama_cache_proxy.policy import replies
from ollama_cache_proxy.policy.replies import Reply, reply
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass

MISS = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS)


@pytest.mark.parametrize(
    ("status", "phrase"),
    [(403, "Forbidden"), (502, "Bad Gateway"), (504, "Gateway Timeout"), (508, "Loop Detected")],
)
def test_an_error_has_the_fields_that_ollamas_have(status, phrase):
    head, body = reply(status, b'{"error":"x"}', MISS, 0.0)
    assert (head.status, head.reason) == (status, phrase)
    assert body == b'{"error":"x"}'
    assert head.fields == (
        (b"Content-Type", b"application/json; charset=utf-8"),
        (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Cache-Status", b"ollama-cache-proxy; fwd=miss"),
        (b"X-Cache", b"MISS"),
    )


def test_without_a_message_there_is_no_body_and_no_type():
    head, body = reply(403, b"", bypass(Detail.HOST), 1_700_000_000.9)
    assert body == b""
    assert head.fields == (
        (b"Date", b"Tue, 14 Nov 2023 22:13:20 GMT"),
        (b"Content-Length", b"0"),
        (b"Cache-Status", b"ollama-cache-proxy; fwd=bypass; detail=host"),
        (b"X-Cache", b"BYPASS"),
    )


@pytest.mark.parametrize(
    ("answer", "status", "kind", "body", "more"),
    [
        pytest.param(Reply(body=b"x"), (200, "OK"), replies.JSON, b"x", (), id="plain"),
        pytest.param(Reply(body=b"", kind="text/plain"), (200, "OK"), "text/plain", b"", (), id="of another kind"),
        pytest.param(replies.json({"a": ["☕"]}), (200, "OK"), replies.JSON, '{"a":["☕"]}'.encode(), (), id="JSON"),
        pytest.param(
            replies.json([], 503, ((b"Retry-After", b"1"),)),
            (503, "Service Unavailable"),
            replies.JSON,
            b"[]",
            ((b"Retry-After", b"1"),),
            id="JSON with a status and a field",
        ),
        pytest.param(
            replies.error(405, 'no "such" way', ((b"Allow", b"GET"),)),
            (405, "Method Not Allowed"),
            replies.JSON,
            b'{"error":"no \\"such\\" way"}',
            ((b"Allow", b"GET"),),
            id="an error",
        ),
        pytest.param(replies.error(404, ""), (404, "Not Found"), replies.JSON, b'{"error":""}', (), id="no text"),
    ],
)
def test_a_reply_of_an_admin_route_is_framed_and_never_stored(answer, status, kind, body, more):
    head = replies.head(answer, 1_700_000_000.9)
    assert ((head.status, head.reason), answer.body) == (status, body)
    assert head.fields == (
        (b"Content-Type", kind.encode()),
        (b"Date", b"Tue, 14 Nov 2023 22:13:20 GMT"),
        (b"Cache-Control", b"no-store"),
        (b"Content-Length", str(len(body)).encode()),
        *more,
    )
