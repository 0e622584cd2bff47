from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ollama_cache_proxy.policy.listing import any_form
from ollama_cache_proxy.policy.listing.any_form import Reading, Uncertain, WholeOnly, media_type, render
from ollama_cache_proxy.policy.listing.cut import Cut
from tests.support import list_forms
from tests.support.list_forms import Form

EMBED, V1 = "/api/embed", "/v1/embeddings"
MEMBER = {EMBED: "embeddings", V1: "data"}


def read(body: str | bytes, count: int = 2, path: str = V1, kind: bytes = b"application/json") -> Reading:
    return any_form.read(MEMBER[path], count, body.encode() if isinstance(body, str) else body, kind)


def cut(body: str | bytes, count: int = 2, path: str = V1) -> Cut:
    found = read(body, count, path)
    assert isinstance(found, Cut), found
    return found


class Number(str):
    __slots__ = ()


def values(body: bytes) -> Any:
    """Return JSON with the text of numbers: equal where only blanks and the order of names differ."""
    document = json.loads(body, parse_float=Number, parse_int=Number)
    if "data" in document and all("index" in row for row in document["data"]):
        document["data"].sort(key=lambda row: int(row["index"]))
    return document


ALL = [pytest.param(path, form, id=f"{path} {form.name}") for path, form in list_forms.forms()]


@pytest.mark.parametrize("more", [{}, {"encoding_format": "base64"}], ids=["numbers", "base64"])
@pytest.mark.parametrize(("path", "form"), ALL)
def test_a_form_is_read_and_written_with_equal_values(path: str, form: Form, more: dict[str, Any]) -> None:
    request = json.dumps({"model": "m", "input": ["a", "b c", "a"], **more}).encode()
    body = list_forms.answer(path, request, form)
    found = read(body, 3, path, form.kind.encode())
    if form.whole_only:
        assert found == WholeOnly()
        return
    assert isinstance(found, Cut)
    assert found.numbers == list_forms.WIDTH
    assert values(render(found)) == values(body)
    assert media_type(found.frame) == form.kind.encode()


@pytest.mark.parametrize(("path", "form"), ALL)
def test_a_part_has_the_frame_of_the_whole(path: str, form: Form) -> None:
    if form.whole_only:
        return
    frames = set()
    for texts in (["a"], ["b c", "d"], ["a"] * 9):
        body = list_forms.answer(path, json.dumps({"model": "m", "input": texts}).encode(), form)
        found = read(body, len(texts), path)
        assert isinstance(found, Cut)
        frames.add(found.frame)
    assert len(frames) == 1


ROW = '{"embedding":[1,2],"index":%d}'
GOOD = '{"data":[{"embedding":[1,2],"index":0},{"embedding":[3,4],"index":1}]}'


def test_vectors_are_in_the_order_of_their_indexes() -> None:
    found = cut('{"data":[{"index":2,"embedding":[5]},{"index":0,"embedding":[3]},{"embedding":[4],"index":1}]}', 3)
    assert found.vectors == (b"[3]", b"[4]", b"[5]")
    assert cut('{"data":[{"embedding":[5]},{"embedding":[3]}]}').vectors == (b"[5]", b"[3]")


@pytest.mark.parametrize(
    "numbers",
    ["1e-3,0.10", "1E5,-0.0", "-0,0", "0.1000000000000000055511151231257827,1", "123456789012345678901234,1e300"],
)
def test_numbers_are_kept_as_they_are_written(numbers: str) -> None:
    spaced = numbers.replace(",", " ,\n\t")
    found = cut(f'{{"data":[{{"embedding":[ {spaced} ]}}]}}', 1)
    assert found.vectors == (f"[{numbers}]".encode(),)
    assert numbers.encode() in render(found)


def test_what_is_told_beside_the_vectors() -> None:
    found = cut('{"embeddings":[[1]],"total_duration":9,"load_duration":3,"prompt_eval_count":0}', 1, EMBED)
    assert (found.tokens, found.total_duration, found.load_duration) == (0, 9, 3)
    assert cut('{"embeddings":[[1]]}', 1, EMBED).tokens is None
    assert cut('{"data":[{"embedding":[1]}],"usage":{"total_tokens":5}}', 1).tokens == 5


UNCERTAIN = {
    "too few": '{"data":[{"embedding":[1]}]}',
    "too many": '{"data":[{"embedding":[1]},{"embedding":[1]},{"embedding":[1]}]}',
    "no list": '{"data":{"embedding":[1]}}',
    "nothing": "{}",
    "null": '{"data":null}',
    "a gap": GOOD.replace('"index":1', '"index":2'),
    "twice": GOOD.replace('"index":1', '"index":0'),
    "from one": GOOD.replace('"index":1', '"index":2').replace('"index":0', '"index":1'),
    "a negative index": GOOD.replace('"index":0', '"index":-0'),
    "an index in text": GOOD.replace('"index":1', '"index":"1"'),
    "an index with a point": GOOD.replace('"index":1', '"index":1.0'),
    "an index of null": GOOD.replace('"index":1', '"index":null'),
    "an index in one row": GOOD.replace(',"index":1', ""),
    "an object in one row": GOOD.replace('"index":1', '"index":1,"object":"a"'),
    "no vector": '{"data":[{"index":0},{"index":1}]}',
    "a vector of null": GOOD.replace("[3,4]", "null"),
    "a vector that is a number": GOOD.replace("[3,4]", "3"),
    "an empty vector": GOOD.replace("[3,4]", "[]"),
    "two empty vectors": GOOD.replace("[3,4]", "[]").replace("[1,2]", "[ ]"),
    "a shorter vector": GOOD.replace("[3,4]", "[3]"),
    "torn": GOOD[:-3],
    "no JSON in a vector": GOOD.replace("[3,4]", "[3 4]"),
    "a comma too many": GOOD.replace("[3,4]", "[3,4,]"),
    "past float64": GOOD.replace("[3,4]", "[3,4e999]"),
    "NaN": '{"data":[{"embedding":[1,2]},{"embedding":[NaN,1]}]}',
}
WHOLE = {
    "a member more": GOOD.replace('{"data"', '{"id":"x","data"'),
    "a member more, of null": GOOD.replace('{"data"', '{"x":null,"data"'),
    "a member more in a row": GOOD.replace('"index":0', '"index":0,"x":1').replace('"index":1', '"index":1,"x":1'),
    "a name twice": GOOD.replace('{"data"', '{"model":"a","model":"a","data"'),
    "a name twice in a row": GOOD.replace('"index":1', '"index":1,"index":1'),
    "objects that differ": GOOD.replace('"index":0', '"index":0,"object":"a"').replace('"index":1', '"index":1,"object":"b"'),
    "an object in one row, without indexes": '{"data":[{"embedding":[1]},{"embedding":[2],"object":"a"}]}',
    "an object that is a number": GOOD.replace('{"data"', '{"object":1,"data"'),
    "a model in a list": GOOD.replace('{"data"', '{"model":["m"],"data"'),
    "a usage in a list": GOOD.replace('{"data"', '{"usage":[1],"data"'),
    "a usage with more": GOOD.replace('{"data"', '{"usage":{"prompt_tokens":1,"cost":0.1},"data"'),
    "other totals": GOOD.replace('{"data"', '{"usage":{"prompt_tokens":1,"total_tokens":2},"data"'),
    "a negative count": GOOD.replace('{"data"', '{"usage":{"prompt_tokens":-1},"data"'),
    "a count with an exponent": GOOD.replace('{"data"', '{"usage":{"prompt_tokens":1e0},"data"'),
    "a count with a point": GOOD.replace('{"data"', '{"usage":{"prompt_tokens":1.0},"data"'),
    "a count in text": GOOD.replace('{"data"', '{"usage":{"prompt_tokens":"1"},"data"'),
    "a count past int64": GOOD.replace('{"data"', '{"usage":{"prompt_tokens":9223372036854775808},"data"'),
    "a number beside numbers": GOOD.replace("[3,4]", "[0,[3,4]]").replace("[1,2]", "[1,[1,2]]"),
    "a matrix of two rows": GOOD.replace("[3,4]", "[[3,4],[5,6]]").replace("[1,2]", "[[1,2],[7,8]]"),
    "a matrix": GOOD.replace("[3,4]", "[[3,4]]").replace("[1,2]", "[[1,2]]"),
    "text and numbers": GOOD.replace("[3,4]", '"AACAPwAAgD8="'),
    "text that is no base64": GOOD.replace("[3,4]", '"x"').replace("[1,2]", '"y"'),
    "a very long model": GOOD.replace('{"data"', '{"model":"' + "m" * 5000 + '","data"'),
    "a model that is no text to all": GOOD.replace('{"data"', r'{"model":"\ud800","data"'),
    "very many members": GOOD.replace('{"data"', '{"x":[' + '"",' * 1000 + '""],"data"'),
    "a list": "[[1,2]]",
    "a text": '"data"',
}  # fmt: skip


@pytest.mark.parametrize("body", UNCERTAIN.values(), ids=list(UNCERTAIN))
def test_where_it_is_not_certain_which_vector_is_whose_nothing_is_read(body: str) -> None:
    assert read(body) == Uncertain()


@pytest.mark.parametrize("body", WHOLE.values(), ids=list(WHOLE))
def test_what_no_frame_can_express_is_whole_only(body: str) -> None:
    assert read(body) == WholeOnly()


def test_a_type_of_no_ascii_is_kept() -> None:
    found = read(GOOD, kind="application/json; x=é".encode("latin-1"))
    assert isinstance(found, Cut)
    assert media_type(found.frame) == b"application/json; x=\xe9"


def test_deep_and_large_responses_are_not_followed() -> None:
    deep = GOOD.replace('{"data"', '{"x":' + '{"a":' * 40 + "1" + "}" * 40 + ',"data"')
    assert read(deep) == WholeOnly()
    assert read("[" * 100_000) in (WholeOnly(), Uncertain())
    assert read('{"data":' + "[[" * 50_000) in (WholeOnly(), Uncertain())


@pytest.mark.parametrize("path", [EMBED, V1])
def test_a_damaged_response_is_never_read_as_other_values(path: str) -> None:
    """Whatever byte is changed: what is read is written again with the values that any JSON parser finds."""
    form = next(form for form in list_forms.FORMS if form.name == "sorted names")
    body = list_forms.answer(path, b'{"model":"m","input":["a","b"]}', form)
    rng = random.Random(1)
    kept = 0
    for _ in range(4000):
        place = rng.randrange(len(body))
        damaged = (
            body[:place]
            + rng.choice([b"7", b"-", b",", b".", b"]", b'"', b"{", b" ", b"\\", b"", b"e"])
            + body[place + 1 :]
        )
        found = read(damaged, 2, path)
        if isinstance(found, Cut):
            try:
                expected = values(damaged)
            except ValueError:
                pytest.fail(f"no JSON: {damaged!r}")
            kept += 1
            assert values(render(found)) == expected, damaged
    assert kept > 100


@pytest.mark.parametrize("many", [r"\"", '\\\n"', r"\\", '",', "[", "[ ", "[1,"])
def test_what_is_not_closed_is_looked_at_once(many: str) -> None:
    """A text that was never closed held up the event loop: its rest was looked at once for each quote in it."""
    for begin in ('{"data":"', '{"data":['):
        assert read(begin + many * 200_000) in (Uncertain(), WholeOnly())


def test_blanks_do_not_join_numbers() -> None:
    assert read('{"data":[{"embedding":[1 2]},{"embedding":[12]}]}') == Uncertain()
    assert read('{"data":[{"embedding":[1,- 2]},{"embedding":[1,2]}]}') == Uncertain()


def row(vector: str) -> str:
    return f'{{"embedding":{vector},"index":0}}'


def test_limits_of_large_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector, a string or all strings together that are too long, and more brackets than vectors need."""
    numbers, text = "[" + "1," * 40 + "1]", '"' + "QUJD" * 28 + "QUJDRA==" + '"'
    one = f'{{"data":[{row(numbers)}]}}'
    coded = f'{{"data":[{row(text)}]}}'
    assert isinstance(read(one, 1), Cut)
    assert isinstance(read(coded, 1), Cut)
    with monkeypatch.context() as patch:
        patch.setattr(any_form, "_LONGEST", 60)
        assert read(one, 1) == WholeOnly()
        assert read(coded, 1) == WholeOnly()
    with monkeypatch.context() as patch:
        patch.setattr(any_form, "_LARGEST_REST", 100)
        assert isinstance(read(one, 1), Cut)
        assert read(coded, 1) == WholeOnly()
    assert read('{"data":[' + "[]," * 10_000 + "[]]}", 1) == WholeOnly()


@pytest.mark.parametrize("vector", ["[" + "1," * 40 + "1]", '"' + "QUJD" * 28 + "QUJDRA==" + '"'])
def test_a_vector_may_be_as_long_as_the_limit(vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'{{"data":[{row(vector)}]}}'
    monkeypatch.setattr(any_form, "_LONGEST", len(vector))
    assert isinstance(read(body, 1), Cut)
    monkeypatch.setattr(any_form, "_LONGEST", len(vector) - 1)
    assert read(body, 1) == WholeOnly()


def test_all_but_numbers_may_be_as_long_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings, and what is between them, up to the last string."""
    body = f'{{"model":"m","data":[{row(chr(34) + "QUJDRA==" + chr(34))}]}}'
    limit = body.rindex('"') + 1
    monkeypatch.setattr(any_form, "_LARGEST_REST", limit)
    assert isinstance(read(body, 1), Cut)
    monkeypatch.setattr(any_form, "_LARGEST_REST", limit - 1)
    assert read(body, 1) == WholeOnly()


@pytest.mark.parametrize("seed", range(20))
def test_strings_and_numbers_are_found_wherever_they_stand(seed: int) -> None:
    source = random.Random(seed)
    body = bytes(source.choices(b'"[]1,{}\\ ', k=200))
    expected, at = [], 0
    while (found := any_form._STRING_OR_NUMBERS.search(body, at)) is not None:
        expected.append(found.span())
        at = found.end()
    assert [found.span() for found in any_form._strings_and_numbers(body)] == expected


@pytest.mark.parametrize(
    ("path", "body", "frame"),
    [
        pytest.param(
            V1,
            '{"model":"m","data":[{"index":0,"embedding":[1, 2],"object":"e"}],'
            '"usage":{"prompt_tokens":3,"total_tokens":3}}',
            b'{"base64":false,"row":{"embedding":"vector","index":"index","object":["e"]},"top":{"data":"rows",'
            b'"model":["m"],"usage":{"prompt_tokens":"count","total_tokens":"count"}},"type":"application/json"}',
            id="rows",
        ),
        pytest.param(
            EMBED,
            '{"embeddings":[[1, 2]],"total_duration":7,"load_duration":2,"prompt_eval_count":3,"model":"m"}',
            b'{"base64":false,"row":null,"top":{"embeddings":"rows","load_duration":"load","model":["m"],'
            b'"prompt_eval_count":"count","total_duration":"total"},"type":"application/json"}',
            id="vectors",
        ),
    ],
)
def test_a_frame_stays_what_it_is(path: str, body: str, frame: bytes) -> None:
    """Items that are stored have it, and only those of one frame are joined."""
    assert cut(body, 1, path).frame == frame
