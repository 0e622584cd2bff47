from __future__ import annotations

import hashlib
import itertools
import json
import random

import pytest

from ollama_cache_proxy.policy.classify import Bypass, Candidate, by_body
from ollama_cache_proxy.policy.endpoints import Policy, find
from ollama_cache_proxy.policy.key import SCHEMA, Scope, cache_key, normalised

SCOPE = {"digest": "sha256:0123", "version": "0.24.0"}
SCHEMA_AB = '{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}}}'
SCHEMA_BA = '{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"string"}}}'


def classified(path: str, body: str) -> Candidate | Bypass:
    return by_body(find("POST", path)[0], body.encode(), policy=Policy.ALWAYS, streams=True)


def candidate(path: str, body: str) -> Candidate:
    outcome = classified(path, body)
    assert isinstance(outcome, Candidate), outcome
    return outcome


def key(path: str, body: str, fields=(), **scope: str) -> str:
    return cache_key(candidate(path, body), Scope(**(SCOPE | scope)), fields)


def framed(*parts: bytes) -> str:
    """The framing once more, by other means: each part behind its length in eight bytes, the highest first."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def expected_key(
    kind: str, normal: str, *, scope: dict[str, str], authorization: bytes = b"", origin: bytes = b""
) -> str:
    whole = {"namespace": "", "epoch": ""} | SCOPE | scope
    names = ("namespace", "digest", "version", "epoch")
    return framed(
        b"1",
        kind.encode(),
        *(whole[name].encode() for name in names),
        hashlib.sha256(authorization).digest() if authorization else b"",
        origin,
        normal.encode(),
    )


GENERATE, EMBED, EMBEDDINGS, V1 = "/api/generate", "/api/embed", "/api/embeddings", "/v1/embeddings"
CHAT, V1_CHAT, V1_COMPLETIONS = "/api/chat", "/v1/chat/completions", "/v1/completions"
TOOL_BA = (
    '[{"type":"function","function":{"name":"f","parameters":'
    '{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"number"}}}}}]'
)
TOOL_AB = TOOL_BA.replace('"b":{"type":"string"},"a":{"type":"number"}', '"a":{"type":"number"},"b":{"type":"string"}')

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
    "chat": (
        CHAT,
        '{"stream":false,"model":"tiny","keep_alive":"5m","messages":[{"role":"system","content":"be brief"},{"content":"hi \\u00e9","role":"user"}]}',
        {},
        (),
        '{"messages":[{"role":"system","content":"be brief"},{"content":"hi é","role":"user"}],"model":"tiny"}',
        "da822dd2636403aa782bad4d7f8aeccb6b29c899c16cb0b8116289e851fdb7d8",
    ),
    "chat with tools and options": (
        CHAT,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":false,"think":"low","options":{"temperature":0,"seed":1},"tools":'
        + TOOL_BA
        + "}",
        {},
        (),
        '{"messages":[{"role":"user","content":"hi"}],"model":"tiny","options":{"seed":1,"temperature":0},"think":"low","tools":'
        + TOOL_BA
        + "}",
        "307decdcb54f55368ce31aa2acd63ca2b94596a29779264214de3af812060045",
    ),
    "chat with the same tools in another order": (
        CHAT,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":false,"think":"low","options":{"temperature":0,"seed":1},"tools":'
        + TOOL_AB
        + "}",
        {},
        (),
        '{"messages":[{"role":"user","content":"hi"}],"model":"tiny","options":{"seed":1,"temperature":0},"think":"low","tools":'
        + TOOL_AB
        + "}",
        "b0514fac66c68d7a28e973ce5c9e06b5bc91f23999cd07680020601019147fda",
    ),
    "v1 chat, whose options are not read": (
        V1_CHAT,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"temperature":0,"max_tokens":4,"options":{"b":1,"a":2},"response_format":{"type":"json_object"},"stream":null}',
        {},
        (),
        '{"max_tokens":4,"messages":[{"role":"user","content":"hi"}],"model":"tiny","options":{"b":1,"a":2},"response_format":{"type":"json_object"},"temperature":0}',
        "8851440786f6a19df8495d53548e50c2455efce5092af8137bbddfb1eb8ab734",
    ),
    "v1 completions": (
        V1_COMPLETIONS,
        '{"user":"me","model":"tiny","prompt":"def foo","stop":["b","a"],"seed":7}',
        {},
        (),
        '{"model":"tiny","prompt":"def foo","seed":7,"stop":["b","a"],"user":"me"}',
        "da79659d4f3e85330e9dddc56545001f389a52f5c001132f0325771c561308db",
    ),
}
GOLDEN_STREAMS = {
    "generate, a stream": (
        GENERATE,
        '{"model": "tiny", "prompt": "Hello"}',
        {},
        (),
        '{"model":"tiny","prompt":"Hello"}',
        "d2e906c5680816316f1366b44e330d508936ca586580710d080a8e12dbdc1393",
    ),
    "chat, a stream": (
        CHAT,
        '{"stream":true,"model":"tiny","messages":[{"role":"system","content":"be brief"},{"content":"hi é","role":"user"}]}',
        {},
        (),
        '{"messages":[{"role":"system","content":"be brief"},{"content":"hi é","role":"user"}],"model":"tiny"}',
        "97e06202725282a003904dcdc6a91ec217c472064b3dc0e0cbdc09517ef72c93",
    ),
    "v1 chat, a stream": (
        V1_CHAT,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}',
        {},
        (),
        '{"messages":[{"role":"user","content":"hi"}],"model":"tiny","stream_options":{"include_usage":true}}',
        "9012705a91bc59336f9bc30448d38a0a9504f9c365249a2c1961cc18fe637738",
    ),
    "v1 completions, a stream": (
        V1_COMPLETIONS,
        '{"model":"tiny","prompt":"def foo","stream":true}',
        {},
        (),
        '{"model":"tiny","prompt":"def foo"}',
        "0b0e9ca8df635cd0140325ebfdaa9418e990b67c3d930e4ebf48626fb28e3d6c",
    ),
}


@pytest.mark.parametrize(
    ("case", "suffix"),
    [
        *(pytest.param(case, "", id=name) for name, case in GOLDEN.items()),
        *(pytest.param(case, "/stream", id=name) for name, case in GOLDEN_STREAMS.items()),
    ],
)
def test_a_key_is_what_it_has_always_been(case, suffix):
    """A change of a pinned key makes every entry there is unreachable: it needs a new SCHEMA."""
    path, body, scope, fields, normal, hexadecimal = case
    asked = candidate(path, body)
    authorization, origin = (
        b"\n".join(value for name, value in fields if name.lower() == wanted)
        for wanted in (b"authorization", b"origin")
    )
    assert normalised(asked.endpoint, asked.document) == normal.encode()
    assert key(path, body, fields, **scope) == hexadecimal
    kind = asked.endpoint.operation + suffix
    assert expected_key(kind, normal, scope=scope, authorization=authorization, origin=origin) == hexadecimal


def test_no_two_pinned_keys_are_equal():
    keys = [case[-1] for case in (*GOLDEN.values(), *GOLDEN_STREAMS.values())]
    assert len(set(keys)) == len(keys)


def test_the_schema_is_pinned_too():
    assert SCHEMA == b"1"


ASKED = {
    GENERATE: '{"model":"m","prompt":"p"}',
    CHAT: '{"messages":[{"role":"user","content":"p"}],"model":"m"}',
    V1_CHAT: '{"messages":[{"role":"user","content":"p"}],"model":"m"}',
    V1_COMPLETIONS: '{"model":"m","prompt":"p"}',
}
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
        pytest.param(CHAT, ASKED[CHAT], ASKED[CHAT][:-1] + ',"keep_alive":300}', id="chat"),
    ],
)
def test_what_changes_no_response_changes_no_key(path, body, other):
    assert key(path, body) == key(path, other)


each_that_streams = pytest.mark.parametrize("path", ASKED)


@each_that_streams
def test_stream_is_left_out_of_the_body_that_is_hashed(path):
    endpoint, document = find("POST", path)[0], json.loads(ASKED[path])
    streams = ({}, {"stream": False}, {"stream": True}, {"stream": None})
    assert {normalised(endpoint, document | more) for more in streams} == {ASKED[path].encode()}


@each_that_streams
def test_a_stream_and_a_whole_response_have_two_keys_however_they_are_asked_for(path):
    default = find("POST", path)[0].stream_default
    keys = {
        wanted: {
            key(path, ASKED[path][:-1] + f',"stream":{text}}}' if text else ASKED[path])
            for text in (json.dumps(wanted), *(("null", "") if default is wanted else ()))
        }
        for wanted in (True, False)
    }
    assert [len(same) for same in keys.values()] == [1, 1]
    assert keys[True].isdisjoint(keys[False])


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
        pytest.param(
            CHAT,
            ASKED[CHAT],
            ASKED[CHAT].replace('"role":"user","content":"p"', '"content":"p","role":"user"'),
            id="order in a message",
        ),
        pytest.param(CHAT, ASKED[CHAT], ASKED[CHAT].replace("user", "system"), id="a role"),
        pytest.param(V1_CHAT, ASKED[V1_CHAT], ASKED[V1_CHAT][:-1] + ',"temperature":1}', id="temperature, at the top"),
        pytest.param(
            V1_CHAT,
            ASKED[V1_CHAT][:-1] + ',"stream":true}',
            ASKED[V1_CHAT][:-1] + ',"stream":true,"stream_options":{"include_usage":true}}',
            id="usage at the end of a stream",
        ),
    ],
)
def test_what_may_change_a_response_changes_the_key(path, body, other):
    assert key(path, body) != key(path, other)


def test_the_routes_never_share_a_key():
    paths = (GENERATE, EMBED, EMBEDDINGS, V1, CHAT, V1_CHAT, V1_COMPLETIONS)
    body = '{"model":"m","input":"p","prompt":"p","messages":[{}],"stream":false}'
    assert len({key(path, body) for path in paths}) == len(paths)


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
    """The parts of a key, in a debugger or a dump, contain no token."""
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
    ("path", "body", "other"),
    [
        *(
            pytest.param(
                path,
                ASKED[path][:-1] + ',"stream":false,"format":"json"}',
                ASKED[path][:-1] + ',"stream":false,"format":"\\u006ason"}',
                id=f"{path}: Ollama compares a format that is a text byte for byte, and refuses this spelling of json",
            )
            for path in (GENERATE, CHAT)
        ),
        pytest.param(
            V1_CHAT,
            ASKED[V1_CHAT][:-1] + ',"response_format":{"type":"json_schema","json_schema":{"schema":"json"}}}',
            ASKED[V1_CHAT][:-1] + ',"response_format":{"type":"json_schema","json_schema":{"schema":"\\u006ason"}}}',
            id="a schema of OpenAI's form is handed on as a format",
        ),
        pytest.param(
            GENERATE,
            '{"model":"m","prompt":"p","stream":false}',
            '{"model":"m","prompt":"p","stream":false,"format":"xml"}',
            id="a format that Ollama refuses",
        ),
    ],
)
def test_what_ollama_answers_differently_never_shares_a_key(path, body, other):
    one, two = (classified(path, text) for text in (body, other))
    assert isinstance(one, Candidate)
    scope = Scope(**SCOPE)
    assert isinstance(two, Bypass) or cache_key(one, scope, ()) != cache_key(two, scope, ())
