"""What comes out of a pack is held to what this proxy could have stored itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.policy import scope_marks
from ollama_cache_proxy.policy.credentials import credential_rules
from ollama_cache_proxy.policy.key import Scope
from ollama_cache_proxy.policy.lifetimes import FOREVER
from ollama_cache_proxy.policy.listing.items import Item, encode
from ollama_cache_proxy.policy.messages import StoredResponse, packed
from ollama_cache_proxy.policy.pack_admission import Refusal, admitted
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.policy.steps import finish
from ollama_cache_proxy.service.rules_from_settings import rules_from
from ollama_cache_proxy.service.settings import load

NOW = 1_000_000.0
MODEL = "registry.ollama.ai/library/all-minilm:latest"
SCOPE = Scope(digest="4f" * 32, version="0.33.3")
OWN = scope_marks.read(scope_marks.marked(SCOPE, ()))
JSON = (b"Content-Type", b"application/json; charset=utf-8")
ITEM = Item(vector=b"[0.5,-1e-05]", numbers=2, tokens=3, exact=True, total_duration=9, load_duration=1)
COMPLETION = b'{"model":"tiny","response":"x","done":true,"done_reason":"stop"}'
STREAM = b'{"response":"x","done":false}\n{"response":"","done":true,"done_reason":"stop"}\n'
FRAME = (
    b'{"base64":false,"row":null,"top":{"embeddings":"rows","model":["m"],"prompt_eval_count":"count"},'
    b'"type":"application/json"}'
)
VECTOR = StoredResponse(
    status=200,
    reason="OK",
    fields=(JSON, (b"Date", b"Sun, 29 Nov 2026 12:00:00 GMT")),
    body=encode(ITEM),
    stored_at=NOW - 100,
    lifetime=3600,
    took=0.25,
    operation="embed",
    model=MODEL,
    category="docs",
    namespace="team",
    prompt_tokens=3,
    output_tokens=None,
    fingerprints={"prompt": "00ff"},
    scope=scope_marks.marked(SCOPE, ()),
)
WHOLE = replace(VECTOR, operation="generate", body=COMPLETION)


def rules(**settings: Any) -> Rules:
    return rules_from(load(None, settings), loopback=True, instance="x")


def of(entry: StoredResponse, **settings: Any) -> StoredResponse | Refusal:
    assert OWN is not None
    return finish(admitted(entry, MODEL, OWN, rules(**settings), NOW))


def test_an_entry_stays_what_it_is_but_for_its_mark_and_its_fingerprints():
    """Fingerprints are hashes with a key of the store that it came from."""
    assert of(VECTOR) == replace(VECTOR, fingerprints={}, imported=True)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(WHOLE, id="completion"),
        pytest.param(replace(VECTOR, operation="v1-embeddings"), id="item that came by the other endpoint"),
        pytest.param(replace(VECTOR, body=encode(replace(ITEM, clipped=True))), id="clipped item"),
        pytest.param(replace(VECTOR, body=encode(replace(ITEM, vector=b'"AACAPwAAgD8="'))), id="base64"),
        pytest.param(replace(VECTOR, body=encode(replace(ITEM, frame=FRAME))), id="item with a frame"),
        pytest.param(replace(VECTOR, body=b'{"embeddings":[[1,2],[3,4]]}'), id="list as a whole"),
        pytest.param(replace(VECTOR, operation="embeddings", body=b'{"embedding":[1,2]}'), id="single vector"),
        pytest.param(replace(VECTOR, category="", namespace="", prompt_tokens=None), id="with less about it"),
        pytest.param(replace(VECTOR, namespace="sha256:" + "a" * 64), id="long namespace"),
        pytest.param(replace(VECTOR, fields=(JSON, (b"Access-Control-Allow-Origin", b"*"))), id="CORS"),
        pytest.param(replace(VECTOR, fields=(JSON, (b"Vary", b"Origin, Accept-Encoding"))), id="Vary"),
        pytest.param(replace(VECTOR, stored_at=NOW - 3599), id="a second before its end"),
        pytest.param(replace(VECTOR, lifetime=90 * 86_400, idle=86_400), id="idle"),
        pytest.param(replace(VECTOR, lifetime=FOREVER), id="until evicted"),
    ],
)
def test_what_is_stored_here_may_come_from_elsewhere(entry):
    assert of(entry) == replace(entry, fingerprints={}, imported=True)


def test_a_stream_comes_where_streams_are_cached():
    pieces = packed([(1, 30), (2, len(STREAM) - 30)])
    entry = replace(WHOLE, body=STREAM, pieces=pieces, fields=((b"Content-Type", b"application/x-ndjson"),))
    assert of(entry, cache_streams=True) == replace(entry, fingerprints={}, imported=True)
    assert of(entry) is Refusal.NOT_CACHED
    assert of(replace(entry, body=STREAM[:30]), cache_streams=True) is Refusal.UNSOUND


@pytest.mark.parametrize(
    ("entry", "settings", "lifetime", "idle"),
    [
        pytest.param(replace(VECTOR, lifetime=FOREVER - 1, idle=60), {}, 90 * 86_400, 60, id="idle"),
        pytest.param(replace(VECTOR, lifetime=9000, idle=5000), {"max_lifetime": 4000}, 4000, None, id="idle for less"),
        pytest.param(replace(WHOLE, lifetime=FOREVER - 1), {}, 604_800, None, id="completion"),
        pytest.param(replace(WHOLE, lifetime=FOREVER - 1), {"max_ttl": 60}, 3600, None, id="as it is set here"),
        pytest.param(replace(VECTOR, lifetime=FOREVER - 1), {}, FOREVER - 1, None, id="vector"),
    ],
)
def test_nothing_lives_longer_than_it_could_here(entry, settings, lifetime, idle):
    found = of(entry, **settings)
    assert found == replace(entry, lifetime=lifetime, idle=idle, fingerprints={}, imported=True)


def test_what_would_have_ended_here_is_not_stored():
    old = replace(WHOLE, stored_at=NOW - 604_800, lifetime=FOREVER - 1)
    assert of(old) is Refusal.EXPIRED
    assert of(replace(old, stored_at=NOW - 604_799)) == replace(
        old, stored_at=NOW - 604_799, lifetime=604_800, fingerprints={}, imported=True
    )


def test_a_clock_that_is_ahead_makes_nothing_live_longer():
    admitted = of(replace(VECTOR, stored_at=NOW + 60))
    assert isinstance(admitted, StoredResponse)
    assert admitted.stored_at == NOW


@pytest.mark.parametrize(
    ("entry", "refusal"),
    [
        (replace(VECTOR, scope=""), Refusal.UNMARKED),
        (replace(VECTOR, scope="x"), Refusal.UNMARKED),
        (replace(VECTOR, model="registry.ollama.ai/library/other:latest"), Refusal.OTHER_MODEL),
        (replace(VECTOR, scope=scope_marks.marked(replace(SCOPE, digest="5a"), ())), Refusal.OTHER_DIGEST),
        (replace(VECTOR, scope=scope_marks.marked(replace(SCOPE, version="1"), ())), Refusal.OTHER_VERSION),
        (replace(VECTOR, scope=scope_marks.marked(replace(SCOPE, epoch="e"), ())), Refusal.OTHER_SETTINGS),
        (
            replace(VECTOR, scope=scope_marks.marked(replace(SCOPE, credentials=credential_rules(["x"])), ())),
            Refusal.OTHER_SETTINGS,
        ),
        (replace(VECTOR, stored_at=NOW - 3600), Refusal.EXPIRED),
        (replace(WHOLE, operation="chat", body=b'{"message":{},"done":true,"done_reason":"stop"}'), Refusal.NOT_CACHED),
    ],
)
def test_what_nobody_can_ask_for_here_is_refused(entry, refusal):
    assert of(entry) is refusal


@pytest.mark.parametrize(
    ("entry", "settings"),
    [(WHOLE, {"max_entry_bytes": 1024}), (VECTOR, {"max_list_bytes": 1024})],
)
def test_what_is_too_large_to_be_stored_is_refused(entry, settings):
    assert of(
        replace(entry, body=entry.body.replace(b"x", b"x" * 2000).replace(b"0.5", b"0.5" + b"0" * 2000)), **settings
    ) is (Refusal.TOO_LARGE)


CHANGES: list[dict[str, Any]] = [
    {"status": 201},
    {"status": True},
    {"status": "200"},
    {"idle": 0},
    {"idle": 3600},
    {"idle": -5},
    {"idle": True},
    {"idle": 1.5},
    {"operation": "generate", "body": COMPLETION, "lifetime": FOREVER},
    {"operation": "generate", "body": COMPLETION, "idle": 60},
    {"lifetime": 0},
    {"lifetime": -1},
    {"lifetime": 2**31 + 1},
    {"lifetime": 60.5},
    {"lifetime": True},
    {"stored_at": -1.0},
    {"stored_at": float("nan")},
    {"stored_at": float("inf")},
    {"stored_at": NOW + 90_000},
    {"stored_at": "0"},
    {"stored_at": 10**400},
    {"took": -0.1},
    {"took": 1e300},
    {"took": None},
    {"prompt_tokens": -1},
    {"prompt_tokens": 2**60},
    {"prompt_tokens": 1.5},
    {"output_tokens": "1"},
    {"operation": "pull"},
    {"operation": "none"},
    {"operation": 3},
    {"operation": None},
    {"model": None},
    {"category": "Two Words"},
    {"category": "x" * 40},
    {"category": "\udc80"},
    {"category": None},
    {"namespace": "x" * 129},
    {"namespace": []},
    {"scope": None},
    {"imported": 1},
    {"reason": "OK\r\nSet-Cookie: a=b"},
    {"reason": "\0"},
    {"reason": "x" * 129},
    {"reason": b"OK"},
    {"fields": ()},
    {"fields": (JSON, (b"Set-Cookie", b"a=b"))},
    {"fields": (JSON, (b"Content-Length", b"0"))},
    {"fields": (JSON, (b"Location", b"http://evil.example"))},
    {"fields": (JSON, (b"Date", b"x\r\nSet-Cookie: a=b"))},
    {"fields": (JSON, (b"Date", b"x\0"))},
    {"fields": (JSON, (b"Access-Control-\r\nX", b"y"))},
    {"fields": (JSON, (b"access-control-", b"x" * 9000))},
    {"fields": (JSON, *[(b"access-control-a", b"")] * 64)},
    {"fields": (JSON, (b"Cache-Control", b"no-store"))},
    {"fields": (JSON, (b"Cache-Control", b"private"))},
    {"fields": (JSON, (b"Vary", b"*"))},
    {"fields": ((b"Content-Type", b"text/html"),)},
    {"body": b""},
    {"body": b"{}"},
    {"body": b'{"error":"x"}'},
    {"body": b"<script>"},
    {"body": encode(ITEM)[:-1]},
    {"body": encode(replace(ITEM, vector=b"[1]"))},
    {"body": encode(replace(ITEM, vector=b"[true,1]"))},
    {"body": encode(replace(ITEM, vector=b'["a",1]'))},
    {"body": encode(replace(ITEM, vector=b"[[1],1]"))},
    {"body": encode(replace(ITEM, vector=b"[1e39,1]"))},
    {"body": encode(replace(ITEM, vector=b"[1,2],[3]"))},
    {"body": encode(replace(ITEM, vector=b'"AACAPwAAgD8"'))},
    {"body": encode(replace(ITEM, vector=b"[" + b"0," * (1 << 19) + b"0]", numbers=(1 << 19) + 1))},
    {"body": b'{"embeddings":[' + b"[1]," * 300_000 + b"[1]]}"},
    {"body": encode(replace(ITEM, frame=b"{}"))},
    {"body": encode(replace(ITEM, frame=b"[" * 500))},
    {"body": encode(replace(ITEM, frame=FRAME.replace(b"application/json", b"text/html\\r\\nSet-Cookie: a=b")))},
    {"body": encode(replace(ITEM, frame=FRAME.replace(b'"rows"', b'"other"')))},
    {"body": encode(replace(ITEM, frame=FRAME.replace(b'["m"]', b'[{"a":1}]')))},
    {"pieces": packed([(0, len(VECTOR.body))])},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: repr(change)[:60])
def test_what_this_proxy_would_not_have_stored_is_refused(change):
    assert of(replace(VECTOR, **change)) in (Refusal.UNSOUND, Refusal.NOT_CACHED)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"response":"x"}',
        b'{"error":"x"}',
        COMPLETION[:-1],
        COMPLETION.replace(b'"stop"', b'"load"'),
    ],
)
def test_a_completion_that_is_none_is_refused(body):
    assert of(replace(WHOLE, body=body)) is Refusal.UNSOUND


def test_each_reason_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "packs.md").read_text("utf-8")
    for refusal in Refusal:
        assert f"| `{refusal}` | {refusal.meaning} |" in text


def with_field(name: bytes, value: bytes) -> dict[str, Any]:
    return {"fields": (JSON, (name, value))}


ALLOWED, LINE = b"access-control-", sum(map(len, JSON))
LONG_VECTOR = replace(ITEM, vector=b"[" + b"0," * 524_286 + b"10]", numbers=524_287)
BOUNDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("clock ahead", {"stored_at": NOW + 86_400}, {"stored_at": NOW + 86_401}),
    ("the oldest", {"stored_at": 0, "lifetime": FOREVER}, {"stored_at": -0.5, "lifetime": FOREVER}),
    ("the shortest lifetime", {"stored_at": NOW, "lifetime": 1}, {"stored_at": NOW, "lifetime": 0}),
    ("lifetime", {"lifetime": FOREVER}, {"lifetime": FOREVER + 1}),
    ("the shortest idle time", {"idle": 1}, {"idle": 0}),
    ("idle time", {"idle": 3599}, {"idle": 3600}),
    ("time taken", {"took": 1e6}, {"took": 1e6 + 1}),
    ("no time taken", {"took": 0}, {"took": -1}),
    ("prompt tokens", {"prompt_tokens": 2**53}, {"prompt_tokens": 2**53 + 1}),
    ("output tokens", {"output_tokens": 2**53}, {"output_tokens": 2**53 + 1}),
    ("no tokens", {"prompt_tokens": 0, "output_tokens": 0}, {"output_tokens": -1}),
    ("namespace", {"namespace": "x" * 128}, {"namespace": "x" * 129}),
    ("reason", {"reason": "x" * 128}, {"reason": "x" * 129}),
    ("no reason", {"reason": ""}, {"reason": "\x7f"}),
    ("fields", {"fields": (JSON, *[(ALLOWED, b"")] * 63)}, {"fields": (JSON, *[(ALLOWED, b"")] * 64)}),
    ("name", with_field(ALLOWED + b"a" * 113, b""), with_field(ALLOWED + b"a" * 114, b"")),
    ("bytes", with_field(ALLOWED, b"x" * (8177 - LINE)), with_field(ALLOWED, b"x" * (8178 - LINE))),
    ("characters", with_field(ALLOWED, b"\t \x21~\x80\xff"), with_field(ALLOWED, b"\x7f")),
    (
        "vector",
        {"body": encode(LONG_VECTOR)},
        {"body": encode(replace(LONG_VECTOR, vector=b"[00" + LONG_VECTOR.vector[2:]))},
    ),
]


@pytest.mark.parametrize(("inside", "outside"), [row[1:] for row in BOUNDS], ids=[row[0] for row in BOUNDS])
def test_what_is_beside_the_body_is_within_its_bounds(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    assert isinstance(of(replace(VECTOR, **inside)), StoredResponse)
    assert of(replace(VECTOR, **outside)) is Refusal.UNSOUND


def test_a_response_is_held_to_the_bounds_of_this_proxy():
    large = replace(WHOLE, body=COMPLETION.replace(b'"x"', b'"%b"' % (b"x" * (1024 - len(COMPLETION) + 1))))
    assert isinstance(of(large, max_entry_bytes=1024), StoredResponse)
    assert of(replace(large, body=large.body.replace(b"xx", b"xxx", 1)), max_entry_bytes=1024) is Refusal.TOO_LARGE
