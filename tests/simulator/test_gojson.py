"""How Go reads JSON: the same texts, values and errors."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.simulator import schemas
from ollama_cache_proxy.simulator.gojson import GoError, Members, NoValueError, Number, scan
from ollama_cache_proxy.simulator.goschema import FOREVER, decode

_BAD = "\ufffd"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b" null ", None),
        (b"true", True),
        (b"false", False),
        (b"-0.5e+10", Number("-0.5e+10")),
        (b"01", Number("0")),
        (b'"a\\u00e9\\n\\/"', "a\u00e9\n/"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\ud83dx"', f"{_BAD}x"),
        (b'"\\ud83d\\u0041"', f"{_BAD}A"),
        (b'"\\ude00"', _BAD),
        (b'"\xff\xfe"', _BAD * 2),
        (b'"\xe4\xb8"', _BAD * 2),
        (b'"\xed\xa0\x80"', _BAD * 3),
        (b"[]", []),
        (b"{}", Members(())),
        (b"[1,[2],{}]", [Number("1"), [Number("2")], Members(())]),
        (b'{"a":1,"a":{"b":[]}}', Members((("a", Number("1")), ("a", Members((("b", []),)))))),
        (b'{"a":1} trailing', Members((("a", Number("1")),))),
    ],
)
def test_values(text: bytes, value: object) -> None:
    assert scan(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"model": "tiny", ', "unexpected EOF"),
        (b'"abc', "unexpected EOF"),
        (b"tru", "unexpected EOF"),
        (b"\xef\xbb\xbf{}", "invalid character '\u00ef' looking for beginning of value"),
        (b"nil", "invalid character 'i' in literal null (expecting 'u')"),
        (b"{1:2}", "invalid character '1' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'"a\nb"', "invalid character '\\n' in string literal"),
        (b'"\\q"', "invalid character 'q' in string escape code"),
        (b'"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
        (b"1ex", "invalid character 'x' in exponent of numeric literal"),
        (b"'a'", "invalid character '\\'' looking for beginning of value"),
        (b"\x1f\x8b\x08", "invalid character '\\x1f' looking for beginning of value"),
        (b"[" * 10_001, "exceeded max depth"),
    ],
)
def test_complaints(text: bytes, message: str) -> None:
    with pytest.raises(GoError) as caught:
        scan(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", [b"", b" \r\n\t"])
def test_nothing_is_no_value(text: bytes) -> None:
    with pytest.raises(NoValueError):
        scan(text)


def test_depth_costs_no_recursion() -> None:
    assert isinstance(scan(b"[" * 9_999 + b"]" * 9_999), list)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (b"{}", "stream", None),
        (b'{"STREAM":false}', "stream", False),
        (b'{"stream":false,"stream":null}', "stream", None),
        (b'{"model":"a","model":null}', "model", "a"),
        (b'{"model":"a","MODEL":"b"}', "model", "b"),
        (b'{"options":{"a":1,"b":2},"options":{"a":3}}', "options", {"a": 3.0, "b": 2.0}),
        (b'{"options":{"seed":123456789012345678901234567890}}', "options", {"seed": 1.2345678901234568e29}),
        (b'{"keep_alive":0}', "keep_alive", 0),
        (b'{"keep_alive":-1}', "keep_alive", FOREVER),
        (b'{"keep_alive":"1h5m0.5s"}', "keep_alive", 3_900_500_000_000),
        (b'{"keep_alive":null}', "keep_alive", None),
        (b'{"keep_alive":1.5}', "keep_alive", 1_500_000_000),
        (b'{"images":["aGVsbG8="]}', "images", [b"hello"]),
        (b'{"think":"high"}', "think", "high"),
    ],
)
def test_fields(text: bytes, field: str, value: object) -> None:
    assert decode(text, schemas.GENERATE)[field] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (b'{"stream":"x"}', "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool"),
        (
            b'{"stream":"x","model":1}',
            "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
        ),
        (
            b'{"top_logprobs":1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field GenerateRequest.top_logprobs of type int",
        ),
        (b'{"keep_alive":"banana"}', 'time: invalid duration "banana"'),
        (b'{"keep_alive":"10"}', 'time: missing unit in duration "10"'),
        (b'{"keep_alive":"10x"}', 'time: unknown unit "x" in duration "10x"'),
        (b'{"keep_alive":true}', "Unsupported type: 'bool'"),
        (b'{"images":["?"]}', "illegal base64 data at input byte 0"),
    ],
)
def test_wrong_types(text: bytes, message: str) -> None:
    with pytest.raises(GoError) as caught:
        decode(text, schemas.GENERATE)
    assert str(caught.value) == message


def test_a_message_names_its_place() -> None:
    with pytest.raises(GoError, match=r"Go struct field ChatRequest\.messages\.content of type string"):
        decode(b'{"messages":[{"content":5}]}', schemas.CHAT)
