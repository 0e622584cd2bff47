"""Heads and JSON text as Go writes them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_cache_proxy.simulator import wire


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (100.0, "100"),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (1e-6, "0.000001"),
        (9.5e-7, "9.5e-7"),
        (1e-10, "1e-10"),
        (123456789.0, "123456789"),
        (1e16, "10000000000000000"),
        (1.5e20, "150000000000000000000"),
        (1e21, "1e+21"),
        (-1.25e300, "-1.25e+300"),
        (-1.2145551443099976, "-1.2145551443099976"),
    ],
)
def test_float64(value: float, text: str) -> None:
    assert wire.float64_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.1, "0.1"),
        (1.0, "1"),
        (16777216.0, "16777216"),
        (0.030938874930143356, "0.030938875"),
        (0.0006224634125828743, "0.0006224634"),
        (1e-6, "0.000001"),
        (9.9e-7, "9.9e-7"),
        (1.234e-10, "1.234e-10"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (1e20, "100000000000000000000"),
        (2.0**-12, "0.00024414063"),
        (-(2.0**-96), "-1.2621775e-29"),
        (2.0**87, "1.5474251e+26"),
        (2.0**90, "1.2379401e+27"),
    ],
)
def test_float32(value: float, text: str) -> None:
    assert wire.float32_text(wire.float32(value)) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_text_reads_back(value: float) -> None:
    assert struct.unpack("<f", struct.pack("<f", float(wire.float32_text(value)))) == (value,)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float64_text_reads_back(value: float) -> None:
    assert float(wire.float64_text(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<a & b>", '"\\u003ca \\u0026 b\\u003e"'),
        ("\u2028\u00e9\x07\x7f", '"\\u2028\u00e9\\u0007\x7f"'),
        ('"\\\n', '"\\"\\\\\\n"'),
        ({"b": [1, True, None], "a": {}}, '{"b":[1,true,null],"a":{}}'),
        (wire.Verbatim("[1.0]"), "[1.0]"),
    ],
)
def test_json(value: object, text: str) -> None:
    assert wire.dumps(value) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (1_795_366_863_439_758_352, "2026-11-22T17:01:03.439758352Z"),
        (1_795_366_863_439_758_000, "2026-11-22T17:01:03.439758Z"),
        (1_795_366_863_000_000_000, "2026-11-22T17:01:03Z"),
    ],
)
def test_instants(nanoseconds: int, text: str) -> None:
    assert wire.timestamp(nanoseconds) == text


def test_fields_are_sorted_and_the_rest_follows() -> None:
    head = wire.Head(status=200, fields=(("Vary", "a"), ("Content-Type", "t"), ("Vary", "b")), length=3, close=True)
    assert head.render(0) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: t\r\nVary: a\r\nVary: b\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        b"Content-Length: 3\r\nConnection: close\r\n\r\n"
    )
