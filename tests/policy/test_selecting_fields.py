"""What of a head selects a response: everything that is read, and everything odd is left to the parser."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.downstream import plain_head
from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS, credential_rules
from ollama_cache_proxy.policy.fields import HOP_BY_HOP
from ollama_cache_proxy.policy.selecting_fields import COUNT, SELECTING, SelectingFields

REQUEST = b"POST /api/generate HTTP/1.1"
PARENT = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def fields() -> SelectingFields:
    return SelectingFields(credential_rules(["X-Team-Key"]).names)


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((REQUEST, *lines))


@pytest.mark.parametrize(
    ("line", "selects"),
    [
        (b"Host: localhost", True),
        (b"hOST:localhost", True),
        (b"Authorization: Bearer a", True),
        (b"X-Api-Key: a", True),
        (b"X_Api_Key: a", True),
        (b"X-Team-Key: a", True),
        (b"x_team_key: a", True),
        (b"X-Cache-TTL: 5", True),
        (b"X-Cache-Anything: 5", True),
        (b"x_cache_anything: 5", True),
        (b"Connection: keep-alive", True),
        (b"User-Agent: a", True),
        (b"Cookie: a", True),
        (b"If-None-Match: a", True),
        (b"Origin: http://localhost", True),
        (b"Via: 1.1 a", True),
        (b"X-Request-Id: 1", False),
        (b"x-request-id:", False),
        (b"X-Forwarded-For: 192.0.2.1, 192.0.2.2", False),
        (b"Accept: */*", False),
        (b"Tracestate: a=b", False),
        (b"traceparents: a", False),
        (b"X-Cach: 5", False),
    ],
)
@pytest.mark.parametrize("again", [False, True], ids=["new", "learnt"])
def test_what_is_read_selects(line: bytes, selects: bool, again: bool, fields: SelectingFields) -> None:
    if again:
        assert fields.read(head(line)) is not None
        fields.learn(head(line))
    kept = b"\r\n".join((REQUEST, line)) if selects else REQUEST
    assert fields.read(head(line)) == (kept, -1, b"")
    assert fields.read(head(b"Accept: a", line, b"Te: trailers")) == (kept + b"\r\nTe: trailers", -1, b"")


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"x-a", b" x-a: b", b"\tx-a: b", b"x-a : b", b"x a: b", b": b", b"x-\xe9: b", b"x-a\x00: b"),
        *(b"x-a: b\nHost: c", b"x-a: b\rc", b"x-a: \x00", b"x-a: \x7f", b"x-a: \xe9", b"x-a: " + b"b" * 8000),
        *(b"(x): b", b"x" * 129 + b": b"),
    ],
)
def test_a_line_that_parsers_may_read_otherwise_is_left_to_one(line: bytes, fields: SelectingFields) -> None:
    assert fields.read(head(line)) is None
    assert fields.read(head(b"Host: a", line)) is None


def test_a_line_that_was_learnt_is_no_request_line(fields: SelectingFields) -> None:
    """The first line is as it came, whatever it is."""
    assert fields.read(head(b"Accept: a")) is not None
    fields.learn(head(b"Accept: a"))
    assert fields.read(b"Accept: a\r\n" + REQUEST) is None
    assert fields.read(b"\r\n" + head(b"Accept: a")) is None
    assert fields.read(b"Accept: a\r\nAccept: a") == (b"Accept: a", -1, b"")
    assert fields.read(REQUEST) is None


def test_order_and_number_of_those_that_select_are_kept(fields: SelectingFields) -> None:
    one, other = b"Authorization: a", b"Authorization: b"
    read = {fields.read(head(*lines)) for lines in ((one, other), (other, one), (one,), (one, one))}
    assert len(read) == 4


def test_a_trace_is_told_and_only_that_there_is_one_selects(fields: SelectingFields) -> None:
    other = PARENT.replace(b"-01", b"-00").replace(b"traceparent", b"Traceparent")
    assert fields.read(head(PARENT)) == (REQUEST + b"\r\ntraceparent", -1, PARENT)
    assert fields.read(head(other)) == (REQUEST + b"\r\ntraceparent", -1, other)
    fields.learn(head(PARENT))
    assert fields.read(head(PARENT)) == (REQUEST + b"\r\ntraceparent", -1, PARENT)
    assert fields.read(head(PARENT, other)) is None, "of two, which counts is the parser's to say"


@pytest.mark.parametrize(
    ("line", "length"),
    [(b"Content-Length: 5", 5), (b"content-length:0", 0), (b"CONTENT-LENGTH: \t12345678 ", 12_345_678)],
)
def test_the_length_of_a_body_is_told(line: bytes, length: int, fields: SelectingFields) -> None:
    for _ in range(2):
        assert fields.read(head(line)) == (REQUEST, length, b"")
        fields.learn(head(line))


@pytest.mark.parametrize(
    "lines",
    [
        *((b"Content-Length: " + value,) for value in (b"", b"+5", b"-5", b"5 5", b"0x5", b"5, 5", b"123456789")),
        (b"Content-Length: 5", b"Content-Length: 5"),
        (b"Content-Length: 5", b"content-length: 6"),
    ],
)
def test_an_odd_length_or_two_are_left_to_the_parser(lines: tuple[bytes, ...], fields: SelectingFields) -> None:
    assert fields.read(head(*lines)) is None


def test_a_name_that_guards_read_as_that_of_the_length_selects(fields: SelectingFields) -> None:
    assert fields.read(head(b"Content_Length: 5")) == (head(b"Content_Length: 5"), -1, b"")


def test_a_head_of_very_many_lines_is_left_to_the_parser(fields: SelectingFields) -> None:
    assert fields.read(head(*(b"x-%d: a" % number for number in range(100)))) == (REQUEST, -1, b"")
    assert fields.read(head(*(b"x-%d: a" % number for number in range(101)))) is None


def test_what_is_remembered_is_bounded(fields: SelectingFields) -> None:
    for number in range(2000):
        one = head(b"x-a: %d" % number + b"b" * 4000, b"x-%d: a" % number)
        assert fields.read(one) is not None
        fields.learn(one)
    assert sum(map(len, fields._lines)) < 1_100_000
    assert len(fields._names) <= 1024
    assert fields.read(head(b"x-1999: a", b"Host: a")) == (head(b"Host: a"), -1, b"")


def test_the_names_are_those_of_what_reads_them() -> None:
    acted_upon = plain_head._ONCE | plain_head._NEVER | {plain_head._LENGTH}
    assert acted_upon <= SELECTING | {COUNT}
    assert HOP_BY_HOP <= SELECTING
    assert not SELECTING & CREDENTIAL_FIELDS.keys(), "those are of the settings"
    assert all(name == name.lower() and b"_" not in name for name in SELECTING)
