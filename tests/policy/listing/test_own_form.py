from __future__ import annotations

import base64
import itertools
import json
import math
import random
import re
import struct
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.policy.embeddings import TextList, missing
from ollama_cache_proxy.policy.listing import joining, own_form
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.listing.joining import Joined, Part
from ollama_cache_proxy.policy.listing.own_form import as_numbers, content_type, split
from ollama_cache_proxy.simulator.wire import float32_text
from tests.support.lists import (
    EMBED,
    RECORDED,
    ROUTES,
    V1,
    WHOLE,
    asking,
    cut,
    items_of,
    keepable,
    numbers,
    packed,
    recorded,
    reference,
    some,
)


def join(asked: TextList, items: dict[str, Item], *, durations: tuple[int, int] | None = None) -> Joined:
    """Join items; `durations` are those that the response tells."""
    if durations is not None:
        first = asked.texts[0]
        items = items | {first: replace(items[first], total_duration=durations[0], load_duration=durations[1])}
    return joining.join(asked, items)


@pytest.mark.parametrize("name", WHOLE)
def test_the_content_type_is_the_recorded_one(name):
    asked, _ = recorded(name)
    assert ["Content-Type", content_type(asked).decode()] in RECORDED[name]["response"]["headers"]


# Splitting and joining


@pytest.mark.parametrize("name", WHOLE)
def test_a_recorded_response_splits_and_joins_to_the_same_bytes(name):
    asked, body = recorded(name)
    items = cut(asked, body)
    joined = join(asked, items)
    assert joined.body == body
    assert joined.estimated == (len(asked.texts) > 1)
    assert all(item.exact == (len(asked.texts) == 1) for item in items.values())


@pytest.mark.parametrize("name", WHOLE)
def test_a_recorded_vector_is_a_slice_of_the_response(name):
    asked, body = recorded(name)
    answer = json.loads(body)
    vectors = answer["embeddings"] if "embeddings" in answer else [row["embedding"] for row in answer["data"]]
    items = cut(asked, body)
    assert [json.loads(item.vector) for item in items.values()] == vectors
    assert all(item.vector in body for item in items.values())


def test_a_recorded_single_text_has_its_own_count_and_times():
    asked, body = recorded("embed_string")
    (item,) = items_of(asked, asked.texts, body) or ()
    assert (item.tokens, item.exact, item.total_duration, item.load_duration) == (4, True, 29806045, 9536858)


def test_items_of_one_route_answer_the_other():
    listed, list_body = recorded("embed_list")
    v1, v1_body = recorded("v1_embeddings")
    assert join(v1, cut(listed, list_body)).body == v1_body
    times = (40844014, 7555705)
    assert join(listed, cut(v1, v1_body), durations=times).body == list_body
    untimed = list_body.replace(b',"total_duration":40844014,"load_duration":7555705', b"")
    assert join(listed, cut(v1, v1_body)).body == untimed


def test_the_model_is_named_as_the_caller_names_it():
    asked, body = recorded("embed_string")
    other = asking(EMBED, "hello world", model="all-minilm:latest")
    joined = join(other, cut(asked, body)).body
    assert joined == body.replace(b'"all-minilm"', b'"all-minilm:latest"')


def patterns(longest: int):
    """All the ways in which texts of a list may be equal to one another."""
    level: list[tuple[int, ...]] = [()]
    for _ in range(longest):
        level = [(*pattern, new) for pattern in level for new in range(max(pattern, default=-1) + 2)]
        yield from level


WORDS = ("pear", "a", "grünkohl", "🙂🙂", 'say "hi"\n')


def test_the_patterns_are_all_there():
    assert [sum(len(each) == size for each in patterns(5)) for size in range(1, 6)] == [1, 2, 5, 15, 52]


@pytest.mark.parametrize("source", ROUTES)
@pytest.mark.parametrize(("path", "coded"), [(EMBED, False), (V1, False), (V1, True)])
def test_known_and_asked_items_join_to_what_the_whole_would_have_been(path, coded, source):
    """Every hit and miss of every list of up to five texts, with items that came through either endpoint."""
    alone = {word: cut(asking(source, word), reference(source, (word,)))[word] for word in WORDS}
    more = {"encoding_format": "base64"} if coded else {}
    for pattern in patterns(5):
        texts = tuple(WORDS[place] for place in pattern)
        asked = asking(path, *texts, **more)
        for mask in itertools.product((False, True), repeat=len(asked.unique)):
            known = {text: alone[text] for text, hit in zip(asked.unique, mask, strict=True) if hit}
            unknown = missing(asked, known, estimates=False)
            assert unknown == tuple(text for text in asked.unique if text not in known)
            part = cut(asked, reference(path, unknown), unknown) if unknown else {}
            joined = join(asked, known | part, durations=(900, 300))
            assert joined.body == reference(path, texts, coded=coded)
            assert joined.estimated == (len(unknown) > 1)


@pytest.mark.parametrize("path", ROUTES)
def test_a_list_that_is_wholly_known_tells_the_times_of_its_first_text(path):
    items = {"a": some(total=11, load=1), "b": some(total=22, load=2)}
    first, second = (join(asking(path, *texts), items).body for texts in (("a", "b"), ("b", "a")))
    assert (b'"total_duration":11,"load_duration":1,' in first) == (path == EMBED)
    assert (b'"total_duration":22,"load_duration":2,' in second) == (path == EMBED)


@pytest.mark.parametrize(
    ("durations", "tokens", "told"),
    [
        ((9, 3), 2, b',"total_duration":9,"load_duration":3,"prompt_eval_count":2'),
        ((9, 0), 2, b',"total_duration":9,"prompt_eval_count":2'),
        ((0, 3), 2, b',"load_duration":3,"prompt_eval_count":2'),
        ((0, 0), 2, b',"prompt_eval_count":2'),
        ((0, 0), 0, b""),
        (None, 0, b',"total_duration":7,"load_duration":5'),
    ],
)
def test_a_zero_is_left_out_as_go_leaves_it_out(durations, tokens, told):
    joined = join(asking(EMBED, "a"), {"a": some(tokens=tokens)}, durations=durations)
    assert joined.body == b'{"model":"m","embeddings":[[0.5]]' + told + b"}"


def test_a_usage_of_zero_is_told():
    joined = join(asking(V1, "a"), {"a": some(tokens=0)})
    assert joined.body.endswith(b',"usage":{"prompt_tokens":0,"total_tokens":0}}\n')


@pytest.mark.parametrize("told", [b"", b',"total_duration":9', b',"load_duration":9'])
def test_a_time_of_zero_is_left_out_and_read_as_zero(told):
    body = b'{"model":"m","embeddings":[[0.5]]' + told + b',"prompt_eval_count":3}'
    asked = asking(EMBED, "a")
    item = cut(asked, body)["a"]
    assert item.total_duration + item.load_duration == (9 if told else 0)
    assert join(asked, {"a": item}).body == body


@pytest.mark.parametrize(
    ("exact", "estimated"),
    [((True, True), False), ((True, False), True), ((False, True), True), ((False, False), True)],
)
def test_a_sum_with_an_apportioned_part_is_an_estimate(exact, estimated):
    items = {text: some(exact=known) for text, known in zip("ab", exact, strict=True)}
    assert join(asking(EMBED, "a", "b", "a"), items).estimated == estimated


# Written by Go 1.26: json.Marshal of U+0000 to U+0020 and what follows, in EmbedResponse and in EmbeddingList
GO_PLAIN = "".join(map(chr, range(0x21))) + "\"\\/<>&'\u007f\u2028\u2029é🙂"
GO_STRING = (
    r'"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017'
    r"\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f \"\\/\u003c\u003e\u0026" + "'\x7f" + r'\u2028\u2029é🙂"'
)
GO_BODY = b'{"model":"m","embeddings":[[0,-0,1,-1,0.1,-0.03448346,0.000001,9.5e-7,1e-7,-1.5e-10,7.038531e-26,-7.038531e-26,1e-45,16777216,100000000000000000000,1e+21,3.4028235e+38,3.4028233e+38,-1.2337581e-7,-5.2099457,0.0032280525,1.5880774e-11,-0.0000731283,0.000001585404,1.2988409e-7,0.000007324419,7.0012093,0.009996261,-3.1653723e-8,0.0011007292,0.00009897104,-1.435047e-9,1.3735037,-0.084609434,0.01561265,0.027974373,7.0275025e-10,-1.0695454,3.3028938e-10,-1.1207141,0.00092729845,0.097303435,-0],[-0]],"prompt_eval_count":5}'
GO_BASE64 = (
    b"AAAAAAAAAIAAAIA/AACAv83MzD2HPg29vTeGNYEDfzWVv9YzP+0kr/1DrhX9Q66VAQAAAAAAgEvseK1gJ9dYYv//f3/+/39/SXkEtOC3psC8jVM7U7CLLXVcmbgRytQ1RHYLNEjE9TboCeBAXMcjPKPzB7NYRpA6rI7PODo7xbD4zq8/tketvTPMfzyDKuU8pytBMN3miL8ZlLUvj3OPv/IVczoGR8c9AAAAgA==",
    b"AAAAgA==",
)


def test_base64_is_what_go_makes_of_the_same_numbers():
    """Among them 7.038531e-26, the one float32 up to 1 that is another number when read as a float64 first."""
    items = dict(zip("ab", map(some, re.findall(rb"\[[0-9][^]]*\]|\[-[^]]*\]", GO_BODY)), strict=True))
    joined = join(asking(V1, "a", "b", encoding_format="base64"), items).body
    assert [row["embedding"].encode() for row in json.loads(joined)["data"]] == list(GO_BASE64)


@pytest.mark.parametrize(
    ("vector", "bits"),
    [
        (b"[0]", (0,)),
        (b"[-0]", (0x80000000,)),
        (b"[-0,1]", (0x80000000, 0x3F800000)),
        (b"[1,-0]", (0x3F800000, 0x80000000)),
        (b"[-0.5,0,-0,0]", (0xBF000000, 0, 0x80000000, 0)),
        (b"[7.038531e-26,1]", (0x15AE43FD, 0x3F800000)),
        (b"[1,-7.038531e-26]", (0x3F800000, 0x95AE43FD)),
        (b"[17.038531e-26]", struct.unpack("<I", struct.pack("<f", 17.038531e-26))),
    ],
)
def test_numbers_that_are_easily_misread(vector, bits):
    body = join(asking(V1, "a", encoding_format="base64"), {"a": some(vector)}).body
    coded = base64.b64decode(json.loads(body)["data"][0]["embedding"])
    assert struct.unpack(f"<{len(bits)}I", coded) == bits


@pytest.mark.parametrize("path", ROUTES)
def test_a_string_is_written_as_go_writes_it(path):
    asked = asking(path, "a", model=GO_PLAIN)
    joined = join(asked, {"a": some()}).body
    assert b'"model":' + GO_STRING.encode() + b"," in joined
    assert split(asked, 1, joined) is not None


@pytest.mark.parametrize("name", WHOLE)
def test_base64_holds_the_floats_of_the_recorded_text(name):
    asked, body = recorded(name)
    items = cut(asked, body)
    coded = asking(V1, *asked.texts, encoding_format="base64")
    rows = json.loads(join(coded, items).body)["data"]
    assert [row["embedding"] for row in rows] == [packed(json.loads(items[text].vector)) for text in asked.texts]


@pytest.mark.parametrize("seed", range(20))
def test_base64_holds_any_floats(seed):
    rng = random.Random(seed)
    floats = [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-30, 30) for _ in range(rng.randrange(1, 50))]
    item = some(json.dumps(floats, separators=(",", ":")).encode())
    row = json.loads(join(asking(V1, "a", encoding_format="base64"), {"a": item}).body)["data"][0]
    assert row == {"object": "embedding", "embedding": packed(floats), "index": 0}


# Numbers as Go writes them


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        (b"[0.25,0.5]", b"[1,2]", True),
        (b"[1,2]", b"[0.25,0.5]", True),
        (b"[0.125,0.5]", b"[1,2]", False),
        (b"[1,2]", b"[0.125,0.5]", False),
    ],
)
def test_a_response_with_one_vector_that_is_too_long_is_of_another_form(
    first: bytes, second: bytes, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_form, "LONGEST", len(b"[0.25,0.5]"))
    body = b'{"model":"m","embeddings":[%b,%b],"prompt_eval_count":5}' % (first, second)
    assert (split(asking(EMBED, "a", "b"), 2, body) is not None) is known


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b"[1,2e-7,3]", [b"2e-7,"]),
        (b"[2e-7,3]", [b"2e-7,"]),
        (b"[1,2e-7]", [b"2e-7]"]),
        (b"[[1,2],[3,4e-7]]", [b"4e-7]"]),
        (b"[1,2e-7,3,4e-8]", [b"2e-7,", b"4e-8]"]),
        (b"1,2e-7", [b"2e-7"]),
        (b"[1,2]", []),
        (b"[%b]" % b",".join([b"1e-7"] * 64), [*[b"1e-7,"] * 63, b"1e-7]"]),
        (b"[%b]" % b",".join([b"1e-7"] * 65), [b"[%b]" % b",".join([b"1e-7"] * 65)]),
    ],
)
def test_the_numbers_with_a_mark_are_looked_at_one_by_one_or_all_at_once(text: bytes, numbers: list[bytes]) -> None:
    assert list(own_form._around(text, b"e")) == numbers


def of_numbers(*texts: str) -> bytes:
    return b'{"model":"m","embeddings":[[%b]],"prompt_eval_count":3}' % ",".join(texts).encode()


def test_go_itself_writes_such_numbers():
    asked = asking(EMBED, "a", "b")
    together = b'{"model":"m","embeddings":[%b,%b],"prompt_eval_count":5}'
    (first,) = re.findall(rb"\[[0-9][^]]*\]", GO_BODY)
    found = split(asked, 2, together % (first, first))
    assert found is not None
    assert found.vectors == (first, first)


@pytest.mark.parametrize("seed", range(20))
def test_any_float32_is_a_number_that_go_writes(seed):
    """The texts are the simulator's, which are held against recordings."""
    rng = random.Random(seed)
    bits = [rng.getrandbits(32) for _ in range(300)] + [rng.randrange(0x33000000, 0x3F800000) for _ in range(300)]
    floats = [number for (number,) in struct.iter_unpack("<f", struct.pack(f"<{len(bits)}I", *bits))]
    texts = [float32_text(number) for number in floats if math.isfinite(number)]
    for size in (1, 7, len(texts)):  # few of a mark are searched one by one, many together
        for start in range(0, len(texts) - size + 1, size):
            body = of_numbers(*texts[start : start + size])
            assert split(asking(EMBED, "a"), 1, body) is not None, body


@pytest.mark.parametrize(
    "number",
    [
        *(
            "0.10",
            "-0.0",
            "5.0",
            "1.50",
            "1.0e-7",
            "1e-3",
            "1.5e-6",
            "1e-07",
            "-1e-05",
            "12e-7",
            "10.5e-7",
            "1e+3",
            "1e+20",
        ),
        *("1e+020", "0.0344834625720977", "0.1000000014901161", "1.0000000000000001e-7", "100.0", "1e-0"),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("count", [0, 100])
def test_a_number_of_another_writer_is_not_of_ollamas_own_form(number, place, count):
    texts = ["0.25", "-0.5", "1e-7", "0", "10", "1e-10", "0.000001", *["1.5e-20"] * count]
    texts.insert(place, number)
    assert split(asking(EMBED, "a"), 1, of_numbers(*texts)) is None


# Base64


def test_base64_is_split_as_it_is():
    numbered, numbers_body = recorded("v1_embeddings")
    asked = asking(V1, *numbered.texts, model=numbered.candidate.model, encoding_format="base64")
    body = joining.join(asked, cut(numbered, numbers_body)).body
    found = split(asked, len(asked.texts), body, as_base64=True)
    assert found is not None
    assert joining.join(asked, Part(texts=asked.texts, cut=found).items()).body == body
    assert split(asked, len(asked.texts), body) is None


@pytest.mark.parametrize(
    "text",
    ["AACAPw", "AACAPw=", "AACAPw===", "AACAP===", "AACAPwA=", "", "AACA Pw==", "AACAPw==AAAA", "AACAP_==", "AA=CAPw="],
)
def test_nothing_else_is_base64_of_float32(text):
    body = b'{"object":"list","data":[{"object":"embedding","embedding":"%b","index":0}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}\n'
    asked = asking(V1, "a", encoding_format="base64")
    assert split(asked, 1, body % b"AACAPw==", as_base64=True) is not None
    assert split(asked, 1, body % text.encode(), as_base64=True) is None


@pytest.mark.parametrize(("texts", "written"), [(1, True), (4096 // 384, True), (4096 // 384 + 1, False)])
def test_few_vectors_in_base64_are_written_as_numbers(texts, written):
    numbered, body = recorded("embed_list_one")
    (item,) = cut(numbered, body).values()
    coded = f'"{packed(json.loads(item.vector))}"'.encode()
    found = as_numbers(Cut(vectors=(coded,) * texts, numbers=384, tokens=5))
    assert found.vectors == ((bytes(item.vector) if written else coded),) * texts
    assert as_numbers(replace(found, frame=b"{}")).vectors == found.vectors


# Responses of another form

GOOD = {path: reference(path, ("ab", "c")) for path in ROUTES}
TAIL = {EMBED: b',"total_duration":900,"load_duration":300,"prompt_eval_count":6}', V1: b'],"model":"m","usage":{"prompt_tokens":6,"total_tokens":6}}\n'}  # fmt: skip
FIRST = {path: json.dumps(numbers("ab"), separators=(",", ":")).encode() for path in ROUTES}[EMBED]
SECOND = json.dumps(numbers("c"), separators=(",", ":")).encode()
LAST = SECOND.rpartition(b",")[2][:-1]

VECTORS = {
    "a vector is empty": b"[]",
    "a vector is null": b"null",
    "a vector is a number": b"1",
    "a vector is base64": b'"AAAAgA=="',
    "a vector is in a list of its own": b"[[0.5]]",
    "a vector in a vector": b"[0.5,[0.5]]",
    "null among the numbers": b"[0.5,null]",
    "a truth value among the numbers": b"[0.5,true]",
    "a text among the numbers": b'[0.5,"1"]',
    "an object among the numbers": b'[0.5,{"a":1}]',
    "NaN": b"[NaN]",
    "Infinity": b"[-Infinity]",
    "white space": b"[0.5, 0.5]",
    "a line end": b"[0.5,\n0.5]",
    "a comma at the end": b"[0.5,]",
    "a comma at the start": b"[,0.5]",
    "a comma alone": b"[,]",
    "two commas": b"[0.5,,0.5]",
    "a plus sign": b"[+0.5]",
    "no digit before the point": b"[.5]",
    "no digit behind the point": b"[1.]",
    "a leading zero": b"[00.5]",
    "two points": b"[0.5.5]",
    "two signs": b"[--0.5]",
    "a sign alone": b"[-]",
    "an exponent without digits": b"[1e]",
    "a capital E": b"[1E-7]",
    "hexadecimal": b"[0x1]",
    "past float32": b"[3.5e+38]",
    "past float64": b"[1e+999]",
    "long past float32": b"[1" + b"0" * 60 + b"]",
    "not UTF-8": b"[0.5,\xff]",
}
COMMON = {
    "nothing": (None, b""),
    "null": (None, b"null"),
    "a list": (None, b"[]"),
    "an empty object": (None, b"{}"),
    "brackets": (None, b"]]]]"),
    "an error": (None, b'{"error":"model not found"}'),
    "not JSON": (None, b"<html>[1]</html>"),
    "another model": (b'"m"', b'"m:latest"'),
    "the model in escapes": (b'"m"', b'"\\u006d"'),
    "no model": (b'"model":"m",', b""),
    "a number's text too many": (LAST + b"]", LAST + b"],[0.5]"),
    "a vector too few": (SECOND, b""),
    "white space behind": (b"}", b"} "),
    "white space before": (b'{"', b' {"'),
    "white space within": (b'":', b'": '),
}
MALFORMED = {
    EMBED: {
        "a byte order mark": (b'{"model', b'\xef\xbb\xbf{"model'),
        "a line end": (b":6}", b":6}\n"),
        "something behind": (b":6}", b":6}{}"),
        "the other route's name": (b"embeddings", b"embedding"),
        "an unknown member at the start": (b'{"model"', b'{"a":1,"model"'),
        "an unknown member before the vectors": (b'"embeddings"', b'"a":1,"embeddings"'),
        "an unknown member behind the vectors": (b',"total', b',"a":1,"total'),
        "an unknown member at the end": (b":6}", b':6,"a":1}'),
        "an unknown list at the end": (b":6}", b':6,"a":[1]}'),
        "a member twice": (b":6}", b':6,"prompt_eval_count":6}'),
        "members in another order": (b'"total_duration":900,"load_duration":300', b'"load_duration":300,"total_duration":900'),
        "the count before the times": (TAIL[EMBED], b',"prompt_eval_count":6,"total_duration":900,"load_duration":300}'),
        "the model last": (None, b'{"embeddings":[' + FIRST + b"," + SECOND + b"]" + TAIL[EMBED][:-1] + b',"model":"m"}'),
        "no count": (b',"prompt_eval_count":6', b""),
        "nothing but vectors": (TAIL[EMBED], b"}"),
        "a count of zero": (b'count":6', b'count":0'),
        "a count of null": (b'count":6', b'count":null'),
        "a count in text": (b'count":6', b'count":"6"'),
        "a count with a point": (b'count":6', b'count":6.0'),
        "a count with an exponent": (b'count":6', b'count":6e0'),
        "a negative count": (b'count":6', b'count":-6'),
        "a truth value for a count": (b'count":6', b'count":true'),
        "a count in a list": (b'count":6', b'count":[6]'),
        "a count past int64": (b'count":6', b'count":9223372036854775808'),
        "a count past everything": (b'count":6', b'count":' + b"9" * 40),
        "a leading zero": (b'count":6', b'count":06'),
        "a time of zero": (b":900", b":0"),
        "a time with a point": (b":900", b":900.5"),
        "a negative time": (b":900", b":-900"),
        "a time of null": (b":300", b":null"),
        "a time past int64": (b":300", b":9223372036854775808"),
        "torn": (b',"prompt_eval_count":6}', b',"prompt_eval'),
        "torn before its end": (b":6}", b":6"),
    },
    V1: {
        "no line end": (b"}\n", b"}"),
        "two line ends": (b"}\n", b"}\n\n"),
        "a carriage return": (b"}\n", b"}\r\n"),
        "something behind": (b"}\n", b"}\n{}"),
        "another object": (b'"list"', b'"lists"'),
        "another object in a row": (b'"object":"embedding"', b'"object":"embeddings"'),
        "no object in a row": (b'"object":"embedding",', b""),
        "another index": (b'"index":1', b'"index":2'),
        "an index twice": (b'"index":1', b'"index":0'),
        "no index": (b',"index":1', b""),
        "an index with a point": (b'"index":1', b'"index":1.0'),
        "members of a row in another order": (b'"object":"embedding","embedding":' + FIRST, b'"embedding":' + FIRST + b',"object":"embedding"'),
        "an unknown member of a row": (b'"index":1', b'"index":1,"a":1'),
        "an unknown member": (b'"model":"m"', b'"model":"m","a":1'),
        "an unknown member at the start": (b'{"object":"list"', b'{"a":1,"object":"list"'),
        "an unknown member of the usage": (b'"total_tokens":6', b'"total_tokens":6,"a":1'),
        "an unknown member at the end": (b"}}\n", b'},"a":1}\n'),
        "usage before the model": (TAIL[V1], b'],"usage":{"prompt_tokens":6,"total_tokens":6},"model":"m"}\n'),
        "no usage": (b',"usage":{"prompt_tokens":6,"total_tokens":6}', b""),
        "usage of null": (b'{"prompt_tokens":6,"total_tokens":6}', b"null"),
        "usage in a list": (b'{"prompt_tokens":6,"total_tokens":6}', b"[6,6]"),
        "usage is a number": (b'{"prompt_tokens":6,"total_tokens":6}', b"6"),
        "no prompt tokens": (b'"prompt_tokens":6,', b""),
        "no total tokens": (b',"total_tokens":6', b""),
        "the total is another": (b'"total_tokens":6', b'"total_tokens":7'),
        "tokens in text": (b'"prompt_tokens":6', b'"prompt_tokens":"6"'),
        "tokens of null": (b'"prompt_tokens":6', b'"prompt_tokens":null'),
        "tokens with a point": (b'"prompt_tokens":6', b'"prompt_tokens":6.0'),
        "negative tokens": (b":6", b":-6"),
        "tokens past int64": (b":6", b":9223372036854775808"),
        "times, which this route does not tell": (b'"m",', b'"m","total_duration":900,"load_duration":300,'),
        "torn": (b',"total_tokens":6}}\n', b""),
    },
}  # fmt: skip


def malformed() -> list[Any]:
    cases = []
    for path in ROUTES:
        spoiled = {f"{path} {name}": change for name, change in (COMMON | MALFORMED[path]).items()}
        for at, vector in (("first", FIRST), ("last", SECOND)):
            spoiled |= {f"{path} {at}: {name}": (vector, wrong) for name, wrong in VECTORS.items()}
        cases += [pytest.param(path, *change, id=name) for name, change in spoiled.items()]
        cases.append(pytest.param(path, None, GOOD[EMBED if path == V1 else V1], id=f"{path} the other route's form"))
    return cases


@pytest.mark.parametrize(("path", "good", "bad"), malformed())
def test_nothing_is_stored_of_what_is_not_of_the_form(path, good, bad):
    body = bad if good is None else GOOD[path].replace(good, bad)
    assert body != GOOD[path]
    assert keepable(asking(path, "ab", "c"), ("ab", "c"), body) is None


@pytest.mark.parametrize("path", ROUTES)
def test_the_spoiled_responses_are_storable_before_they_are_spoiled(path):
    assert GOOD[path].endswith(TAIL[path])
    assert (
        join(asking(path, "ab", "c"), cut(asking(path, "ab", "c"), GOOD[path]), durations=(900, 300)).body == GOOD[path]
    )


@pytest.mark.parametrize("texts", [("ab",), ("ab", "c", "d"), ("ab",) * 3, ()], ids=len)
@pytest.mark.parametrize("path", ROUTES)
def test_nothing_is_stored_of_another_count(path, texts):
    assert split(asking(path, "ab", "c"), len(texts), GOOD[path]) is None


@pytest.mark.parametrize("path", ROUTES)
def test_nothing_is_stored_of_a_torn_response(path):
    asked = asking(path, "ab", "c")
    assert not any(split(asked, 2, GOOD[path][:end]) for end in range(len(GOOD[path])))


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_stored_of_a_damaged_response_still_joins_to_it(path):
    """A changed byte may give another number; it never gives items that differ from the response."""
    asked = asking(path, "ab", "c")
    kept = 0
    for place, byte in itertools.product(range(len(GOOD[path])), b'7-,.]["{e\x00\xff '):
        body = GOOD[path][:place] + bytes([byte]) + GOOD[path][place + 1 :]
        if keepable(asked, asked.texts, body) is not None:
            kept += 1
            assert join(asked, cut(asked, body)).body == body
            assert json.loads(body).keys() == json.loads(GOOD[path]).keys()
    assert kept > 0


@pytest.mark.parametrize("path", ROUTES)
def test_a_model_that_reads_like_a_vector_stores_nothing(path):
    asked = asking(path, "a", model="[1]")
    assert split(asked, 1, join(asked, {"a": some()}).body) is None
