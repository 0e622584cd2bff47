from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS, DEFAULT_RULES
from ollama_cache_proxy.policy.embeddings import (
    TextList,
    item_keys,
    item_keys_in_steps,
    may_be_clipped,
    missing,
    other_keys,
    other_keys_in_steps,
    text_list,
    upstream_body,
    upstream_body_in_steps,
)
from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.key import Scope, cache_key
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.steps import finish
from tests.support.lists import (
    EMBED,
    ROUTES,
    V1,
    asking,
    candidate,
    seen,
    some,
)

# What a list is


@pytest.mark.parametrize(
    ("path", "body", "texts", "unique", "coded"),
    [
        (EMBED, '{"model":"m","input":"a"}', ("a",), ("a",), False),
        (EMBED, '{"model":"m","input":["a"]}', ("a",), ("a",), False),
        (EMBED, '{"model":"m","input":["b","a","b"]}', ("b", "a", "b"), ("b", "a"), False),
        (EMBED, '{"model":"m","input":["a","A","a "]}', ("a", "A", "a "), ("a", "A", "a "), False),
        (EMBED, '{"model":"m","input":"a","encoding_format":"base64"}', ("a",), ("a",), False),
        (V1, '{"model":"m","input":"a"}', ("a",), ("a",), False),
        (V1, '{"model":"m","input":["a","a"],"encoding_format":"base64"}', ("a", "a"), ("a",), True),
        (V1, '{"model":"m","input":"a","encoding_format":"float"}', ("a",), ("a",), False),
        (V1, '{"model":"m","input":"a","encoding_format":""}', ("a",), ("a",), False),
        (V1, '{"model":"m","input":"a","encoding_format":null}', ("a",), ("a",), False),
    ],
)
def test_a_candidate_is_a_list_of_texts(path, body, texts, unique, coded):
    asked = candidate(path, body)
    assert text_list(asked) == TextList(candidate=asked, texts=texts, unique=unique, base64=coded, odd={})


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.operation)
def test_only_two_endpoints_have_items(endpoint):
    asked = Candidate(endpoint=endpoint, model="m", document={"model": "m", "input": "a", "prompt": "a"}, items=1)
    assert (text_list(asked) is not None) == (endpoint.path in ROUTES)


# Keys

SCOPE = {"digest": "sha256:0123", "version": "0.24.0"}


@pytest.mark.parametrize(
    ("texts", "turns"),
    [
        pytest.param([str(number) for number in range(199)], 0, id="few"),
        pytest.param([str(number) for number in range(200)], 1, id="as many as fit in a turn"),
        pytest.param([str(number) for number in range(450)], 2, id="many"),
        pytest.param([letter * 8192 for letter in "abc"], 0, id="long"),
        pytest.param([letter * 8193 for letter in "abc"], 3, id="longer"),
    ],
)
def test_the_keys_of_many_texts_take_turns(texts, turns):
    asked = asking(EMBED, *texts)
    steps = other_keys_in_steps(asked, Scope(**SCOPE), ())
    assert sum(1 for _ in steps) == turns


GOLDEN = {
    "a text": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        (),
        "{}",
        "c122ec81b6893f92c69334068a6d458abe63e9022b53ab66fb3d5e7ee98d96b3",
    ),
    "the same through /v1, as base64": (
        V1,
        '{"model":"minilm:latest","input":["p"],"encoding_format":"base64","user":"me"}',
        {},
        (),
        "{}",
        "c122ec81b6893f92c69334068a6d458abe63e9022b53ab66fb3d5e7ee98d96b3",
    ),
    "dimensions": (
        V1,
        '{"model":"minilm","input":"p","dimensions":8}',
        {},
        (),
        '{"dimensions":8}',
        "8e8c20b74c85de1893f96e98b72da9f572b47137410d432a98393b04e452a93a",
    ),
    "all that counts": (
        EMBED,
        '{"zeta":{"b":1,"a":2},"options":{"num_ctx":64,"a":[2,1]},"model":"m","truncate":false,"input":["p"],"dimensions":8,"Alpha":null}',
        {},
        (),
        '{"Alpha":null,"dimensions":8,"options":{"a":[2,1],"num_ctx":64},"truncate":false,"zeta":{"b":1,"a":2}}',
        "de51f107fdc6731913b2f42aa1c0d64254e1ccf564aa6dbb6fe25a6466e93fd2",
    ),
    "every part of the scope": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {"digest": "sha256:ff", "version": "1.0", "epoch": "gpu", "namespace": "é"},
        (),
        "{}",
        "430bbd49c5fbc29944ef0ec65a5e01d0554646982f8ddf6961b4fa73b4395026",
    ),
    "Authorization and Origin": (
        V1,
        '{"model":"minilm","input":"p"}',
        {},
        ((b"Host", b"h"), (b"AUTHORIZATION", b"Bearer secret"), (b"origin", b"https://page.example")),
        "{}",
        "4844a7a656c7dc5960febc9432797795c89f7b20c285f8e1ed5c31fee9e09e00",
    ),
    "two lines of each": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        ((b"Authorization", b"a"), (b"Origin", b"c"), (b"Authorization", b"b"), (b"Origin", b"d")),
        "{}",
        "eaab606280cb37828dae051af0ccab827218a0e3285b874e661c1aa15d9d2011",
    ),
    "another text": (
        EMBED,
        '{"model":"minilm","input":"caf\\u00e9 \\ud83d\\ude42\\n"}',
        {},
        (),
        "{}",
        "0110e9be1231c996c32dfc4a8851c2d427c33a06c16c1bcb10c18b8644579125",
    ),
}


def key(path: str, body: str, fields=(), **scope: Any) -> str:
    asked = seen(path, body)
    return item_keys(asked, Scope(**(SCOPE | scope)), fields)[asked.texts[0]]


def expected_key(text: str, normal: str, scope: dict[str, str], fields) -> str:
    """The key once more, by other means."""
    whole = {"namespace": "", "epoch": ""} | SCOPE | scope
    secrets = b"".join(
        len(part).to_bytes(8, "big") + part
        for name, value in fields
        if name.lower() == b"authorization"
        for part in (b"authorization", value)
    )
    parts = (
        b"2",
        b"embed-item",
        *(whole[name].encode() for name in ("namespace", "digest", "version", "epoch")),
        DEFAULT_RULES.digest.encode(),
        hashlib.sha256(secrets).digest() if secrets else b"",
        b"\n".join(value for name, value in fields if name.lower() == b"origin"),
        normal.encode(),
        text.encode(),
    )
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


@pytest.mark.parametrize("case", GOLDEN.values(), ids=list(GOLDEN))
def test_an_item_key_is_what_it_has_always_been(case):
    """A change of a pinned key makes every item there is unreachable: it needs a new SCHEMA."""
    path, body, scope, fields, normal, hexadecimal = case
    assert key(path, body, fields, **scope) == hexadecimal
    assert expected_key(seen(path, body).texts[0], normal, scope, fields) == hexadecimal


def bodies(path: str, *parts: str) -> list[tuple[str, str]]:
    return [(path, '{"model":"m","input":"p"' + part + "}") for part in parts]


PLAIN = bodies(EMBED, "")[0]
SAME = {
    "model": [
        *bodies(EMBED, ""),
        (EMBED, '{"model":"m:latest","input":"p"}'),
        (V1, '{"model":"registry.ollama.ai/library/M","input":"p"}'),
    ],
    "string or list": [PLAIN, (EMBED, '{"model":"m","input":["p"]}'), (V1, '{"input":["p","q"],"model":"m"}')],
    "truncate": bodies(EMBED, "", ',"truncate":null', ',"truncate":true') + bodies(V1, ',"truncate":false'),
    "dimensions": [pair for path in ROUTES for pair in bodies(path, "", ',"dimensions":null', ',"dimensions":0')],
    "options": bodies(EMBED, "", ',"options":null', ',"options":{}') + bodies(V1, ',"options":{"num_ctx":1}'),
    "null and sampling options": bodies(
        EMBED,
        "",
        ',"options":{"a":null}',
        ',"options":{"num_ctx":null,"temperature":null,"stop":null,"mirostat":null}',
        ',"options":{"temperature":0,"seed":1,"top_k":1,"num_predict":-1,"stop":["a"],"repeat_penalty":1.1}',
    ),
    "beside one that counts": bodies(
        EMBED, ',"options":{"num_ctx":1}', ',"options":{"temperature":0.5,"num_ctx":1,"num_gpu":null}'
    ),
    "order in options": bodies(EMBED, ',"options":{"a":1,"b":2}', ',"options":{"b":2,"a":1}'),
    "order of fields": bodies(EMBED, ',"x":1,"dimensions":3', ',"dimensions":3,"x":1') + bodies(V1, ',"x":1,"dimensions":3'),
    "keep_alive": bodies(EMBED, "", ',"keep_alive":"5m"', ',"keep_alive":-1') + bodies(V1, ',"keep_alive":0'),
    "encoding": bodies(V1, "", *(f',"encoding_format":{value}' for value in ('"base64"', '"float"', '""', "null"))),
    "user": bodies(V1, "", ',"user":"me"', ',"user":null'),
    "escapes": [PLAIN, (EMBED, '{"model":"m","\\u0069nput":"\\u0070"}')],
}  # fmt: skip


@pytest.mark.parametrize("asked", SAME.values(), ids=list(SAME))
def test_what_changes_no_vector_changes_no_key(asked):
    assert len({key(path, body) for path, body in asked}) == 1


DIFFERENT = {
    "text": [PLAIN, *((EMBED, json.dumps({"model": "m", "input": text})) for text in ("P", "p ", " p", "é", "e\u0301"))],
    "truncate": bodies(EMBED, "", ',"truncate":false', ',"truncate":1', ',"truncate":0', ',"truncate":"true"'),
    "dimensions": bodies(
        EMBED,
        *(f',"dimensions":{value}' for value in ("0", "1", "2", "0.0", "1.0", "false", "true", '""', "-1", "[]", "{}")),
    ),
    "options": bodies(
        EMBED,
        *(f',"options":{value}' for value in ("{}", "[]", '{"a":1}', '{"a":2}', '{"A":1}', '{"Seed":1}', "0")),
        *(f',"options":{{"{name}":1}}' for name in ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread")),
        ',"options":{"use_mmap":false}',
    ),
    "order below the options": bodies(EMBED, ',"options":{"o":{"a":1,"b":2}}', ',"options":{"o":{"b":2,"a":1}}'),
    "unknown fields": bodies(V1, "", ',"x":null', ',"x":1', ',"x":2', ',"y":1', ',"x":{"a":1,"b":2}', ',"x":{"b":2,"a":1}'),
    "user means nothing to /api/embed": bodies(EMBED, "", ',"user":"a"', ',"user":"b"'),
    "nor does encoding_format": bodies(EMBED, "", ',"encoding_format":"base64"', ',"encoding_format":"float"'),
    "what /v1 does not read by another name": bodies(V1, "", ',"Truncate":false', ',"Options":{}', ',"stream":false'),
}  # fmt: skip


@pytest.mark.parametrize("asked", DIFFERENT.values(), ids=list(DIFFERENT))
def test_what_may_change_a_vector_changes_the_key(asked):
    assert len({key(path, body) for path, body in asked}) == len(asked)


SILENT = ["", ',"options":null', ',"options":{}', ',"options":{"top_p":null}', ',"options":{"temperature":0}']


@pytest.mark.parametrize(("version", "count"), [("0.24.0", 1), ("0.33.0", 1), ("0.35.0", 5), ("0.0.0", 5)])
def test_options_are_left_out_for_versions_that_were_looked_up(version, count):
    assert len({key(*body, version=version) for body in bodies(EMBED, *SILENT)}) == count


WIDTHS = [
    (384, "0.33.0", ["384", "385", "4096", "0", "null"], ["1", "383", "-1", "384.0", '"384"', "true"]),
    (384, "0.34.3", ["384", "4096", "0", "null"], ["1", "383"]),
    (384, "0.35.0", ["0", "null"], ["1", "383", "384", "4096"]),
    (None, "0.33.0", ["0", "null"], ["1", "383", "384", "4096"]),
    (None, "0.24.0", ["0", "null"], ["1", "383", "384", "4096"]),
]


@pytest.mark.parametrize(("width", "version", "same", "other"), WIDTHS)
@pytest.mark.parametrize("path", ROUTES)
def test_dimensions_count_where_they_may_cut_a_vector(path, width, version, same, other):
    whole = key(path, '{"model":"m","input":"p"}', version=version, width=width)
    cut = [
        key(path, f'{{"model":"m","input":"p","dimensions":{value}}}', version=version, width=width)
        for value in (*same, *other)
    ]
    assert cut[: len(same)] == [whole] * len(same)
    assert len({whole, *cut[len(same) :]}) == 1 + len(other)
    assert whole == key(path, '{"model":"m","input":"p"}', version=version), "the width itself is in no key"


def item(numbers: int) -> Item:
    vector = b"[" + b",".join([b"1"] * numbers) + b"]"
    return Item(vector=vector, numbers=numbers, tokens=1, exact=True, total_duration=1, load_duration=1)


@pytest.mark.parametrize(
    ("dimensions", "numbers", "clipped", "usable"),
    [
        ("null", 9, False, True),
        ("0", 9, False, True),
        ("-1", 9, False, True),
        ("9", 9, False, True),
        ("10", 9, False, True),
        ("8", 9, False, False),
        ("9", 9, True, True),
        ("null", 9, True, False),
        ("0", 9, True, False),
        ("10", 9, True, False),
        ("8", 9, True, False),
    ],
)
def test_an_item_answers_what_ollama_would_answer_with_it_whatever_its_width(dimensions, numbers, clipped, usable):
    """One that is whole answers where it would not be shortened; one that may be clipped, its own `dimensions` alone."""
    asked = seen(EMBED, f'{{"model":"m","input":"p","dimensions":{dimensions}}}')
    known = {"p": replace(item(numbers), clipped=clipped)}
    assert missing(asked, known, estimates=False) == (() if usable else ("p",))
    other = {"p": replace(item(numbers), frame=b"{}")}
    assert missing(asked, other, estimates=False) == (), "another server may take them otherwise"


@pytest.mark.parametrize(
    ("dimensions", "width", "numbers", "clipped"),
    [
        ("9", 8, 8, False),
        ("9", 8, 9, True),
        ("8", 8, 8, True),
        ("8", 8, 7, False),
        ("8", 9, 8, False),
        ("8", None, 8, False),
        ("null", 8, 9, False),
        ("0", 8, 9, False),
    ],
)
def test_a_vector_may_be_clipped_where_its_key_does_not_say_so(dimensions, width, numbers, clipped):
    asked = candidate(EMBED, f'{{"model":"m","input":"p","dimensions":{dimensions}}}')
    scope = Scope(digest="d", version="0.33.0", width=width)
    assert may_be_clipped(asked, numbers, scope) is clipped


@pytest.mark.parametrize("part", ["digest", "version", "epoch", "namespace"])
def test_each_part_of_the_scope_splits_the_items(part):
    assert len({key(*PLAIN, **{part: value}) for value in ("", "a", "A", "a ", "aa")}) == 5


@pytest.mark.parametrize("name", [*CREDENTIAL_FIELDS, b"Origin"], ids=bytes.decode)
def test_the_field_splits_the_items(name):
    values = [(), (b"a",), (b"A",), (b"a", b"b"), (b"b", b"a"), (b"a, b",)]
    assert len({key(*PLAIN, tuple((name, value) for value in several)) for several in values}) == len(values)


def test_other_fields_are_not_in_the_key():
    assert key(*PLAIN, ((b"Accept", b"a"), (b"Content-Type", b"d"), (b"Content-Length", b"1"))) == key(*PLAIN)


def test_each_text_of_a_list_has_the_key_that_it_has_alone():
    asked = asking(EMBED, "a", "b", "a")
    scope = Scope(**SCOPE)
    keys = [item_keys(asked, scope, ())[text] for text in asked.texts]
    assert keys == [key(V1, json.dumps({"model": "m", "input": text})) for text in asked.texts]


@pytest.mark.parametrize("path", ROUTES)
def test_an_item_never_has_the_key_of_an_answer(path):
    asked = asking(path, "p")
    assert item_keys(asked, Scope(**SCOPE), ())["p"] != cache_key(asked.candidate, Scope(**SCOPE), ())


def test_the_settings_and_the_text_are_not_taken_for_each_other():
    """A text that reads like the settings, or the settings and a part of it, has a key of its own."""
    asked = [asking(EMBED, text, **fields) for text in ("{}", '{"x":1}', '{}{"x":1}') for fields in ({}, {"x": 1})]
    assert len({item_keys(each, Scope(**SCOPE), ())[each.texts[0]] for each in asked}) == len(asked)


# Keys of items in another form


def other_key(path: str, body: str, fields=(), **scope: Any) -> str:
    asked = seen(path, body)
    return other_keys(asked, Scope(**(SCOPE | scope)), fields)[asked.texts[0]]


OTHER_SAME = {
    "string or list": [PLAIN, (EMBED, '{"model":"m","input":["p"]}'), (EMBED, '{"input":["p","q"],"model":"m"}')],
    "order of fields": bodies(EMBED, ',"x":1,"dimensions":3', ',"dimensions":3,"x":1'),
    "keep_alive": bodies(EMBED, "", ',"keep_alive":"5m"', ',"keep_alive":-1'),
    "user": bodies(V1, "", ',"user":"me"', ',"user":null'),
}
OTHER_DIFFERENT = {
    "text": [PLAIN, *((EMBED, json.dumps({"model": "m", "input": text})) for text in ("P", "p ", " p", "é", "e\u0301"))],
    "model": [PLAIN, *((EMBED, json.dumps({"model": name, "input": "p"})) for name in ("M", "m:latest", "library/m"))],
    "endpoint": [pair for path in ROUTES for pair in bodies(path, "")],
    "encoding": bodies(V1, "", *(f',"encoding_format":{value}' for value in ('"base64"', '"float"', '""', "null"))),
    "what Ollama takes for the same": bodies(EMBED, "", ',"options":{"seed":1}', ',"options":{"a":null}', ',"truncate":null', ',"truncate":true', ',"dimensions":0', ',"options":{}', ',"options":null'),
    "what /v1 does not read in Ollama": bodies(V1, "", ',"truncate":false', ',"options":{"num_ctx":1}', ',"keep_alive":0', ',"x":1'),
    "order in options": bodies(EMBED, ',"options":{"a":1,"b":2}', ',"options":{"b":2,"a":1}'),
}  # fmt: skip


@pytest.mark.parametrize("asked", OTHER_SAME.values(), ids=list(OTHER_SAME))
def test_requests_that_any_server_answers_alike_have_one_other_key(asked):
    assert len({other_key(path, body) for path, body in asked}) == 1


@pytest.mark.parametrize("asked", OTHER_DIFFERENT.values(), ids=list(OTHER_DIFFERENT))
def test_whatever_another_server_may_read_is_in_the_other_key(asked):
    assert len({other_key(path, body) for path, body in asked}) == len(asked)


@pytest.mark.parametrize("part", ["digest", "version", "epoch", "namespace"])
def test_each_part_of_the_scope_splits_the_items_of_another_form(part):
    assert len({other_key(*PLAIN, **{part: value}) for value in ("", "a", "A", "a ", "aa")}) == 5


@pytest.mark.parametrize("name", [b"Authorization", b"Origin"], ids=bytes.decode)
def test_the_field_splits_the_items_of_another_form(name):
    values = [(), (b"a",), (b"A",), (b"a", b"b"), (b"b", b"a"), (b"a, b",)]
    assert len({other_key(*PLAIN, tuple((name, value) for value in several)) for several in values}) == len(values)


@pytest.mark.parametrize("path", ROUTES)
def test_the_three_keys_of_a_text_are_three(path):
    asked = asking(path, "p")
    keys = (item_keys(asked, Scope(**SCOPE), ()), other_keys(asked, Scope(**SCOPE), ()))
    assert len({cache_key(asked.candidate, Scope(**SCOPE), ()), *(each["p"] for each in keys)}) == 3


# Odd texts


@pytest.mark.parametrize("path", ROUTES)
def test_an_odd_text_has_no_key_and_is_always_missing(path):
    body = rb'{"model":"m","input":["a","","\ud800","b","","\uD800"]}'
    asked = seen(path, body)
    assert asked.ordinary == ("a", "b")
    assert set(asked.odd.values()) == {b'""', rb'"\ud800"', rb'"\uD800"'}
    assert len(asked.texts) == 6
    for keys in (item_keys, other_keys):
        assert list(keys(asked, Scope(**SCOPE), ())) == ["a", "b"]
    known = {"a": some(), "b": some()}
    absent = missing(asked, known, estimates=False)
    assert upstream_body(asked, body, absent, numbers=True) == rb'{"model":"m","input":["","\ud800","\uD800"]}'


def test_a_list_with_another_odd_text_has_another_key():
    bodies = [
        f'{{"model":"m","input":["a",{text}]}}'
        for text in (r'"\ud800"', r'"\uD800"', r'"\ud801"', r'"\ufffd"', '""', '"b"', r'"\ud800\ud800"')
    ]
    assert len({cache_key(candidate(EMBED, body), Scope(**SCOPE), ()) for body in bodies}) == len(bodies)


# Requests to Ollama


@pytest.mark.parametrize(
    ("path", "body", "texts", "sent"),
    [
        (EMBED, '{"model":"m","input":"a"}', ("a",), '{"model":"m","input":["a"]}'),
        (EMBED, '{"input":["a","b"],"model":"m"}', ("b",), '{"input":["b"],"model":"m"}'),
        (
            EMBED,
            '{"x":[1.5,null],"model":"M:latest", "input":["a","b","a"],"truncate":true,"keep_alive":"5m","options":{"b":1,"a":2}}',
            ("a", "b"),
            '{"x":[1.5,null],"model":"M:latest", "input":["a","b"],"truncate":true,"keep_alive":"5m","options":{"b":1,"a":2}}',
        ),
        (
            EMBED,
            '{"model":"m","encoding_format":"base64","input":"a"}',
            ("a",),
            '{"model":"m","encoding_format":"base64","input":["a"]}',
        ),
        (
            V1,
            '{"model":"m","encoding_format":"base64","input":["a","b"],"user":"me","dimensions":8}',
            ("a", "b"),
            '{"model":"m","input":["a","b"],"user":"me","dimensions":8}',
        ),
        (
            V1,
            '{"x":8e0, "input" : "a","encoding_format":"base64"}'.replace('"x"', '"model":"m","x"'),
            ("a",),
            '{"model":"m","x":8e0, "input" :["a"]}',
        ),
        (V1, '{"encoding_format":null,"input":"caf\\u00e9\\n","model":"m"}', ("café\n",), '{"input":["café\\n"],"model":"m"}'),
    ],
)  # fmt: skip
def test_only_the_texts_and_the_encoding_change_in_what_is_asked(path, body, texts, sent):
    assert upstream_body(seen(path, body), body.encode(), texts, numbers=True) == sent.encode()


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_asked_gives_items_of_the_same_keys(path):
    asked = asking(path, "a", "b", "a", dimensions=3, x=1, user="me", encoding_format="base64")
    body = json.dumps(asked.candidate.document).encode()
    again = seen(path, upstream_body(asked, body, ("b",), numbers=True).decode())
    assert again.texts == ("b",)
    assert not again.base64
    assert item_keys(again, Scope(**SCOPE), ())["b"] == item_keys(asked, Scope(**SCOPE), ())["b"]


KNOWN = {"a": some(), "b": some(exact=False), "c": some()}


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        (("a",), ()),
        (("b",), ("b",)),
        (("x",), ("x",)),
        (("a", "b"), ()),
        (("b", "b"), ()),
        (("x", "b", "x", "a", "y", "y"), ("x", "y")),
        (("y", "x"), ("y", "x")),
        (("c", "b", "a"), ()),
    ],
)
@pytest.mark.parametrize("path", ROUTES)
def test_what_is_missing_is_asked_once_and_in_order(path, texts, asked):
    assert missing(asking(path, *texts), KNOWN, estimates=False) == asked
    assert missing(asking(path, *texts), KNOWN, estimates=True) == (() if texts == ("b",) else asked)


@pytest.mark.parametrize(
    ("texts", "steps"),
    [
        pytest.param([f"text {number}" for number in range(1000)], 5, id="short texts"),
        pytest.param([str(number) * 8193 for number in range(3)], 3, id="long texts"),
        pytest.param([str(number) * 8192 for number in range(3)], 0, id="texts that are not long"),
    ],
)
def test_keys_of_many_texts_are_made_in_steps(texts: list[str], steps: int) -> None:
    asked = asking(EMBED, *texts)
    found = item_keys_in_steps(asked, Scope(**SCOPE), ())
    assert sum(1 for _ in found) == steps
    assert finish(item_keys_in_steps(asked, Scope(**SCOPE), ())) == item_keys(asked, Scope(**SCOPE), ())


def test_a_request_for_large_texts_is_written_in_steps() -> None:
    asked = asking(EMBED, *(str(number) * 100_000 for number in range(9)))
    body = orjson.dumps(asked.candidate.document)

    def steps_of(texts: Sequence[str]) -> int:
        return sum(1 for _ in upstream_body_in_steps(asked, body, texts, numbers=False))

    assert steps_of(asked.texts) - steps_of(asked.texts[:1]) == 3
    assert finish(upstream_body_in_steps(asked, body, asked.texts[:2], numbers=False)) == upstream_body(
        asked, body, asked.texts[:2], numbers=False
    )
