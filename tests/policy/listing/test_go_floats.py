from __future__ import annotations

import base64
import json
import math
import random
import struct

import pytest

from ollama_cache_proxy.policy.listing.go_floats import numbers, text
from ollama_cache_proxy.simulator.wire import float32_text
from tests.support.lists import RECORDED, WHOLE, cut, packed, recorded

GO = (
    "0,-0,1,-1,0.1,-0.03448346,0.000001,9.5e-7,1e-7,-1.5e-10,7.038531e-26,-7.038531e-26,1e-45,16777216,"
    "100000000000000000000,1e+21,3.4028235e+38,3.4028233e+38,-1.2337581e-7,-5.2099457,0.0032280525,1.5880774e-11,"
    "-0.0000731283,0.000001585404,1.2988409e-7,0.000007324419,7.0012093,0.009996261,-3.1653723e-8,0.0011007292,"
    "0.00009897104,-1.435047e-9,1.3735037,-0.084609434,0.01561265,0.027974373,7.0275025e-10,-1.0695454,3.3028938e-10,"
    "-1.1207141,0.00092729845,0.097303435,0.00024414063,1.2621775e-29,-1.2379401e+27"
)
"""Written by Go 1.26: json.Marshal of a []float32."""
GO_BASE64 = (
    "AAAAAAAAAIAAAIA/AACAv83MzD2HPg29vTeGNYEDfzWVv9YzP+0kr/1DrhX9Q66VAQAAAAAAgEvseK1gJ9dYYv//f3/+/39/SXkEtOC3psC8jVM7"
    "U7CLLXVcmbgRytQ1RHYLNEjE9TboCeBAXMcjPKPzB7NYRpA6rI7PODo7xbD4zq8/tketvTPMfzyDKuU8pytBMN3miL8ZlLUvj3OPv/IVczoGR8c9AACAOQAAgA8AAIDs"
)
"""The same, as binary.Write makes it."""


def test_base64_is_written_as_go_writes_the_same_numbers() -> None:
    assert numbers(f'"{GO_BASE64}"'.encode()) == f"[{GO}]".encode()


@pytest.mark.parametrize("name", WHOLE)
def test_recorded_vectors_are_written_as_ollama_wrote_them(name: str) -> None:
    assert name in RECORDED
    for item in cut(*recorded(name)).values():
        coded = packed(json.loads(item.vector))
        assert numbers(f'"{coded}"'.encode()) == item.vector


def floats(bits: list[int]) -> list[float]:
    return [number for (number,) in struct.iter_unpack("<f", struct.pack(f"<{len(bits)}I", *bits))]


@pytest.mark.parametrize("seed", range(20))
def test_any_float32_is_written_as_the_simulator_writes_it_and_read_again(seed: int) -> None:
    rng = random.Random(seed)
    bits = [rng.getrandbits(32) for _ in range(1000)] + [rng.randrange(0x33000000, 0x3F800000) for _ in range(1000)]
    bits += [rng.randrange(1 << 20) for _ in range(200)]
    for number in filter(math.isfinite, floats(bits)):
        written = text(number)
        assert written == float32_text(number)
        assert struct.pack("<f", float(written)) == struct.pack("<f", number)


@pytest.mark.parametrize("exponent", range(-149, 128))
def test_powers_of_two_take_no_digit_more_than_they_need(exponent: int) -> None:
    """Their neighbours below are nearer than those above, so that the shortest text may not be the nearest one."""
    number = 2.0**exponent
    digits = text(number).partition("e")[0].replace(".", "").strip("0")
    assert struct.pack("<f", float(text(number))) == struct.pack("<f", number)
    assert text(-number) == "-" + text(number)
    for nearest in range(1, len(digits)):
        shorter = [float(f"{number * (1 + step * 10.0**-nearest / 2):.{nearest - 1}e}") for step in (-1, 0, 1)]
        assert all(struct.pack("<f", other) != struct.pack("<f", number) for other in shorter if other < 3.4e38)


def test_what_is_no_finite_number_is_refused() -> None:
    for number in (math.inf, -math.inf, math.nan):
        with pytest.raises((ValueError, KeyError)):
            text(number)


def test_a_vector_without_numbers_is_empty() -> None:
    assert numbers(b'""') == b"[]"
    assert numbers(memoryview(b'"' + base64.b64encode(struct.pack("<f", 0.5)) + b'"')) == b"[0.5]"
