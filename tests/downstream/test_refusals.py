from __future__ import annotations

import pytest
from aiohttp.http import HttpVersion
from aiohttp.test_utils import make_mocked_request

from ollama_cache_proxy.downstream.refusals import (
    BAD_REQUEST,
    EXPECTATION_FAILED,
    FULL,
    NOT_IMPLEMENTED,
    TIMEOUT,
    refusal,
)
from ollama_cache_proxy.policy.messages import MAX_LENGTH


@pytest.mark.parametrize(
    ("method", "version", "fields", "expected"),
    [
        ("GET", (1, 1), {"Host": "localhost"}, None),
        ("GET", (1, 0), {}, None),
        ("POST", (1, 1), {"Transfer-Encoding": "chunked"}, None),
        ("POST", (1, 0), {"Transfer-Encoding": "chunked"}, BAD_REQUEST),
        ("POST", (1, 1), {"Transfer-Encoding": "CHUNKED"}, None),
        ("POST", (1, 1), {"Content-Length": str(MAX_LENGTH)}, None),
        ("POST", (1, 1), {"Content-Length": str(MAX_LENGTH + 1)}, BAD_REQUEST),
        ("POST", (1, 1), {"Transfer-Encoding": "gzip, chunked"}, NOT_IMPLEMENTED),
        ("POST", (1, 1), {"Transfer-Encoding": ""}, NOT_IMPLEMENTED),
        ("CONNECT", (1, 1), {"Host": "localhost:80"}, NOT_IMPLEMENTED),
        ("GET", (0, 9), {"Host": "localhost"}, BAD_REQUEST),
        ("GET", (2, 0), {"Host": "localhost"}, BAD_REQUEST),
        ("POST", (1, 1), {"Expect": "100-Continue"}, None),
        ("POST", (1, 1), {"Expect": "x, 100-continue"}, None),
        ("POST", (1, 1), {"Expect": ""}, None),
        ("POST", (1, 1), {"Expect": "x"}, EXPECTATION_FAILED),
        ("POST", (1, 0), {"Expect": "100-continued"}, EXPECTATION_FAILED),
        ("GET", (1, 1), {"Host": "é.localhost"}, BAD_REQUEST),
        ("GET", (1, 1), {"Host": "localhost/x"}, BAD_REQUEST),
        ("GET", (1, 1), {"Host": "user@localhost"}, BAD_REQUEST),
        ("GET", (1, 1), {"Host": "[::1]:11434"}, None),
        ("GET", (1, 1), {"Host": "my_box.local:x"}, None),
    ],
)
def test_a_request_that_cannot_be_forwarded_unchanged_is_refused(
    method: str, version: tuple[int, int], fields: dict[str, str], expected: bytes | None
) -> None:
    assert refusal(make_mocked_request(method, "/x", fields, version=HttpVersion(*version))) == expected


@pytest.mark.parametrize("response", [BAD_REQUEST, EXPECTATION_FAILED, TIMEOUT, NOT_IMPLEMENTED, FULL])
def test_a_refusal_is_a_complete_response_and_closes_the_connection(response: bytes) -> None:
    head, ended, body = response.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert ended
    assert b"Connection: close" in lines
    assert (b"Content-Length: 0" in lines) == (body == b"")
