from __future__ import annotations

import json

import pytest

from proxy.policy.replies import reply
from proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass

MISS = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS)


@pytest.mark.parametrize(
    ("status", "phrase"),
    [(403, "Forbidden"), (502, "Bad Gateway"), (504, "Gateway Timeout"), (508, "Loop Detected")],
)
def test_an_error_has_the_form_that_ollamas_have(status, phrase):
    head, body = reply(status, 'no "one" there ☕', MISS, 0.0)
    assert (head.status, head.reason) == (status, phrase)
    assert json.loads(body) == {"error": 'no "one" there ☕'}
    assert head.fields == (
        (b"Content-Type", b"application/json; charset=utf-8"),
        (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Cache-Status", b"ollama-cache-proxy; fwd=miss"),
        (b"X-Cache", b"MISS"),
    )


def test_without_a_message_there_is_no_body_and_no_type():
    head, body = reply(403, None, bypass(Detail.HOST), 1_700_000_000.9)
    assert body == b""
    assert head.fields == (
        (b"Date", b"Tue, 14 Nov 2023 22:13:20 GMT"),
        (b"Content-Length", b"0"),
        (b"Cache-Status", b"ollama-cache-proxy; fwd=bypass; detail=host"),
        (b"X-Cache", b"BYPASS"),
    )


def test_an_empty_message_is_still_a_message():
    head, body = reply(502, "", MISS, 0.0)
    assert json.loads(body) == {"error": ""}
    assert head.fields[0][0] == b"Content-Type"
