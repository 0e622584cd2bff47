from __future__ import annotations

import hashlib
import hmac

import orjson
import pytest

from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.classify import Candidate, by_body
from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS, credential_rules
from ollama_cache_proxy.policy.endpoints import Policy
from ollama_cache_proxy.policy.fingerprints import GROUP, differing, fingerprints
from ollama_cache_proxy.policy.key import Scope

SCOPE = Scope(digest="d", version="1")
SECRET = b"s" * 32
GENERATE = {"model": "tiny", "prompt": "canary", "stream": False, "options": {"seed": 1}}


def candidate(body, path="/api/generate") -> Candidate:
    endpoint, _ = endpoints.find("POST", path)
    found = by_body(endpoint, orjson.dumps(body), policy_of=lambda _: Policy.ALWAYS, streams=True)
    assert isinstance(found, Candidate)
    return found


def of(body, path="/api/generate", *, text=None, scope=SCOPE, fields=(), secret=SECRET):
    return fingerprints(candidate(body, path), text, scope, fields, secret)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, ()),
        ({"keep_alive": "5m"}, ()),
        ({"options": {"seed": 2}}, ("options.seed",)),
        ({"options": {"seed": 1, "a": 1}}, ("options.a",)),
        ({"options": None}, ("options", "options.seed")),
        ({"prompt": "x"}, ("prompt",)),
        ({"stream": True}, ("stream",)),
        ({"model": "tiny:latest", "new": 1}, ("model", "new")),
        ({"format": {"a": 1, "b": 2}}, ("format",)),
    ],
    ids=str,
)
def test_what_differs_is_named(change, names):
    assert differing(of(GENERATE), of(GENERATE | change)) == names


@pytest.mark.parametrize(
    ("scope", "fields", "names"),
    [
        (Scope(digest="e", version="1"), (), ("(model digest)",)),
        (Scope(digest="d", version="2"), (), ("(Ollama version)",)),
        (Scope(digest="d", version="1", epoch="x"), (), ("(epoch)",)),
        (SCOPE, ((b"Origin", b"http://a"),), ("(Origin)",)),
        (SCOPE, ((b"User-Agent", b"x"),), ()),
        (Scope(digest="d", version="1", namespace="n"), (), None),
        (SCOPE, ((b"Authorization", b"Bearer x"),), None),
        (SCOPE, ((b"X-API-Key", b"x"),), None),
        (SCOPE, ((b"CF-Access-Client-Secret", b"x"),), None),
        (SCOPE, ((b"X-Team-Key", b"x"),), ()),
        (Scope(digest="d", version="1", credentials=credential_rules(["X-Team-Key"])), (), None),
        (Scope(digest="d", version="1", credentials=credential_rules((), ["x"])), (), None),
    ],
    ids=range(12),
)
def test_what_stands_beside_the_body(scope, fields, names):
    assert differing(of(GENERATE), of(GENERATE, scope=scope, fields=fields)) == names


@pytest.mark.parametrize(
    ("path", "change", "version", "names"),
    [
        ("/api/generate", {"top_k": None}, "0.24.0", ()),
        ("/api/generate", {"top_k": None}, "9.9.9", ("options.top_k",)),
        ("/api/generate", {"top_k": 1}, "0.24.0", ("options.top_k",)),
        ("/api/embeddings", {"top_k": 1}, "0.24.0", ()),
        ("/api/embeddings", {"num_ctx": 1}, "0.24.0", ("options.num_ctx",)),
    ],
)
def test_what_is_left_out_of_the_key_is_not_named(path, change, version, names):
    scope = Scope(digest="d", version=version)
    other = GENERATE | {"options": GENERATE["options"] | change}
    assert differing(of(GENERATE, path, scope=scope), of(other, path, scope=scope)) == names


def test_messages_are_told_apart_one_by_one():
    one = {"model": "tiny", "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    other = {"model": "tiny", "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "c"}]}
    assert differing(of(one, "/api/chat"), of(other, "/api/chat")) == ("messages[1]",)


@pytest.mark.parametrize(
    ("path", "one", "other", "names"),
    [
        pytest.param("/api/chat", {"tools": [{"name": "f"}]}, {"tools": [{"name": "g"}]}, ("tools",), id="tools"),
        pytest.param("/v1/responses", {"input": "ab"}, {"input": "ac"}, ("input",), id="a prompt that is one text"),
        pytest.param("/api/embed", {"input": ["a", "b"]}, {"input": ["a", "c"]}, ("input",), id="texts to embed"),
    ],
)
def test_nothing_but_messages_is_told_apart_part_by_part(path, one, other, names):
    usual = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]} if path == "/api/chat" else {"model": "m"}
    assert differing(of(usual | one, path), of(usual | other, path)) == names


def test_requests_of_two_endpoints_differ_in_the_operation():
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": False}
    assert differing(of(body, "/api/chat"), of(body, "/v1/chat/completions")) == ("(operation)",)


def test_the_text_of_an_item_is_the_same_through_both_routes():
    native = of({"model": "m", "input": ["a", "b"], "truncate": True}, "/api/embed", text="a")
    openai = of({"model": "m:latest", "input": "a", "encoding_format": "base64"}, "/v1/embeddings", text="a")
    assert differing(native, openai) == ()
    assert differing(native, of({"model": "m", "input": "b"}, "/api/embed", text="b")) == ("input",)


def test_a_stream_of_names_is_bounded_and_what_is_beyond_still_differs():
    many = GENERATE | {f"f{number:04}" + "x" * 100: number for number in range(200)}
    found = of(many)
    assert len(found) == 66, "64, what is beyond them, and what must be equal"
    assert max(map(len, found)) <= 64
    assert "(more)" in found
    last = max(name for name in many if name.startswith("f0"))
    assert differing(found, of(many | {last: -1})) == ("(more)",)


def test_long_names_that_begin_alike_are_not_lost():
    one, other = {"x" * 64 + "a": 1, "x" * 64 + "b": 1}, {"x" * 64 + "a": 2, "x" * 64 + "b": 1}
    assert differing(of(GENERATE | one), of(GENERATE | other)) == ("x" * 64,)


def test_an_entry_without_fingerprints_is_compared_with_none():
    assert differing({}, of(GENERATE)) is differing(of(GENERATE), {}) is differing({}, {}) is None


@pytest.mark.parametrize("name", ["X", "group", "(group)", "x" * 64])
def test_no_field_stands_where_the_group_is(name):
    """The group is under the empty name, in stored entries too, where no field with a name can be."""
    assert "" in of(GENERATE)
    assert of(GENERATE)[""] == of(GENERATE | {name: 1})[""]
    assert differing(of(GENERATE), of(GENERATE | {name: 1})) == (name,)


def test_fingerprints_are_keyed_and_hold_no_text():
    found = of(GENERATE)
    assert "canary" not in str(found)
    assert all(len(mark) == 16 and int(mark, 16) >= 0 for mark in found.values())
    again = of(GENERATE, secret=b"t" * 32)
    assert not set(found.values()) & set(again.values())
    assert differing(found, again) is None, "another key: nothing can be compared"
    assert found[GROUP] != of(GENERATE, fields=((b"Authorization", b"x"),))[GROUP]


@pytest.mark.parametrize("name", CREDENTIAL_FIELDS, ids=bytes.decode)
def test_requests_with_different_credentials_are_not_compared(name):
    lines = [(), ((name, b"canary"),), ((name, b"other"),)]
    found = [of(GENERATE, fields=fields) for fields in lines]
    assert "canary" not in str(found)
    assert [differing(one, other) for one in found for other in found] == [
        () if one is other else None for one in found for other in found
    ]


def test_entries_of_the_last_release_are_not_compared():
    """There an X-API-Key was no part of the group: its entries would look like those of a request without one."""
    length = (0).to_bytes(8, "big")
    old = hmac.new(SECRET, hashlib.sha256(length + length).hexdigest().encode(), hashlib.sha256).hexdigest()[:16]
    assert of(GENERATE)[GROUP] != old
