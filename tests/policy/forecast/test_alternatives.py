"""The keys of requests if clients or texts were alike, and what bypassed requests need."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy.classify import Candidate, by_body
from ollama_cache_proxy.policy.embeddings import item_keys, text_list
from ollama_cache_proxy.policy.endpoints import Policy, find
from ollama_cache_proxy.policy.forecast import alternatives
from ollama_cache_proxy.policy.key import Scope, cache_key
from ollama_cache_proxy.policy.messages import Fields

SCOPE = Scope(digest="sha256:0123", version="0.34.4")
ANNE: Fields = ((b"Authorization", b"Bearer anne"), (b"X-Other", b"1"))
BERT: Fields = ((b"Authorization", b"Bearer bert"), (b"X-Other", b"1"))
NOBODY: Fields = ((b"X-Other", b"1"),)


def candidate(path: str, document: dict[str, Any]) -> Candidate:
    found = by_body(
        find("POST", path)[0], json.dumps(document).encode(), policy_of=lambda _model: Policy.ALWAYS, streams=True
    )
    assert isinstance(found, Candidate), found
    return found


def described(path: str, document: dict[str, Any], fields: Fields) -> tuple[int, int | None, int | None]:
    """What describes a request, or the first text of its list."""
    found, body = candidate(path, document), json.dumps(document).encode()
    texts = text_list(found)
    if texts is None:
        return alternatives.hashed(body), *alternatives.of_request(found, SCOPE, fields, body)(0)
    return alternatives.hashed(texts.texts[0].encode()), *alternatives.of_texts(texts, SCOPE, fields)(0)


REQUESTS = (
    ("/api/embed", "input", {"model": "m"}),
    ("/v1/embeddings", "input", {"model": "m"}),
    ("/api/embeddings", "prompt", {"model": "m"}),
    ("/api/generate", "prompt", {"model": "m", "stream": False}),
)


@pytest.mark.parametrize(("path", "prompt", "rest"), REQUESTS)
def test_clients_with_one_authorization_would_share_the_key_of_those_without(
    path: str, prompt: str, rest: dict[str, Any]
) -> None:
    document = rest | {prompt: "why"}
    anne, bert, nobody = (described(path, document, fields) for fields in (ANNE, BERT, NOBODY))
    assert anne[1] == bert[1] is not None
    assert nobody[1] is None
    assert anne[0] == bert[0], "all are in the sample or none"
    found = candidate(path, document)
    texts = text_list(found)
    key = cache_key(found, SCOPE, NOBODY) if texts is None else item_keys(texts, SCOPE, NOBODY)["why"]
    assert anne[1] == alternatives.number(key)


@pytest.mark.parametrize(("path", "prompt", "rest"), REQUESTS)
def test_texts_that_differ_in_line_numbers_would_share_a_key(path: str, prompt: str, rest: dict[str, Any]) -> None:
    one, other = (described(path, rest | {prompt: f"x.py:{line}\ncode"}, NOBODY) for line in (8, 11))
    assert one[2] == other[2] is not None
    assert one[0] == other[0], "both are in the sample or none"
    assert described(path, rest | {prompt: "code"}, NOBODY)[2] is None


def test_messages_are_compared_without_line_numbers_too() -> None:
    def chat(line: int) -> dict[str, Any]:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Why x.py:{line}?"}]
        return {"model": "m", "messages": messages, "stream": False}

    one, other = (described("/api/chat", chat(line), NOBODY) for line in (8, 11))
    assert one[2] == other[2] is not None


@pytest.mark.parametrize(
    ("policy", "document", "streams", "needs"),
    [
        (Policy.OFF, {"stream": False}, False, ("chat", "always", False)),
        (Policy.OFF, {"stream": False, "options": {"seed": 1}}, False, ("chat", "deterministic", False)),
        (Policy.OFF, {}, False, ("chat", "always", True)),
        (Policy.OFF, {}, True, ("chat", "always", False)),
        (Policy.ALWAYS, {}, False, ("chat", "", True)),
        (Policy.DETERMINISTIC, {"stream": False}, False, ("chat", "always", False)),
    ],
)
def test_a_bypassed_request_needs_the_settings_that_let_it_in(
    policy: Policy, document: dict[str, Any], streams: bool, needs: tuple[str, str, bool]
) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "why"}], **document}).encode()
    endpoint = find("POST", "/api/chat")[0]
    found = alternatives.let_in(endpoint, body, NOBODY)
    assert found is not None
    assert alternatives.needed(endpoint, policy, found, streams=streams) == needs


@pytest.mark.parametrize("body", [b"", b"no JSON", b'{"model": "m", "messages": []}'])
def test_what_no_setting_would_let_in_has_no_key(body: bytes) -> None:
    assert alternatives.let_in(find("POST", "/api/chat")[0], body, NOBODY) is None
