"""Which requests are audited, and what they are asked again with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy.audit_requests import (
    body_of_text,
    is_audited,
    is_greedy,
    may_have_options,
    options_in,
    runner_options,
    without_keep_alive,
)
from ollama_cache_proxy.policy.classify import Candidate, by_body
from ollama_cache_proxy.policy.endpoints import Policy, find

RUNNER = ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"]
"""`api.Runner` of Ollama 0.24."""
RUNNER += ["numa", "low_vram", "vocab_only", "use_mlock", "f16_kv"]
"""Those of older versions."""
MESSAGES = [{"role": "user", "content": "why"}]


def candidate(path: str, body: dict[str, Any]) -> Candidate:
    found = by_body(find("POST", path)[0], json.dumps(body).encode(), policy_of=lambda _: Policy.ALWAYS, streams=True)
    assert isinstance(found, Candidate)
    return found


@pytest.mark.parametrize(
    ("path", "body", "audited"),
    [
        ("/api/embed", {"input": "a"}, (True, True)),
        ("/api/embeddings", {"prompt": "a"}, (True, True)),
        ("/v1/embeddings", {"input": ["a", "b"]}, (True, True)),
        ("/api/generate", {"prompt": "a"}, (False, False)),
        ("/api/generate", {"prompt": "a", "options": {"temperature": 0}}, (False, True)),
        ("/api/generate", {"prompt": "a", "options": {"seed": 7}}, (False, True)),
        ("/api/generate", {"prompt": "a", "temperature": 0}, (False, False)),
        ("/api/chat", {"messages": MESSAGES, "options": {"temperature": 0.0}}, (False, True)),
        ("/v1/chat/completions", {"messages": MESSAGES, "seed": 1}, (False, True)),
        ("/v1/chat/completions", {"messages": MESSAGES, "seed": -1}, (False, False)),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 8, "temperature": 0}, (False, True)),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}, (False, False)),
    ],
)
def test_vectors_are_audited_and_completions_that_are_the_same_each_time(
    path: str, body: dict[str, Any], audited: tuple[bool, bool]
) -> None:
    found = candidate(path, {"model": "tiny", **body})
    assert (is_audited(found, completions=False), is_audited(found, completions=True)) == audited


@pytest.mark.parametrize(
    ("options", "greedy"),
    [({"temperature": 0}, True), ({"seed": 1}, False), ({"temperature": 0.1}, False), ({}, False)],
)
def test_greedy_is_temperature_0(options: dict[str, Any], greedy: bool) -> None:
    assert is_greedy(candidate("/api/generate", {"model": "tiny", "prompt": "a", "options": options})) is greedy
    assert is_greedy(candidate("/v1/completions", {"model": "tiny", "prompt": "a", **options})) is greedy


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model":"tiny","keep_alive":"9m","prompt":"a"}', b'{"model":"tiny","prompt":"a"}'),
        (b'{ "keep_alive" : -1, "model":"tiny","prompt": "a" }', b'{ "model":"tiny","prompt": "a" }'),
        (b'{"model":"tiny","prompt":"a","keep_alive":3}', b'{"model":"tiny","prompt":"a"}'),
        (b'{"model": "tiny", "prompt": "keep_alive"}', b'{"model": "tiny", "prompt": "keep_alive"}'),
    ],
)
def test_ollama_is_asked_without_keep_alive(body: bytes, sent: bytes) -> None:
    found = without_keep_alive(candidate("/api/embeddings", json.loads(body)), body)
    assert json.loads(found) == json.loads(sent)
    assert b'keep_alive"' not in found.replace(b'"keep_alive"}', b"")


def test_a_keep_alive_that_the_endpoint_does_not_know_stays() -> None:
    body = b'{"model":"tiny","prompt":"a","keep_alive":3}'
    assert without_keep_alive(candidate("/v1/completions", json.loads(body)), body) == body


def test_one_text_of_a_list_is_asked_for_as_the_client_asked() -> None:
    body = {"model": "tiny", "keep_alive": "9m", "input": ["a", "b", "c"], "options": {"seed": 1}, "truncate": False}
    assert json.loads(body_of_text(candidate("/api/embed", body), "c")) == {
        "model": "tiny",
        "input": ["c"],
        "options": {"seed": 1},
        "truncate": False,
    }


def test_options_that_load_a_model_anew_are_told_from_others() -> None:
    body = {"model": "tiny", "options": {"num_ctx": 512, "temperature": 0, "num_gpu": 1}}
    assert runner_options(body) == {("num_ctx", "512"), ("num_gpu", "1")}
    assert options_in(json.dumps(body).encode()) == ("tiny", runner_options(body))
    assert runner_options({"options": None}) == runner_options({}) == frozenset()


@pytest.mark.parametrize("name", RUNNER)
def test_each_option_of_a_runner_is_one(name: str) -> None:
    assert runner_options({"options": {name: 1}}) == {(name, "1")}
    assert may_have_options(b'{"options":{"%b":1}}' % name.encode())
    assert not may_have_options(b'{"options":{"%bs":1}}' % name.encode())


def test_a_body_of_a_mebibyte_is_looked_at_and_no_larger_one() -> None:
    body = b'{"model":"a","options":{"num_ctx":1}}'
    assert (options_in(body.ljust(1 << 20)), may_have_options(body.ljust(1 << 20))) == (options_in(body), True)
    assert (options_in(body.ljust(1 + (1 << 20))), may_have_options(body.ljust(1 + (1 << 20)))) == (None, False)


@pytest.mark.parametrize(
    ("body", "may"),
    [
        (b'{"options":{"num_ctx":512}}', True),
        (b'{"prompt":"say num_ctx"}', False),
        (b'{"options":{"temperature":0}}', False),
        (b'{"use_mmap":true}' + b" " * 2**21, False),
    ],
)
def test_a_search_tells_whether_a_body_may_have_them(body: bytes, may: bool) -> None:
    assert may_have_options(body) is may


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b'{"model":1}', b"{}", b'{"model":"a"}' + b" " * 2**21])
def test_a_body_without_a_model_has_none(body: bytes) -> None:
    assert options_in(body) is None
