from __future__ import annotations

import hashlib
import itertools
import json
import random

import pytest

from proxy.policy.classify import Bypass, Candidate, by_body
from proxy.policy.endpoints import find
from proxy.policy.key import SCHEMA, Scope, cache_key, normalised

SCOPE = {"digest": "sha256:0123", "version": "0.24.0"}
SCHEMA_AB = '{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}}}'
SCHEMA_BA = '{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"string"}}}'


def candidate(path: str, body: str) -> Candidate:
    outcome = by_body(find("POST", path)[0], body.encode())
    assert isinstance(outcome, Candidate), outcome
    return outcome


def key(path: str, body: str, fields=(), **scope: str) -> str:
    return cache_key(candidate(path, body), Scope(**(SCOPE | scope)), fields)


def framed(*parts: bytes) -> str:
    """The framing once more, by other means: each part behind its length in eight bytes, the highest first."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def expected_key(
    operation: str, normal: str, *, scope: dict[str, str], authorization: bytes = b"", origin: bytes = b""
) -> str:
    whole = {"namespace": "", "epoch": ""} | SCOPE | scope
    names = ("namespace", "digest", "version", "epoch")
    return framed(
        b"1",
        operation.encode(),
        *(whole[name].encode() for name in names),
        hashlib.sha256(authorization).digest() if authorization else b"",
        origin,
        normal.encode(),
    )


GENERATE, EMBED, EMBEDDINGS, V1 = "/api/generate", "/api/embed", "/api/embeddings", "/v1/embeddings"

# path, body as sent, scope beside the usual one, fields; then the normal form of the body, and the key
GOLDEN = {
    "generate": (
        GENERATE,
        '{"model": "tiny", "prompt": "Hello", "stream": false}',
        {},
        (),
        '{"model":"tiny","prompt":"Hello"}',
        "2fd14e73df86f2845d221ebeb016b0f02c0a0d008b6bffa8222671a78ca3cdc2",
    ),
    "generate with all sorts of values": (
        GENERATE,
        '{"stream":false,"prompt":"caf\\u00e9 \\ud83d\\ude42 \\"\\\\\\/","model":"tiny","raw":true,"suffix":null,"context":[3,1],"system":""}',
        {},
        (),
        '{"context":[3,1],"model":"tiny","prompt":"café 🙂 \\"\\\\/","raw":true,"suffix":null,"system":""}',
        "21b16c6d4ef8f10a4ce8a2c4161bf79f0689a90d98d85fcf0b3ff8011b0b150f",
    ),
    "generate with options in another order": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"options":{"top_k":1,"seed":42,"temperature":0.5,"stop":["b","a"]}}',
        {},
        (),
        '{"model":"tiny","options":{"seed":42,"stop":["b","a"],"temperature":0.5,"top_k":1},"prompt":"p"}',
        "3c3cdb53e2d961f85566049f76e764f6f3baf2bd9840c074b46a169a5e5d249a",
    ),
    "generate with numbers": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"options":{"a":1,"b":1.0,"c":-0.0,"d":1e2,"e":9007199254740992}}',
        {},
        (),
        '{"model":"tiny","options":{"a":1,"b":1.0,"c":-0.0,"d":100.0,"e":9007199254740992},"prompt":"p"}',
        "8113b720a5ae01fba0dfa6900f23ecb127a1436b3aa7e31358caa95b39663053",
    ),
    "generate with a schema": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"format":' + SCHEMA_AB + "}",
        {},
        (),
        '{"format":' + SCHEMA_AB + ',"model":"tiny","prompt":"p"}',
        "669408ac3b2e0b683883fcf252b8f23a288aa8d7e263fdec5a2475bcc53e1248",
    ),
    "generate with the same schema in another order": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"format":' + SCHEMA_BA + "}",
        {},
        (),
        '{"format":' + SCHEMA_BA + ',"model":"tiny","prompt":"p"}',
        "d66fe4856c4a691b3e9fe089581ce0a40c100351e4faa283123189e1f45a3749",
    ),
    "generate with an unknown field": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"Zeta":{"b":1,"a":2}}',
        {},
        (),
        '{"Zeta":{"b":1,"a":2},"model":"tiny","prompt":"p"}',
        "1df22cf14f594ba4b63e2edeca8a6bfa736462f4d931897d6547b0a9c7fb0443",
    ),
    "embed, a text": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        (),
        '{"input":"p","model":"minilm"}',
        "a2038c3b06d303ad9b7417deacfdf1143ea3a7d9136ed17f04f53d032a2c3db7",
    ),
    "embed, a list": (
        EMBED,
        '{"model":"minilm","input":["q","p"],"truncate":true,"keep_alive":-1}',
        {},
        (),
        '{"input":["q","p"],"model":"minilm","truncate":true}',
        "bcf8ed6123b31da27ad29461b214a0465f51fdb45cb92414b3f92301fe507002",
    ),
    "embeddings": (
        EMBEDDINGS,
        '{"prompt":"p","model":"minilm"}',
        {},
        (),
        '{"model":"minilm","prompt":"p"}',
        "130f021f4b66479eb6f02b7cd6c75b38189d91cbc939464c987013d3449adf28",
    ),
    "v1 embeddings": (
        V1,
        '{"user":"me","model":"minilm","input":"p","encoding_format":"base64","stream":true}',
        {},
        (),
        '{"encoding_format":"base64","input":"p","model":"minilm","stream":true}',
        "11f6f6ff515e440cf20dd332c9ccd0ac076f28d913d6931327d6778dbfa696e4",
    ),
    "every part of the scope": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {"digest": "sha256:ff", "version": "1.0", "epoch": "gpu", "namespace": "Ã©"},
        (),
        '{"input":"p","model":"minilm"}',
        "bd7c3a07179350db897839aa71a01fcea3926eb0e677c795173364a1dde85330",
    ),
    "Authorization and Origin": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        (
            (b"Host", b"h"),
            (b"AUTHORIZATION", b"Bearer secret"),
            (b"origin", b"https://page.example"),
            (b"Accept", b"*/*"),
        ),
        '{"input":"p","model":"minilm"}',
        "c4f7fce5595c86b239098f78b2cfb485ef1cfd72039b7b24cfb77432f1b959c4",
    ),
    "two lines of each": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        ((b"Authorization", b"a"), (b"Origin", b"c"), (b"Authorization", b"b"), (b"Origin", b"d")),
        '{"input":"p","model":"minilm"}',
        "f61e79cb7ffa898b2ff86f1f1b5dbc705259cc91e99882d1837d666ab13c869f",
    ),
}


@pytest.mark.parametrize("case", GOLDEN.values(), ids=list(GOLDEN))
def test_a_key_is_what_it_has_always_been(case):
    """A change of a pinned key makes every entry there is unreachable: it needs a new SCHEMA."""
    path, body, scope, fields, normal, hexadecimal = case
    asked = candidate(path, body)
    authorization, origin = (
        b"\n".join(value for name, value in fields if name.lower() == wanted)
        for wanted in (b"authorization", b"origin")
    )
    assert normalised(asked.endpoint, asked.document) == normal.encode()
    assert key(path, body, fields, **scope) == hexadecimal
    assert (
        expected_key(asked.endpoint.operation, normal, scope=scope, authorization=authorization, origin=origin)
        == hexadecimal
    )


def test_no_two_pinned_keys_are_equal():
    keys = [case[-1] for case in GOLDEN.values()]
    assert len(set(keys)) == len(keys)


def test_the_schema_is_pinned_too():
    assert SCHEMA == b"1"


BASE = '{"model":"m","prompt":"p","stream":false,"options":{"seed":1,"top_k":2},"format":{"b":1,"a":2},"think":true}'


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        pytest.param(
            GENERATE,
            BASE,
            '{"think":true,"format":{"b":1,"a":2},"options":{"seed":1,"top_k":2},"stream":false,"prompt":"p","model":"m"}',
            id="names at the top level in another order",
        ),
        pytest.param(GENERATE, BASE, BASE.replace('"seed":1,"top_k":2', '"top_k":2,"seed":1'), id="and in the options"),
        pytest.param(GENERATE, BASE, BASE.replace(",", " ,\n").replace(":", " : "), id="white space"),
        pytest.param(GENERATE, BASE, BASE.replace('"p"', '"\\u0070"'), id="escapes in the prompt"),
        pytest.param(GENERATE, BASE, BASE.replace('"prompt"', '"\\u0070rompt"'), id="escapes in a name"),
        pytest.param(GENERATE, BASE, BASE[:-1] + ',"keep_alive":"5m"}', id="keep_alive"),
        pytest.param(GENERATE, BASE[:-1] + ',"keep_alive":null}', BASE[:-1] + ',"keep_alive":-1}', id="its value"),
        pytest.param(EMBED, '{"model":"m","input":"p"}', '{"keep_alive":300,"model":"m","input":"p"}', id="embed"),
        pytest.param(
            EMBEDDINGS, '{"model":"m","prompt":"p"}', '{"keep_alive":300,"model":"m","prompt":"p"}', id="embeddings"
        ),
        pytest.param(
            V1, '{"model":"m","input":"p"}', '{"user":"me","model":"m","input":"p"}', id="the user of OpenAI's route"
        ),
    ],
)
def test_what_changes_no_answer_changes_no_key(path, body, other):
    assert key(path, body) == key(path, other)


def test_stream_is_left_out_of_the_key():
    endpoint = find("POST", GENERATE)[0]
    document = {"model": "m", "prompt": "p"}
    assert {normalised(endpoint, document | more) for more in ({}, {"stream": False}, {"stream": None})} == {
        b'{"model":"m","prompt":"p"}'
    }


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        pytest.param(GENERATE, BASE, BASE.replace('"b":1,"a":2', '"a":2,"b":1'), id="order in the format"),
        pytest.param(GENERATE, BASE, BASE.replace('"m"', '"m:latest"'), id="model with its tag"),
        pytest.param(GENERATE, BASE, BASE.replace('"m"', '"M"'), id="model in another case"),
        pytest.param(GENERATE, BASE, BASE.replace('"p"', '"P"'), id="prompt"),
        pytest.param(GENERATE, BASE, BASE.replace('"p"', '"p "'), id="a space in the prompt"),
        pytest.param(
            GENERATE, BASE.replace('"p"', '"\u00e9"'), BASE.replace('"p"', '"e\u0301"'), id="normal forms of Unicode"
        ),
        pytest.param(GENERATE, BASE, BASE.replace('"seed":1', '"seed":2'), id="an option"),
        pytest.param(GENERATE, BASE, BASE.replace('"seed":1', '"seed":1.0'), id="a whole number as a fraction"),
        pytest.param(GENERATE, BASE, BASE.replace('"seed":1', '"seed":"1"'), id="a number as a text"),
        pytest.param(GENERATE, BASE, BASE.replace('"seed":1', '"Seed":1'), id="the case of an option"),
        pytest.param(GENERATE, BASE, BASE.replace(',"top_k":2', ""), id="one option fewer"),
        pytest.param(
            GENERATE,
            BASE.replace('"top_k":2', '"o":{"a":1,"b":2}'),
            BASE.replace('"top_k":2', '"o":{"b":2,"a":1}'),
            id="order below the options",
        ),
        pytest.param(GENERATE, BASE, BASE.replace("true", "null"), id="null"),
        pytest.param(GENERATE, BASE.replace("true", "null"), BASE.replace(',"think":true', ""), id="null and absent"),
        pytest.param(GENERATE, BASE, BASE[:-1] + ',"custom":null}', id="an unknown field"),
        pytest.param(GENERATE, BASE[:-1] + ',"custom":1}', BASE[:-1] + ',"custom":2}', id="its value"),
        pytest.param(
            GENERATE, BASE[:-1] + ',"user":"a"}', BASE[:-1] + ',"user":"b"}', id="user means nothing elsewhere"
        ),
        pytest.param(GENERATE, BASE[:-1] + ',"a":1,"b":2}', BASE[:-1] + ',"a":2,"b":1}', id="values changed over"),
        pytest.param(EMBED, '{"model":"m","input":"p"}', '{"model":"m","input":["p"]}', id="a text and a list of it"),
        pytest.param(
            EMBED, '{"model":"m","input":["p","q"]}', '{"model":"m","input":["q","p"]}', id="order of the list"
        ),
        pytest.param(EMBED, '{"model":"m","input":["p","q"]}', '{"model":"m","input":["p,q"]}', id="joined texts"),
        pytest.param(
            EMBED, '{"model":"m","input":"p"}', '{"model":"m","input":"p","stream":false}', id="stream, unread"
        ),
        pytest.param(
            V1, '{"model":"m","input":"p"}', '{"model":"m","input":"p","keep_alive":1}', id="keep_alive, unread"
        ),
        pytest.param(
            V1, '{"model":"m","input":"p"}', '{"model":"m","input":"p","encoding_format":"base64"}', id="encoding"
        ),
    ],
)
def test_what_may_change_an_answer_changes_the_key(path, body, other):
    assert key(path, body) != key(path, other)


def test_the_routes_never_share_a_key():
    body = '{"model":"m","input":"p","prompt":"p","stream":false}'
    assert len({key(path, body) for path in (GENERATE, EMBED, EMBEDDINGS, V1)}) == 4


@pytest.mark.parametrize("part", ["digest", "version", "epoch", "namespace"])
def test_each_part_of_the_scope_splits_the_cache(part):
    keys = {key(EMBED, '{"model":"m","input":"p"}', **{part: value}) for value in ("", "a", "A", "a ", "aa")}
    assert len(keys) == 5


@pytest.mark.parametrize("name", [b"Authorization", b"Origin"], ids=bytes.decode)
def test_the_field_splits_the_cache(name):
    values = [(), (b"a",), (b"A",), (b"b",), (b"a", b"b"), (b"b", b"a"), (b"a, b",)]
    lines = [tuple((name, value) for value in several) for several in values]
    assert len({key(EMBED, '{"model":"m","input":"p"}', fields) for fields in lines}) == len(values)


@pytest.mark.parametrize("name", [b"authorization", b"AUTHORIZATION", b"Authorization"], ids=bytes.decode)
def test_the_case_of_a_fields_name_does_not_count(name):
    body = '{"model":"m","input":"p"}'
    assert key(EMBED, body, ((name, b"x"),)) == key(EMBED, body, ((b"authorization", b"x"),))


def test_other_fields_are_not_in_the_key():
    fields = ((b"Accept", b"a"), (b"User-Agent", b"b"), (b"X-Cache-Category", b"c"), (b"Content-Type", b"d"))
    body = '{"model":"m","input":"p"}'
    assert key(EMBED, body, fields) == key(EMBED, body)


def test_authorization_and_origin_are_not_taken_for_each_other():
    body = '{"model":"m","input":"p"}'
    assert key(EMBED, body, ((b"Authorization", b"x"),)) != key(EMBED, body, ((b"Origin", b"x"),))


def test_a_secret_is_not_in_what_is_hashed_as_it_came():
    """Who reads the parts of a key, in a debugger or a dump, does not read a token."""
    seen = expected_key("embed", '{"input":"p","model":"m"}', scope={}, authorization=b"Bearer canary")
    assert seen == key(EMBED, '{"model":"m","input":"p"}', ((b"Authorization", b"Bearer canary"),))


def test_moving_bytes_from_one_part_to_the_next_never_gives_the_same_key():
    asked = candidate(EMBED, '{"model":"m","input":"p"}')
    text = "ab\0\0\0\0\0\0\0\1c"
    cuts = itertools.combinations_with_replacement(range(len(text) + 1), 3)
    keys = [
        cache_key(
            asked,
            Scope(namespace=text[:one], digest=text[one:two], version=text[two:three], epoch=text[three:]),
            (),
        )
        for one, two, three in cuts
    ]
    assert len(keys) == 364
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("seed", range(10))
def test_different_parts_give_different_keys(seed):
    rng = random.Random(seed)
    pieces = ["", "a", "\0", "\x01", "1", "embed", "sha256:", "\0\0\0\0\0\0\0\x01", '{"input":"p"}', "é"]

    def some() -> str:
        return "".join(rng.choices(pieces, k=rng.randrange(4)))

    seen: dict[str, tuple] = {}
    for _ in range(300):
        scope = {name: some() for name in ("namespace", "digest", "version", "epoch")}
        authorization, origin = some().encode(), some().encode()
        document = {"model": "m", "input": some() or "p", "x": some()}
        fields = ((b"Authorization", authorization), (b"Origin", origin))
        parts = (tuple(scope.values()), authorization, origin, json.dumps(document))
        text = key(EMBED, json.dumps(document), fields, **scope)
        assert seen.setdefault(text, parts) == parts
    assert len(seen) > 200


@pytest.mark.parametrize(
    ("body", "other"),
    [
        pytest.param(
            '{"model":"m","prompt":"p","stream":false,"format":"json"}',
            '{"model":"m","prompt":"p","stream":false,"format":"\\u006ason"}',
            id="Ollama compares a format that is a text byte for byte, and refuses this spelling of json",
        ),
        pytest.param(
            '{"model":"m","prompt":"p","stream":false}',
            '{"model":"m","prompt":"p","stream":false,"format":"xml"}',
            id="a format that Ollama refuses",
        ),
    ],
)
def test_what_ollama_answers_differently_never_shares_a_key(body, other):
    one, two = (by_body(find("POST", GENERATE)[0], text.encode()) for text in (body, other))
    assert isinstance(one, Candidate)
    scope = Scope(**SCOPE)
    assert isinstance(two, Bypass) or cache_key(one, scope, ()) != cache_key(two, scope, ())
