from __future__ import annotations

import hashlib
import itertools
import json
import random
from typing import Any

import orjson
import pytest

from ollama_cache_proxy.policy import key as module
from ollama_cache_proxy.policy.classify import Bypass, Candidate, by_body
from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS, DEFAULT_RULES, credential_rules
from ollama_cache_proxy.policy.endpoints import REUSABLE, Policy, find
from ollama_cache_proxy.policy.key import SCHEMA, Scope, cache_key, cache_key_in_steps, normalised, scoped
from ollama_cache_proxy.policy.steps import finish
from tests.support.plain_requests import PLAIN
from tests.support.uploads import AUDIO, audio, body, content_type, part, upload, value

SCOPE = {"digest": "sha256:0123", "version": "0.24.0"}
SCHEMA_AB = '{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}}}'
SCHEMA_BA = '{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"string"}}}'


def classified(path: str, body: str) -> Candidate | Bypass:
    return by_body(find("POST", path)[0], body.encode(), policy_of=lambda _: Policy.ALWAYS, streams=True)


def candidate(path: str, body: str) -> Candidate:
    outcome = classified(path, body)
    assert isinstance(outcome, Candidate), outcome
    return outcome


def key(path: str, body: str, fields=(), **scope: Any) -> str:
    return cache_key(candidate(path, body), Scope(**(SCOPE | scope)), fields)


def framed(*parts: bytes) -> str:
    """The framing once more, by other means: each part behind its length in eight bytes, the highest first."""
    return hashlib.sha256(frames(*parts)).hexdigest()


def frames(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def expected_key(kind: str, normal: str, *, scope: dict[str, str], fields=()) -> str:
    whole = {"namespace": "", "epoch": ""} | SCOPE | scope
    names = ("namespace", "digest", "version", "epoch")
    lines = sorted(
        ((name.lower(), value) for name, value in fields if name.lower() in SECRET), key=lambda line: line[0]
    )
    secrets = frames(*(part for line in lines for part in line))
    return framed(
        b"2",
        kind.encode(),
        *(whole[name].encode() for name in names),
        DEFAULT_RULES.digest.encode(),
        hashlib.sha256(secrets).digest() if secrets else b"",
        b"\n".join(value for name, value in fields if name.lower() == b"origin"),
        normal.encode(),
    )


SECRET = {b"authorization", b"x-api-key", b"api-key", b"cf-access-client-id", b"cf-access-client-secret"}


GENERATE, EMBED, EMBEDDINGS, V1 = "/api/generate", "/api/embed", "/api/embeddings", "/v1/embeddings"
CHAT, V1_CHAT, V1_COMPLETIONS = "/api/chat", "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
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
        "ebc49d49f8c114ef4f7cf762e0430a3005f83b904e67faac7f55fbe37f8fdc6c",
    ),
    "generate with all sorts of values": (
        GENERATE,
        '{"stream":false,"prompt":"caf\\u00e9 \\ud83d\\ude42 \\"\\\\\\/","model":"tiny","raw":true,"suffix":null,"context":[3,1],"system":""}',
        {},
        (),
        '{"context":[3,1],"model":"tiny","prompt":"café 🙂 \\"\\\\/","raw":true,"suffix":null,"system":""}',
        "d9746101cdffbe913f72deefd325f517a56bdecf74623b17d26281c51d6ada5f",
    ),
    "generate with options in another order": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"options":{"top_k":1,"seed":42,"temperature":0.5,"stop":["b","a"]}}',
        {},
        (),
        '{"model":"tiny","options":{"seed":42,"stop":["b","a"],"temperature":0.5,"top_k":1},"prompt":"p"}',
        "4219d62b7e0f8bc380f9bbee6679ddd9cea54ae772bcac04058e4012aaea5fe6",
    ),
    "generate with numbers": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"options":{"a":1,"b":1.0,"c":-0.0,"d":1e2,"e":9007199254740992}}',
        {},
        (),
        '{"model":"tiny","options":{"a":1,"b":1.0,"c":-0.0,"d":100.0,"e":9007199254740992},"prompt":"p"}',
        "b38261d0305a9fea36f1b3a26416c933d9ed4c3b07f6fc2448a7c11b575c7ce2",
    ),
    "generate with a schema": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"format":' + SCHEMA_AB + "}",
        {},
        (),
        '{"format":' + SCHEMA_AB + ',"model":"tiny","prompt":"p"}',
        "931dd58e27651d2dbc89af2aa1df7c1eee72ffecca39d2976a6c31eb773a6219",
    ),
    "generate with the same schema in another order": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"format":' + SCHEMA_BA + "}",
        {},
        (),
        '{"format":' + SCHEMA_BA + ',"model":"tiny","prompt":"p"}',
        "bce0a3e3df59be5f127ee62c3d606cebc025f74b31d0585fd493b2d9f1eda5c4",
    ),
    "generate with an unknown field": (
        GENERATE,
        '{"model":"tiny","prompt":"p","stream":false,"Zeta":{"b":1,"a":2}}',
        {},
        (),
        '{"Zeta":{"b":1,"a":2},"model":"tiny","prompt":"p"}',
        "387f2c50ad9068f2406711b0016d73e572a87e4a5417b5bd43eb287a6819f28c",
    ),
    "embed, a text": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        (),
        '{"input":"p","model":"minilm"}',
        "4c9e249a89ddc4d73b81bd8febf196d0b620436bfab0388fb1f1b761bb278e48",
    ),
    "embed, a list": (
        EMBED,
        '{"model":"minilm","input":["q","p"],"truncate":true,"keep_alive":-1}',
        {},
        (),
        '{"input":["q","p"],"model":"minilm","truncate":true}',
        "a0d4d2d5320fce2ff13d7a924d62353844c502a650dff7cc9b2f977c7da896ad",
    ),
    "embeddings": (
        EMBEDDINGS,
        '{"prompt":"p","model":"minilm"}',
        {},
        (),
        '{"model":"minilm","prompt":"p"}',
        "f7d1d022dc0163d126bfd5a3a088c89e3ce5cad86c4c61740636e8370add317b",
    ),
    "v1 embeddings": (
        V1,
        '{"user":"me","model":"minilm","input":"p","encoding_format":"base64","stream":true}',
        {},
        (),
        '{"encoding_format":"base64","input":"p","model":"minilm","stream":true}',
        "5379852ada935f1ee095be5d383c93611a7794c7d5625289ddc216777aaab023",
    ),
    "every part of the scope": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {"digest": "sha256:ff", "version": "1.0", "epoch": "gpu", "namespace": "Ã©"},
        (),
        '{"input":"p","model":"minilm"}',
        "ab9f667a0aca21f3cb05844ab87040a6dbede614e0ed4c9431efa0ceb9e7717e",
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
        "e5f81c6f627029c248fcef14a613b90bca3e2d1c2a1b26419722a50a6c406e26",
    ),
    "two lines of each": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        ((b"Authorization", b"a"), (b"Origin", b"c"), (b"Authorization", b"b"), (b"Origin", b"d")),
        '{"input":"p","model":"minilm"}',
        "3d92f4f296dfb5deb86df34d641064ae36a7b5775feabb9b51619750884c4883",
    ),
    "keys for guards": (
        EMBED,
        '{"model":"minilm","input":"p"}',
        {},
        (
            (b"X-Api-Key", b"k2"),
            (b"CF-Access-Client-Secret", b"s"),
            (b"Authorization", b"Bearer t"),
            (b"X-API-Key", b"k1"),
            (b"CF-Access-Client-Id", b"i"),
            (b"api-key", b""),
        ),
        '{"input":"p","model":"minilm"}',
        "8f5e78f15ce9500fcf5fe6f6acf6e6c47ca664078310b1ab3a33310b72af383e",
    ),
    "chat": (
        CHAT,
        '{"stream":false,"model":"tiny","keep_alive":"5m","messages":[{"role":"system","content":"be brief"},{"content":"hi \\u00e9","role":"user"}]}',
        {},
        (),
        '{"messages":[{"role":"system","content":"be brief"},{"content":"hi é","role":"user"}],"model":"tiny"}',
        "b7dc4d1f39b8552c776c53573525a5b6ca779cf78bd0ece6f3e8d9130d2b8ec5",
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
        "53af8ef59a9c67bd306796db2ab0ada6df29075d6850d5a089f36eb86aab4320",
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
        "1f020adc97301398149ab3f123b3cd6c30f8cb51a906a4bafde9d3b0194d58a3",
    ),
    "v1 chat, whose options are not read": (
        V1_CHAT,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"temperature":0,"max_tokens":4,"options":{"b":1,"a":2},"response_format":{"type":"json_object"},"stream":null}',
        {},
        (),
        '{"max_tokens":4,"messages":[{"role":"user","content":"hi"}],"model":"tiny","options":{"b":1,"a":2},"response_format":{"type":"json_object"},"temperature":0}',
        "44ab049906b309bd1cabd663388cfde7ff15482e7482df25d8ab75aa74635a63",
    ),
    "v1 completions": (
        V1_COMPLETIONS,
        '{"user":"me","model":"tiny","prompt":"def foo","stop":["b","a"],"seed":7}',
        {},
        (),
        '{"model":"tiny","prompt":"def foo","seed":7,"stop":["b","a"],"user":"me"}',
        "c5833bebb82620ebfdb0e02d490d5dd0a82710446a4600e751449456d413f5fc",
    ),
    "responses, a text": (
        RESPONSES,
        '{"model":"tiny","input":"hi","stream":false,"store":false,"temperature":0,"metadata":{"b":1,"a":2}}',
        {},
        (),
        '{"input":"hi","metadata":{"b":1,"a":2},"model":"tiny","store":false,"temperature":0}',
        "e333e0fbf837864167e69f3b5a1759b0b8d9b3bd7c296be50d050244d1707b5d",
    ),
    "responses, items": (
        RESPONSES,
        '{"model":"tiny","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}],"instructions":"be brief"}',
        {},
        (),
        '{"input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}],"instructions":"be brief","model":"tiny"}',
        "6a9ec8d7d35458d5fcd92afa55173ef7eb052db268d9c0d5a9c580e9a52b93f5",
    ),
    "messages": (
        MESSAGES,
        '{"model":"tiny","stream":false,"messages":[{"role":"user","content":"hi"}],"max_tokens":4,"system":[{"type":"text","text":"be brief"}]}',
        {},
        (),
        '{"max_tokens":4,"messages":[{"role":"user","content":"hi"}],"model":"tiny","system":[{"type":"text","text":"be brief"}]}',
        "f8f30b52ad35aa5a269f3501f81e7dc319d7e841bf302dccae16d007968fcbf5",
    ),
    "count of tokens": (
        COUNT,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}]}',
        {},
        (),
        '{"messages":[{"role":"user","content":"hi"}],"model":"tiny"}',
        "b77c47e3504c842f0f660759ccee12735fef7266b0467af22d57a483fe58d138",
    ),
}
GOLDEN_STREAMS = {
    "generate, a stream": (
        GENERATE,
        '{"model": "tiny", "prompt": "Hello"}',
        {},
        (),
        '{"model":"tiny","prompt":"Hello"}',
        "47e693a22473fc650a484fbb4a971599f4172b9cb0be9a02068505f594d97ef1",
    ),
    "chat, a stream": (
        CHAT,
        '{"stream":true,"model":"tiny","messages":[{"role":"system","content":"be brief"},{"content":"hi é","role":"user"}]}',
        {},
        (),
        '{"messages":[{"role":"system","content":"be brief"},{"content":"hi é","role":"user"}],"model":"tiny"}',
        "e7936f6fdc66a0f151975a7f1306acf3b4a62a88a47ef75716a4a1619900717c",
    ),
    "v1 chat, a stream": (
        V1_CHAT,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}',
        {},
        (),
        '{"messages":[{"role":"user","content":"hi"}],"model":"tiny","stream_options":{"include_usage":true}}',
        "b9721143b5a96484fc7f2bc28c213f1318121ebd00535177877a393fc120fd67",
    ),
    "v1 completions, a stream": (
        V1_COMPLETIONS,
        '{"model":"tiny","prompt":"def foo","stream":true}',
        {},
        (),
        '{"model":"tiny","prompt":"def foo"}',
        "353eed5b586ef3c80e4ea1e20fd854c986ced1228d94a0b39fe3100812f88a5c",
    ),
    "responses, a stream": (
        RESPONSES,
        '{"model":"tiny","input":"hi","stream":true}',
        {},
        (),
        '{"input":"hi","model":"tiny"}',
        "5b0e424cc4f64d5ed1cc5e70cfcee84a6788aed1a3c3bc5e061ca9c0fb76f07b",
    ),
    "messages, a stream": (
        MESSAGES,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"max_tokens":4,"stream":true}',
        {},
        (),
        '{"max_tokens":4,"messages":[{"role":"user","content":"hi"}],"model":"tiny"}',
        "562336483d04191056f782c5fcc82365e51c4892bd8fffdd694ad04efd572248",
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
    assert normalised(asked.endpoint, asked.document, (SCOPE | scope)["version"]) == normal.encode()
    assert key(path, body, fields, **scope) == hexadecimal
    kind = asked.endpoint.operation + suffix
    assert expected_key(kind, normal, scope=scope, fields=fields) == hexadecimal


def test_no_two_pinned_keys_are_equal():
    keys = [case[-1] for case in (*GOLDEN.values(), *GOLDEN_STREAMS.values())]
    assert len(set(keys)) == len(keys)


def test_the_schema_is_pinned_too():
    assert SCHEMA == b"2"


ASKED = {
    GENERATE: '{"model":"m","prompt":"p"}',
    CHAT: '{"messages":[{"role":"user","content":"p"}],"model":"m"}',
    V1_CHAT: '{"messages":[{"role":"user","content":"p"}],"model":"m"}',
    V1_COMPLETIONS: '{"model":"m","prompt":"p"}',
    RESPONSES: '{"input":"p","model":"m"}',
    MESSAGES: '{"max_tokens":4,"messages":[{"role":"user","content":"p"}],"model":"m"}',
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
    assert {normalised(endpoint, document | more, SCOPE["version"]) for more in streams} == {ASKED[path].encode()}


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
    paths = (GENERATE, EMBED, EMBEDDINGS, V1, CHAT, V1_CHAT, V1_COMPLETIONS, RESPONSES, MESSAGES, COUNT)
    body = '{"model":"m","input":"p","prompt":"p","messages":[{}],"stream":false}'
    bodies = {path: body.replace('"prompt":"p",', "") if path == RESPONSES else body for path in paths}
    assert len({key(path, body) for path, body in bodies.items()}) == len(paths)


@pytest.mark.parametrize("part", ["digest", "version", "epoch", "namespace"])
def test_each_part_of_the_scope_splits_the_cache(part):
    keys = {key(EMBED, '{"model":"m","input":"p"}', **{part: value}) for value in ("", "a", "A", "a ", "aa")}
    assert len(keys) == 5


@pytest.mark.parametrize("name", [*CREDENTIAL_FIELDS, b"Origin"], ids=bytes.decode)
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


@pytest.mark.parametrize("row", REUSABLE, ids=lambda row: row.operation)
@pytest.mark.parametrize("name", CREDENTIAL_FIELDS, ids=bytes.decode)
def test_credentials_are_in_the_key_of_every_endpoint(row, name):
    if row.multipart:
        read = by_body(row, upload(), policy_of=lambda _: Policy.ALWAYS, streams=True, fields=(content_type(),))
    else:
        read = by_body(row, json.dumps(PLAIN[row.operation]).encode(), policy_of=lambda _: Policy.ALWAYS, streams=True)
    assert (
        len(
            {
                cache_key(read, Scope(**SCOPE), fields)
                for fields in ((), ((name, b""),), ((name, b"a"),), ((name, b"b"),))
            }
        )
        == 4
    )


def test_credentials_of_one_value_are_told_apart_by_their_names():
    body = '{"model":"m","input":"p"}'
    assert len({key(EMBED, body, ((name, b"k"),)) for name in CREDENTIAL_FIELDS}) == len(CREDENTIAL_FIELDS)


@pytest.mark.parametrize(
    "rules", [credential_rules(["X-Team-Key"]), credential_rules((), ["ollama"])], ids=["names", "none"]
)
def test_under_another_list_every_key_is_another(rules):
    """An entry stored when a field did not count, or a value counted as none, answers nothing after that."""
    for fields in ((), ((b"Authorization", b"Bearer ollama"),), ((b"X-Team-Key", b"k"),)):
        body = '{"model":"m","input":"p"}'
        assert key(EMBED, body, fields) != key(EMBED, body, fields, credentials=rules)


def test_a_placeholder_shares_with_no_credentials():
    body, rules = '{"model":"m","input":"p"}', credential_rules((), ["ollama"])
    keys = [
        key(EMBED, body, ((b"Authorization", value),) if value else (), credentials=rules)
        for value in (b"", b"Bearer ollama", b"bearer ollama", b"Bearer x")
    ]
    assert keys[0] == keys[1] == keys[2] != keys[3]


OLD = "a2038c3b06d303ad9b7417deacfdf1143ea3a7d9136ed17f04f53d032a2c3db7"
"""The key of release 0.2.0 (schema 1) for the request below, with and without an X-API-Key."""


SILENT = ['"options":null', '"options":{}', '"options":{"temperature":null}', '"options":{"tfs_z":null,"num_ctx":null}']
TELLING = ['"options":{"num_ctx":1}', '"options":{"x":null,"num_ctx":1}', '"options":[]', '"options":0']


@pytest.mark.parametrize("path", [GENERATE, CHAT, EMBED, EMBEDDINGS])
@pytest.mark.parametrize("version", ["0.24.0", "0.33.0", "0.34.3"])
def test_null_and_empty_options_are_in_no_key_of_a_version_that_was_looked_up(path, version):
    body = '{"model":"m","prompt":"p","input":"p","messages":[{}],"stream":false'
    assert {key(path, f"{body},{more}}}", version=version) for more in SILENT} == {
        key(path, body + "}", version=version)
    }
    assert len({key(path, f"{body},{more}}}", version=version) for more in TELLING}) == 3


@pytest.mark.parametrize("path", [GENERATE, CHAT, EMBED, EMBEDDINGS])
@pytest.mark.parametrize("version", ["0.26.0", "0.35.0", "0.0.0", ""])
def test_of_any_other_version_nothing_is_left_out(path, version):
    body = '{"model":"m","prompt":"p","input":"p","messages":[{}],"stream":false'
    keys = {key(path, f"{body}{more}}}", version=version) for more in ("", *("," + more for more in SILENT))}
    assert len(keys) == 1 + len(SILENT)


SAMPLING = ['"options":{"temperature":0}', '"options":{"seed":1,"stop":["a"],"top_p":0.5}']


@pytest.mark.parametrize(("path", "inert"), [(EMBED, True), (EMBEDDINGS, True), (GENERATE, False), (CHAT, False)])
def test_sampling_options_are_in_the_keys_of_completions_and_not_of_vectors(path, inert):
    body = '{"model":"m","prompt":"p","input":"p","messages":[{}],"stream":false'
    keys = {key(path, f"{body}{more}}}") for more in ("", *("," + more for more in SAMPLING))}
    assert len(keys) == (1 if inert else 3)


def test_an_entry_of_the_last_release_answers_nothing():
    body, fields = '{"model":"minilm","input":"p"}', ((b"X-API-Key", b"k"),)
    old = framed(
        b"1", b"embed", b"", SCOPE["digest"].encode(), b"0.24.0", b"", b"", b"", b'{"input":"p","model":"minilm"}'
    )
    assert old == OLD
    assert OLD not in (key(EMBED, body), key(EMBED, body, fields))


def test_a_secret_is_not_in_what_is_hashed_as_it_came():
    """The parts of a key, in a debugger or a dump, contain no token."""
    fields = ((b"Authorization", b"Bearer canary"), (b"X-API-Key", b"canary"))
    seen = expected_key("embed", '{"input":"p","model":"m"}', scope={}, fields=fields)
    assert seen == key(EMBED, '{"model":"m","input":"p"}', fields)
    begin = scoped("embed", Scope(**SCOPE), fields)
    assert b"canary" not in begin


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


def test_the_place_of_an_ill_formed_text_is_in_the_key():
    """A text that is U+FFFD and one that Go reads as it: another server may not, so their order counts."""
    lists = [
        r'["\ud800","\ufffd"]',
        r'["\ufffd","\ud800"]',
        r'["\ufffd","\ufffd"]',
        r'["a","\ud800"]',
        r'["\ud800","a"]',
    ]
    assert len({key("/api/embed", f'{{"model":"m","input":{texts}}}') for texts in lists}) == len(lists)


# uploads

TRANSCRIPTIONS = find("POST", "/v1/audio/transcriptions")[0]


def upload_key(sent: bytes, boundary: str | None = None) -> str:
    line = content_type() if boundary is None else content_type(boundary)
    read = by_body(TRANSCRIPTIONS, sent, policy_of=lambda _: Policy.ALWAYS, streams=True, fields=(line,))
    assert isinstance(read, Candidate), read
    return cache_key(read, Scope(**SCOPE), (line,))


def test_the_key_of_an_upload_is_made_of_its_parts_and_what_it_has_always_been():
    file = {"filename": "a.wav", "type": "audio/wav", "size": len(AUDIO), "sha256": hashlib.sha256(AUDIO).hexdigest()}
    normal = json.dumps({"file": file, "language": "de", "model": "m"}, separators=(",", ":"))
    expected = "2bd89ec59ae3b4061441025750fe065455bbcaf291a7ccb1000f4ee3c8a6ac18"
    assert upload_key(upload(language="de")) == expected
    assert expected_key("v1-transcriptions", normal, scope={}) == expected


def test_neither_boundary_nor_the_order_of_parts_is_in_the_key_of_an_upload():
    expected = upload_key(upload(language="de"))
    assert upload_key(upload(boundary="another", language="de"), "another") == expected
    assert upload_key(body(value("language", "de"), value("model", "m"), audio())) == expected
    assert upload_key(upload(language="de")[:-2]) == expected


def test_whatever_is_in_a_part_is_in_the_key_of_an_upload():
    bodies = [
        upload(),
        *(upload(**{name: text}) for name in ("language", "prompt", "response_format") for text in ("", "a", "text")),
        upload("other"),
        body(audio(AUDIO + b"x"), value("model", "m")),
        body(audio(filename="b.wav"), value("model", "m")),
        body(part('name="file"; filename="a.wav"', AUDIO), value("model", "m")),
        body(part('name="file"; filename="a.wav"', AUDIO, "Content-Type: audio/mpeg"), value("model", "m")),
        body(audio(), value("model", "m"), part('name="language"', b"a", "Content-Type: text/plain")),
        body(audio(), value("model", "m"), part('name="language"; filename="a"', b"a")),
    ]
    assert len({upload_key(sent) for sent in bodies}) == len(bodies)


# Large bodies, in steps.


@pytest.mark.parametrize("part", [1, 3, 1000])
@pytest.mark.parametrize("row", [row for row in REUSABLE if not row.multipart], ids=lambda row: row.operation)
def test_a_key_that_is_made_in_steps_is_the_same(row, part, monkeypatch):
    monkeypatch.setattr(module, "_PART", part)
    texts = ["", "a", "é😀", '"\\\n\u0001', "x" * 50]
    for more in (
        {},
        {"x": texts[3] * 5, "y": ["a", 1], "z": [], "options": {"seed": 1, "a": None}},
        {row.prompt: texts},
    ):
        found = by_body(
            row, json.dumps({**PLAIN[row.operation], **more}).encode(), policy_of=lambda _: Policy.ALWAYS, streams=True
        )
        if isinstance(found, Candidate):
            assert finish(cache_key_in_steps(found, Scope(**SCOPE), ())) == cache_key(found, Scope(**SCOPE), ())


def test_odd_texts_are_in_a_key_that_is_made_in_steps():
    found = candidate("/api/embed", '{"model":"m","input":["a","","b",""]}')
    assert finish(cache_key_in_steps(found, Scope(**SCOPE), ())) == cache_key(found, Scope(**SCOPE), ())


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        pytest.param("x" * 1000, 10, id="a text"),
        pytest.param("x" * 1001, 11, id="a text and a character"),
        pytest.param(["x" * 10] * 100, 10, id="short texts together"),
        pytest.param(["x" * 250] * 4, 12, id="long texts one by one"),
        pytest.param(["x" * 60] * 8, 4, id="as many as reach the bound"),
        pytest.param({"x": ["y" * 1000]}, 0, id="what is not at the top at once"),
        pytest.param([], 0, id="no texts"),
    ],
)
def test_long_texts_are_written_in_steps(value: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 100)
    assert sum(1 for _ in module.written_in_steps({"a": value})) == steps + 1, "and one behind the member"
    assert b"".join(finish(module.written_in_steps({"a": value, "b": 1}))) == orjson.dumps({"a": value, "b": 1})
