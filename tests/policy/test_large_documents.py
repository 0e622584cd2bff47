from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import orjson
import pytest

from ollama_cache_proxy.policy import large_documents, odd_texts, outline
from ollama_cache_proxy.policy.large_documents import MOST_MEMBERS, MOST_TEXTS, Read
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish
from tests.support import hostile

KNOWN = frozenset({"model", "input", "options", "truncate"})


def read(body: bytes, *, prompt: str = "input", room: bool = True, known: frozenset[str] = KNOWN) -> Read:
    return finish(large_documents.read(body, known, prompt, lambda _: room))


@pytest.fixture(params=["whole", "in parts"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read a body at once, or as if that took too long, in slices of a few bytes."""
    monkeypatch.setattr(outline, "SLICE", 16)
    if request.param == "in parts":
        monkeypatch.setattr(large_documents, "MOST", -1.0)
        monkeypatch.setattr(outline.Outline, "of_bytes", lambda *_: -2.0)
        monkeypatch.setattr(outline, "ESCAPE", 0.0)
    return str(request.param)


PIECES = [
    *(
        b'"a"',
        b'""',
        rb'"\""',
        rb'"\\"',
        rb'"\\\""',
        '"ä😀"'.encode(),
        rb'"\ud83d\ude00"',
        rb'"X\\X\"XX\\"',
        b'"[,]{:}"',
        b'" -0,"',
    ),
    *(rb'"\ud800"', rb'"\\\ude00x"', b'"\xff"', b'"a\xe2\x82"'),
]
AROUND = [
    b'{"model":"m","input":[%b]}',
    b' { "input" : [ %b ] , "model" : "m" , "options" : { "stop" : [ "x" , "y" ] } } ',
    b'{"model":"m","options":{"stop":["x"]},"input":[%b],"truncate":true}',
]


def test_lists_are_read_as_small_ones_are(way: str) -> None:
    source = random.Random(1)
    for number in range(600):
        texts = source.choices(PIECES if number % 2 else PIECES[:10], k=source.randrange(0, 12))
        texts.insert(source.randint(0, len(texts)), b'"longer than any other list"')
        comma = source.choice([b",", b" , ", b",\n"])
        body = source.choice(AROUND) % comma.join(texts)
        assert read(body) == odd_texts.read(body, KNOWN, "input"), (way, body)


WRONG = [
    *(b"", b"[]", b'"x"', b"{", b'{"input":["a","b"]', b'{"input":["a","b"}', b'{"input":["a","b",]}'),
    *(b'{"input":["a""b"]}', b'{"input":["a" "b"]}', b'{"input":["a","\n"]}', b'{"input":["a",\'b\']}'),
    *(b'\xef\xbb\xbf{"input":["a"]}', b'{"input":["a"]} x', b'{"input":["a"],"\xff":1}', b'{"in\\put":["a"]}'),
    *(b'{"input":["\\x","a"]}', b'{"input":["a"],"model":"\\ud800"}'),
]


@pytest.mark.parametrize("body", WRONG)
def test_what_is_no_json_is_not_read(body: bytes, way: str) -> None:
    expected = odd_texts.read(body, KNOWN, "input")
    found = read(body)
    assert isinstance(found, Detail), (way, found)
    assert found is expected or way == "in parts"


OTHERWISE = {
    b'{"input":["a","b"],"input":"c"}': Detail.DUPLICATE_NAME,
    b'{"input":"c","input":["a","b"]}': Detail.DUPLICATE_NAME,
    b'{"input":["a","b"],"INPUT":["c"]}': Detail.AMBIGUOUS_NAME,
    b'{"input":["a","b"],"x":-0}': Detail.NUMBER,
    b'{"input":["a","b"],"x":1e400}': Detail.NOT_JSON,
    b'{"input":["a","b"],"x":18446744073709551616}': Detail.NUMBER,
    b'{"input":["a","b"],"x":' + b"[" * 64 + b"]" * 64 + b"}": Detail.DEPTH,
}


@pytest.mark.parametrize("body", OTHERWISE)
def test_what_go_may_read_otherwise_is_a_bypass(body: bytes, way: str) -> None:
    assert odd_texts.read(body, KNOWN, "input") == OTHERWISE[body]
    assert read(body) == OTHERWISE[body], way


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":["a","b"],"options":{"stop":["x","y","z"]}}',  # the longest list is another one
        b'{"input":["a",1]}',
        b'{"input":"a"}',
        b'{"input":[]}',
        b'{"input":[["a","b"]]}',
        b'{"x":{"input":["a","b"]}}',
    ],
)
def test_a_list_that_is_not_that_of_the_prompt_is_not_taken_for_it(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(body) == odd_texts.read(body, KNOWN, "input")
    monkeypatch.setattr(large_documents, "MOST", -1.0)
    monkeypatch.setattr(outline.Outline, "of_bytes", lambda *_: -2.0)
    assert read(body) is Detail.SLOW_TO_READ


def test_without_a_prompt_no_list_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_documents, "MOST", -1.0)
    monkeypatch.setattr(outline.Outline, "of_bytes", lambda *_: -2.0)
    assert read(b'{"model":"m","":["a","b"]}', prompt="") is Detail.SLOW_TO_READ


def test_hostile_bodies_are_read_as_small_ones_are(way: str) -> None:
    for index in range(1500):
        body = hostile.request(7, index).body
        expected, found = odd_texts.read(body, KNOWN, "input"), read(body)
        if found is Detail.NOT_JSON and not _is_utf_8(body):
            continue  # only ill-formed texts of a list of nothing but texts are read: all others are a bypass
        if found is Detail.SLOW_TO_READ and way == "in parts":
            continue
        assert found == expected, (way, body)


def _is_utf_8(body: bytes) -> bool:
    try:
        json.dumps(json.loads(body.decode()), ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("sizes", "is_read"),
    [([16, 16, 16], True), ([16, 16, 9, 8], False), ([17], False), ([16, 8], True), ([8] * 6, True), ([8] * 7, False)],
)
def test_ill_formed_texts_are_read_up_to_a_size_each_and_together(
    sizes: list[int], is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_documents, "_MOST_ODD", 16)
    monkeypatch.setattr(large_documents, "_MOST_ODD_TOGETHER", 32)
    body = b'{"model":"m","input":[%b]}' % b",".join(rb'"\ud800%b"' % (b"a" * (size - 8)) for size in sizes)
    assert read(body) == (odd_texts.read(body, KNOWN, "input") if is_read else Detail.NOT_JSON)


def test_a_body_without_room_is_a_bypass() -> None:
    assert read(b'{"input":["a"]}', room=False) is Detail.BUFFERS_FULL


def listed(count: int) -> bytes:
    return json.dumps({"model": "m", "input": ["a"] * count}).encode()


def test_a_list_of_more_texts_than_a_response_can_hold_is_slow_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_documents, "MOST", 100_000.0)
    assert not isinstance(read(listed(MOST_TEXTS)), Detail)
    assert read(listed(MOST_TEXTS + 1)) is Detail.SLOW_TO_READ


@pytest.mark.parametrize("where", ["top", "options"])
def test_very_many_names_are_slow_to_read(where: str) -> None:
    def of(count: int) -> bytes:
        names = {f"k{number}": 1 for number in range(count)}
        return json.dumps({"model": "m", **(names if where == "top" else {"options": names})}).encode()

    most = MOST_MEMBERS - (where == "top")
    assert not isinstance(read(of(most)), Detail)
    assert read(of(most + 1)) is Detail.SLOW_TO_READ


def test_names_in_a_member_that_the_endpoint_does_not_know_are_not_sorted() -> None:
    body = json.dumps({"model": "m", "options": {f"k{number}": 1 for number in range(MOST_MEMBERS + 1)}}).encode()
    assert not isinstance(read(body, known=KNOWN - {"options"}), Detail)


def test_very_many_values_are_slow_to_read() -> None:
    assert read(b'{"model":"m","x":[' + b"[]," * 30_000 + b"[]]}") is Detail.SLOW_TO_READ


def test_a_body_is_read_at_once_where_that_takes_no_longer_than_a_step_may(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"model":"m","x":[1,2,3]}'
    seen = finish(outline.outline(body))
    assert seen is not None
    takes = seen.nanoseconds(len(body))
    monkeypatch.setattr(large_documents, "MOST", takes)
    assert not isinstance(read(body), Detail)
    monkeypatch.setattr(large_documents, "MOST", math.nextafter(takes, 0))
    assert read(body) is Detail.SLOW_TO_READ


def test_what_is_around_a_list_is_read_where_that_takes_no_longer_than_a_step_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = b'"a","b"'
    around = b'{"model":"%b","input":[' % (b"m" * 100), b"]}"
    body = texts.join(around)
    seen = finish(outline.outline(body))
    assert seen is not None
    takes = seen.of_bytes(sum(map(len, around)), len(b'{":",":}'))
    monkeypatch.setattr(large_documents, "MOST", takes)
    assert read(body) == odd_texts.read(body, KNOWN, "input")
    monkeypatch.setattr(large_documents, "MOST", math.nextafter(takes, 0))
    assert read(body) is Detail.SLOW_TO_READ


def test_a_long_list_is_read_in_parts_of_about_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline, "SLICE", 1000)
    monkeypatch.setattr(large_documents, "MOST", 1500.0)
    sizes: list[int] = []

    def loads(text: bytes) -> object:
        sizes.append(len(text))
        return orjson.loads(text)

    monkeypatch.setattr(large_documents, "orjson", SimpleNamespace(loads=loads, JSONDecodeError=orjson.JSONDecodeError))
    body = {"model": "m", "options": {"stop": ["x"] * 50}, "input": ["a" * 90] * 200}
    assert not isinstance(read(json.dumps(body).encode()), Detail)
    assert max(sizes) < 1200
    assert len(sizes) < 25


@pytest.mark.parametrize("text", ["\\\\", "\\n", '\\"'])
def test_a_text_of_nothing_but_escapes_is_read_where_that_takes_no_longer_than_a_step_may(text: str) -> None:
    def of(count: int) -> bytes:
        return b'{"model":"m","input":["a","%b"]}' % (text.encode() * count)

    escapes = text.count("\\")
    most = int(outline.MOST / (2 * outline.BYTE + escapes * outline.ESCAPE))
    assert not isinstance(read(of(most - 1000)), Detail)
    assert read(of(most + 1000)) is Detail.SLOW_TO_READ


def test_a_body_of_nothing_but_blanks_is_slow_to_read() -> None:
    def of(count: int) -> bytes:
        return b'{"model":"m",' + b" " * count + b'"input":["a"]}'

    most = int(outline.MOST / (outline.BYTE + outline.OUTSIDE))
    assert not isinstance(read(of(most - 1000)), Detail)
    assert read(of(most + 1000)) is Detail.SLOW_TO_READ


def test_texts_that_are_read_one_by_one_are_read_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_documents, "_A_STEP", 10)
    body = b'{"model":"m","input":[%b]}' % b",".join([b'"a"'] * 99 + [b'"\xff"'])

    def steps_of(body: bytes) -> int:
        return sum(1 for _ in large_documents.read(body, KNOWN, "input", lambda _: True))

    assert 10 <= steps_of(body) < 20


def test_for_a_body_whose_last_string_has_no_end_no_memory_is_asked_for() -> None:
    asked: list[int] = []
    steps = large_documents.read(b'{"input":["a","b]}', KNOWN, "input", lambda size: not asked.append(size))
    assert finish(steps) is Detail.NOT_JSON
    assert asked == []


def test_the_documentation_tells_how_many_texts_are_read() -> None:
    assert f"over {MOST_TEXTS:,} texts" in Detail.SLOW_TO_READ.meaning


def test_long_ill_formed_texts_are_not_looked_at() -> None:
    long = b'"' + b"a" * 70_000 + b'\xff"'
    assert read(b'{"input":["a",%b]}' % long) is Detail.NOT_JSON
    short = b'"' + b"a" * 60_000 + b'\xff"'
    assert not isinstance(read(b'{"input":["a",%b]}' % short), Detail)
    assert not isinstance(read(b'{"input":["a",%b]}' % b",".join([short] * 17)), Detail), "1 MiB of them"
    assert read(b'{"input":["a",%b]}' % b",".join([short] * 20)) is Detail.NOT_JSON


def test_a_large_body_gives_what_a_small_way_gives() -> None:
    """Several slices, escapes across their borders, an ill-formed text in the middle."""
    source = random.Random(3)
    texts = [json.dumps("".join(source.choices('ab "\\\n,ä😀', k=5000))).encode() for _ in range(300)]
    texts[150] = b'"a\xff"'
    body = b'{"model":"m","input":[' + b",".join(texts) + b"]}"
    assert len(body) > 4 * outline.SLICE
    assert read(body) == odd_texts.read(body, KNOWN, "input")
