from __future__ import annotations

import json
import random

import pytest

from ollama_cache_proxy.policy.odd_texts import read
from ollama_cache_proxy.policy.status import Detail

KNOWN = frozenset({"model", "input"})


def listed(*texts: bytes) -> bytes:
    return b'{"model":"m","input":[' + b",".join(texts) + b"]}"


ILL_FORMED = {
    "a high surrogate": rb'"\ud83d"',
    "a low surrogate": rb'"\ude00"',
    "in capitals": rb'"x\uDBFF"',
    "the wrong way round": rb'"\ude00\ud83d"',
    "two high ones and a low one": rb'"\ud83d\ud83d\ude00"',
    "a pair and a low one": rb'"\ud83d\ude00\ude00"',
    "before a letter": rb'"\ud83dx"',
    "before another escape": rb'"\ud83d\n"',
    "after a backslash": rb'"\\\ud83d"',
    "after two backslashes": rb'"\\\\\udfff"',
    "beside a quote": rb'"\"\udfff\""',
    "no UTF-8": b'"\xff"',
    "cut-off UTF-8": b'"\xe2\x82"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "both": b'"\xff\\ud800"',
}
WELL_FORMED = [
    *(
        b'"a"',
        rb'"\ud83d\ude00"',
        rb'"\\ud83d"',
        rb'"\\\\udfff"',
        rb'"\ufffd"',
        '"\ufffd"'.encode(),
        rb'"\ufffe"',
        b'""',
    ),
    rb'"\uFFFF\u0000"',
]


@pytest.mark.parametrize("odd", ILL_FORMED.values(), ids=list(ILL_FORMED))
def test_an_ill_formed_text_stays_as_it_was_written(odd: bytes) -> None:
    for texts in ((b'"a"', odd), (odd, b'"a"', odd), (*WELL_FORMED, odd, *WELL_FORMED)):
        found = read(listed(*texts), KNOWN, "input")
        assert not isinstance(found, Detail), found
        document, kept = found
        assert {place: raw for place, (_, raw) in kept.items()} == {
            place: text for place, text in enumerate(texts) if text == odd
        }
        for place, text in enumerate(texts):
            if place not in kept:
                assert document["input"][place] == json.loads(text)
        assert document["model"] == "m"


@pytest.mark.parametrize("text", WELL_FORMED)
def test_a_well_formed_text_is_not_odd(text: bytes) -> None:
    assert read(listed(text, b'"a"'), KNOWN, "input") == ({"model": "m", "input": [json.loads(text), "a"]}, {})


def test_odd_texts_are_told_from_one_another_and_from_all_others() -> None:
    texts = [rb'"\ud800"', rb'"\uD800"', rb'"\ud801"', b'"\xff"', rb'"\udcff"', '"\ufffd"'.encode()]
    found = read(listed(*texts), KNOWN, "input")
    assert not isinstance(found, Detail)
    names = [name for name, _ in found[1].values()]
    assert len(set(names)) == len(texts) - 1
    for name in names:
        with pytest.raises(UnicodeEncodeError):
            name.encode()


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model":"\ud800","input":["a"]}',
        rb'{"model":"\ud800","input":["a","\ud800"]}',
        rb'{"model":"m","input":"\ud800"}',
        rb'{"model":"m","\ud800":1,"input":["a","\ud800"]}',
        rb'{"model":"m","x":"\ud800","input":["a","\ud800"]}',
        rb'{"model":"m","input":["a",["\ud800"]]}',
        rb'{"model":"m","input":["a",{"\ud800":1}]}',
        rb'{"model":"m","input":["a",{"x":"\ud800"}]}',
        rb'{"model":"m","input":{"0":"\ud800"}}',
        rb'{"model":"m"}\ud800',
        b'{"model":"m","input":["a"]}\xff',
        b'{"model":"m","input":["a",\xff]}',
        rb'["\ud800"]',
        rb'{"model":"m","input":["\ud800"',
        b'{"model":"m","input":["a","' + b"\xff" * 20_000 + b'"]}',
        b"not JSON",
        b"",
    ],
)
def test_what_is_ill_formed_elsewhere_is_passed_on(body: bytes) -> None:
    assert read(body, KNOWN, "input") in (Detail.NOT_JSON, Detail.NOT_AN_OBJECT)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (rb'{"model":"m","input":["a","\ud800"],"input":1}', Detail.DUPLICATE_NAME),
        (rb'{"model":"m","MODEL":"n","input":["a","\ud800"]}', Detail.AMBIGUOUS_NAME),
        (rb'{"model":"m","input":["a","\ud800"],"x":-0}', Detail.NUMBER),
    ],
)
def test_all_else_is_checked_as_ever(body: bytes, detail: Detail) -> None:
    assert read(body, KNOWN, "input") is detail


def is_odd(text: bytes) -> bool:
    """Whether a JSON string is ill-formed, by other means."""
    try:
        json.loads(text.decode()).encode()
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_is_read_as_another_reader_sees_it(seed: int) -> None:
    rng = random.Random(seed)
    bits = [
        rb"\ud83d",
        rb"\ude00",
        rb"\\",
        rb"\"",
        b"u",
        b"d83d",
        b"a",
        b"\xc3\xa9",
        b"\xff",
        b",",
        b"]",
        rb"\n",
        b"\xe2",
    ]
    texts = [b'"' + b"".join(rng.choices(bits, k=rng.randrange(5))) + b'"' for _ in range(rng.randrange(2, 9))]
    found = read(listed(*texts), KNOWN, "input")
    assert not isinstance(found, Detail)
    assert set(found[1]) == {place for place, text in enumerate(texts) if is_odd(text)}
    assert all(found[1][place][1] == texts[place] for place in found[1])
