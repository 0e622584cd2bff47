from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import re
import struct
from typing import Any

import pytest

from ollama_cache_proxy.policy.classify import Candidate, by_body
from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS, DEFAULT_RULES
from ollama_cache_proxy.policy.embeddings import (
    Item,
    TextList,
    content_type,
    decode,
    encode,
    is_wider_than_told,
    item_keys,
    join,
    missing,
    sound,
    split,
    text_list,
    upstream_body,
)
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, Policy, find
from ollama_cache_proxy.policy.key import Scope, cache_key
from tests.support.servers import data

EMBED, V1 = "/api/embed", "/v1/embeddings"
ROUTES = (EMBED, V1)
RECORDED: dict[str, Any] = json.loads(data("wire/ollama-0.24.json").read_text("utf-8"))
WHOLE = ("embed_string", "embed_list", "embed_list_one", "embed_dimensions", "v1_embeddings")


def candidate(path: str, body: str) -> Candidate:
    outcome = by_body(find("POST", path)[0], body.encode(), policy=Policy.ALWAYS, streams=False)
    assert isinstance(outcome, Candidate), outcome
    return outcome


def seen(path: str, body: str) -> TextList:
    found = text_list(candidate(path, body))
    assert found is not None
    return found


def asking(path: str, *texts: str, model: str = "m", **fields: object) -> TextList:
    return seen(path, json.dumps({"model": model, "input": texts, **fields}))


def recorded(name: str) -> tuple[TextList, bytes]:
    case = RECORDED[name]
    answer = case["response"]
    body = answer.get("body") or "".join(chunk["data"] for chunk in answer["chunks"])
    return seen(case["request"]["path"], case["request"]["body"]), body.encode()


def keepable(asked: TextList, texts: tuple[str, ...], body: bytes) -> tuple[Item, ...] | None:
    items = split(asked, texts, body)
    return items if items and sound(items) else None


def cut(asked: TextList, body: bytes, texts: tuple[str, ...] | None = None) -> dict[str, Item]:
    texts = asked.texts if texts is None else texts
    items = split(asked, texts, body)
    assert items is not None
    return dict(zip(texts, items, strict=True))


def some(vector: bytes = b"[0.5]", tokens: int = 3, *, exact: bool = True, total: int = 7, load: int = 5) -> Item:
    return Item(
        vector=vector,
        numbers=vector.count(b",") + 1,
        tokens=tokens,
        exact=exact,
        total_duration=total,
        load_duration=load,
    )


# A whole response, written by other means


def numbers(text: str) -> list[float]:
    rng = random.Random(text)
    return [round(rng.uniform(-1, 1), 8) for _ in range(4)]


def tokens_of(texts: tuple[str, ...]) -> int:
    """Tokens in proportion to length, so that sharing them out gives each text its own again."""
    return sum(2 * len(text) for text in texts)


def packed(floats: list[float]) -> str:
    return base64.b64encode(b"".join(struct.pack("<f", number) for number in floats)).decode()


def reference(path: str, texts: tuple[str, ...], *, coded: bool = False, total: int = 900, load: int = 300) -> bytes:
    vectors: list[Any] = [packed(numbers(text)) if coded else numbers(text) for text in texts]
    tokens = tokens_of(texts)
    if path == EMBED:
        times = {"total_duration": total, "load_duration": load}
        document = {"model": "m", "embeddings": vectors, **times, "prompt_eval_count": tokens}
    else:
        rows = [{"object": "embedding", "embedding": vector, "index": at} for at, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        document = {"object": "list", "data": rows, "model": "m", "usage": usage}
    return json.dumps(document, separators=(",", ":")).encode() + (b"\n" if path == V1 else b"")


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
    assert text_list(asked) == TextList(candidate=asked, texts=texts, unique=unique, base64=coded)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.operation)
def test_only_two_endpoints_have_items(endpoint):
    asked = Candidate(endpoint=endpoint, model="m", document={"model": "m", "input": "a", "prompt": "a"}, items=1)
    assert (text_list(asked) is not None) == (endpoint.path in ROUTES)


@pytest.mark.parametrize("name", WHOLE)
def test_the_content_type_is_the_recorded_one(name):
    asked, _ = recorded(name)
    assert ["Content-Type", content_type(asked).decode()] in RECORDED[name]["response"]["headers"]


# Keys

SCOPE = {"digest": "sha256:0123", "version": "0.24.0"}
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


@pytest.mark.parametrize(("version", "count"), [("0.24.0", 1), ("0.33.0-rc2", 1), ("0.34.0", 5), ("0.0.0", 5)])
def test_options_are_left_out_for_versions_that_were_looked_up(version, count):
    assert len({key(*body, version=version) for body in bodies(EMBED, *SILENT)}) == count


WIDTHS = [
    (384, "0.33.0-rc2", ["384", "385", "4096", "0", "null"], ["1", "383", "-1", "384.0", '"384"', "true"]),
    (384, "0.33.0", ["0", "null"], ["1", "383", "384", "4096"]),
    (384, "0.34.0", ["0", "null"], ["1", "383", "384", "4096"]),
    (None, "0.33.0-rc2", ["0", "null"], ["1", "383", "384", "4096"]),
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
    ("dimensions", "numbers", "usable"),
    [("null", 9, True), ("0", 9, True), ("8", 8, True), ("9", 8, True), ("8", 9, False), ("-1", 9, True)],
)
def test_an_item_with_more_numbers_than_are_wanted_is_not_usable(dimensions, numbers, usable):
    """Then the width that Ollama told, by which its key was made, was wrong."""
    asked = seen(EMBED, f'{{"model":"m","input":"p","dimensions":{dimensions}}}')
    assert missing(asked, {"p": item(numbers)}) == (() if usable else ("p",))


@pytest.mark.parametrize(
    ("dimensions", "width", "numbers", "wider"),
    [
        ("9", 8, 8, False),
        ("9", 8, 9, True),
        ("8", 8, 8, False),
        ("8", 9, 8, False),
        ("8", None, 8, False),
        ("null", 8, 9, False),
        ("0", 8, 9, False),
    ],
)
def test_a_vector_that_is_wider_than_ollama_told_may_have_been_cut(dimensions, width, numbers, wider):
    asked = candidate(EMBED, f'{{"model":"m","input":"p","dimensions":{dimensions}}}')
    scope = Scope(digest="d", version="0.33.0-rc2", width=width)
    assert is_wider_than_told(asked, [item(numbers)], scope) is wider


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
            '{"x":[1.5,null],"model":"M:latest","input":["a","b"],"truncate":true,"keep_alive":"5m","options":{"b":1,"a":2}}',
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
        (V1, '{"encoding_format":null,"input":"caf\\u00e9\\n","model":"m"}', ("café\n",), '{"input":["café\\n"],"model":"m"}'),
    ],
)  # fmt: skip
def test_only_the_texts_and_the_encoding_change_in_what_is_asked(path, body, texts, sent):
    assert upstream_body(seen(path, body), texts) == sent.encode()


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_asked_gives_items_of_the_same_keys(path):
    asked = asking(path, "a", "b", "a", dimensions=3, x=1, user="me", encoding_format="base64")
    again = seen(path, upstream_body(asked, ("b",)).decode())
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
    assert missing(asking(path, *texts), KNOWN) == asked


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
    (item,) = split(asked, asked.texts, body) or ()
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
            unknown = missing(asked, known)
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
    assert split(asked, ("a",), joined) is not None


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


# Token counts


def counts(texts: tuple[str, ...], tokens: int) -> list[int]:
    rows = b",".join(b'{"object":"embedding","embedding":[0.5],"index":%d}' % at for at in range(len(texts)))
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)
    body = b'{"object":"list","data":[' + rows + b'],"model":"m","usage":' + usage + b"}\n"
    items = split(asking(V1, *texts), texts, body)
    assert items is not None
    assert {item.exact for item in items} == {len(texts) == 1}
    return [item.tokens for item in items]


@pytest.mark.parametrize(
    ("lengths", "tokens", "shares"),
    [
        ((5,), 9, [9]),
        ((1, 1), 4, [2, 2]),
        ((1, 1), 5, [3, 2]),
        ((1, 1, 1), 5, [2, 2, 1]),
        ((1, 3), 8, [2, 6]),
        ((1, 2), 4, [1, 3]),
        ((2, 1), 4, [3, 1]),
        ((11, 2), 7, [6, 1]),
        ((1, 1, 1), 2, [1, 1, 0]),
        ((1, 9), 1, [0, 1]),
        ((9, 1, 9), 0, [0, 0, 0]),
    ],
)
def test_tokens_are_shared_out_by_length(lengths, tokens, shares):
    assert counts(tuple("é" * length for length in lengths), tokens) == shares


@pytest.mark.parametrize("seed", range(30))
def test_the_shares_hold_the_sum_and_are_near_their_due(seed):
    rng = random.Random(seed)
    texts = tuple("x" * rng.randrange(1, 60) for _ in range(rng.randrange(2, 20)))
    tokens = rng.choice([0, 1, rng.randrange(30), rng.randrange(10**6), rng.randrange(2**62)])
    shares = counts(texts, tokens)
    whole = sum(map(len, texts))
    assert sum(shares) == tokens
    if all(tokens * len(text) >= whole for text in texts):
        assert all(abs(share * whole - tokens * len(text)) < whole for share, text in zip(shares, texts, strict=True))
    assert all(share >= (tokens >= len(texts)) for share in shares), "none is free where there are enough"
    assert counts(texts, tokens) == shares


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
    assert split(asking(path, "ab", "c"), texts, GOOD[path]) is None


@pytest.mark.parametrize("path", ROUTES)
def test_nothing_is_stored_of_a_torn_response(path):
    asked = asking(path, "ab", "c")
    assert not any(split(asked, asked.texts, GOOD[path][:end]) for end in range(len(GOOD[path])))


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_stored_of_a_damaged_response_still_joins_to_it(path):
    """A changed byte may give another number; it never gives items that differ from the response."""
    asked = asking(path, "ab", "c")
    kept = 0
    for place, byte in itertools.product(range(len(GOOD[path])), b'7-,.]["{e\x00\xff '):
        body = GOOD[path][:place] + bytes([byte]) + GOOD[path][place + 1 :]
        items = keepable(asked, asked.texts, body)
        if items is not None:
            kept += 1
            assert join(asked, dict(zip(asked.texts, items, strict=True))).body == body
            assert json.loads(body).keys() == json.loads(GOOD[path]).keys()
    assert kept > 0


@pytest.mark.parametrize("path", ROUTES)
def test_a_model_that_reads_like_a_vector_stores_nothing(path):
    asked = asking(path, "a", model="[1]")
    assert split(asked, ("a",), join(asked, {"a": some()}).body) is None


# Entries


@pytest.mark.parametrize(
    "item",
    [
        some(),
        some(exact=False),
        some(tokens=0, total=0, load=0),
        some(tokens=2**63 - 1, total=2**63 - 1, load=2**63 - 1),
        some(b"[-0,1e-7,1e+21,0.25]"),
        some(b"[1]"),
    ],
)
def test_an_item_is_read_as_it_was_written(item):
    assert decode(encode(item)) == item


@pytest.mark.parametrize("name", WHOLE)
def test_recorded_items_are_stored_as_they_are(name):
    items = cut(*recorded(name))
    assert {text: decode(encode(item)) for text, item in items.items()} == items
    assert all(len(encode(item)) < len(item.vector) + 60 for item in items.values())


def test_the_form_of_an_entry_is_pinned():
    """Another form needs another head, so that old entries are read as nothing and not as something else."""
    assert encode(some(b"[-0.5,1e-7]")) == b"item/3 2 3 exact 7 5 [-0.5,1e-7]"
    assert encode(some(exact=False)) == b"item/3 1 3 share 7 5 [0.5]"


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"item/3",
        b"item/1 3 exact 7 5 [0.5]",
        b"item/2 3 exact 7 5 fcf27573 [0.5]",
        b"item/3 3 exact 7 5 [0.5]",
        b"item/3 0 3 exact 7 5 [0.5]",
        b"item/3 1 3 exact 7 5",
        b"item/3 1 3 exact 7 5 ",
        b"item/3 1 3 exact 7 [0.5]",
        b"item/3 1 3 7 5 [0.5]",
        b"item/3 1 3 true 7 5 [0.5]",
        b"item/3 1 -3 exact 7 5 [0.5]",
        b"item/3 1 03 exact 7 5 [0.5]",
        b"item/3 1 3.0 exact 7 5 [0.5]",
        b"item/3 1  exact 7 5 [0.5]",
        b"item/3 1 9223372036854775808 exact 7 5 [0.5]",
        b"item/3 1 3 exact 9223372036854775808 5 [0.5]",
        b"item/3 1 3 exact 7 9223372036854775808 [0.5]",
        b"item/3 1 3 exact 7 99999999999999999999 [0.5]",
        b" item/3 1 3 exact 7 5 [0.5]",
        b"item/3 1 3 exact 7 5 [0.5]\n",
        b"item/3 1 3 exact 7 5  [0.5]",
        b"item/3 1 3 exact 7 5 0.5",
        b'{"embedding":[0.5]}',
        b'{"model":"m","embeddings":[[0.5]],"prompt_eval_count":3}',
    ],
)
def test_anything_else_is_no_item(entry):
    assert decode(entry) is None


def test_a_torn_entry_is_no_item():
    entry = encode(some(b"[0.25,-0.5,1e-7]"))
    assert not any(decode(entry[:end]) for end in range(len(entry)))
