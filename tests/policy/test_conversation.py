from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.conversation import Wanted, wanted
from ollama_cache_proxy.policy.steps import finish

LLAMA = "registry.ollama.ai/library/llama3:latest"


DEEP: Any = [{"role": "user", "content": json.loads("[" * 300 + "]" * 300)}]


def asked(path: str, body: Any, method: str = "POST") -> Wanted:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return finish(wanted(endpoints.find(method, path)[0], (), raw))


def chat(*texts: str, system: str = "be brief") -> Wanted:
    messages = [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return asked("/v1/chat/completions", {"model": "llama3", "messages": messages})


def test_turns_of_one_conversation_begin_alike_and_others_do_not() -> None:
    first = chat("hello")
    assert first.model == LLAMA
    assert first.conversation
    assert chat("hello", "hi", "how are you").conversation == first.conversation
    assert chat("goodbye").conversation != first.conversation
    assert chat("hello", system="be long").conversation != first.conversation


@pytest.mark.parametrize("role", [["a"], {"a": 1}, None, 1])
def test_a_role_may_be_anything(role: Any) -> None:
    body = {"model": "llama3", "messages": [{"role": role}, {"role": "user", "content": "hello"}]}
    assert asked("/api/chat", body).conversation


def test_prompts_with_one_beginning_go_together() -> None:
    def generate(prompt: str) -> bytes:
        return asked("/api/generate", {"model": "llama3", "prompt": prompt}).conversation

    assert generate("x" * 2000 + "a") == generate("x" * 2000 + "b") != generate("y" * 2000)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        pytest.param("/api/embed", {"model": "llama3", "input": ["a"]}, Wanted(model=LLAMA), id="vectors have none"),
        pytest.param("/api/show", {"name": "llama3"}, Wanted(model=LLAMA), id="an older name of the field"),
        pytest.param("/api/copy", {"source": "llama3", "destination": "x"}, Wanted(model=LLAMA), id="a copy's source"),
        pytest.param(
            "/api/create", {"model": "llama3", "files": {"a": "b"}}, Wanted(model=LLAMA, files=True), id="files"
        ),
        pytest.param("/api/chat", {"model": "llama3", "messages": []}, Wanted(model=LLAMA), id="no messages"),
        pytest.param("/api/chat", {"model": 1}, Wanted(), id="no name"),
        pytest.param("/api/chat", b"[1", Wanted(), id="no JSON"),
        pytest.param("/api/chat", [1], Wanted(), id="no object"),
        pytest.param("/api/chat", {"model": "llama3", "messages": DEEP}, Wanted(model=LLAMA), id="nested too deep"),
        pytest.param("/v1/audio/transcriptions", b"--", Wanted(), id="no multipart"),
    ],
)
def test_what_a_request_asks_for(path: str, body: Any, expected: Wanted) -> None:
    assert asked(path, body) == expected


def test_the_model_of_a_large_body_is_read_in_steps() -> None:
    steps = wanted(
        endpoints.find("POST", "/api/embed")[0], (), b'{"model":"llama3","input":["' + b"a" * (1 << 21) + b'"]}'
    )
    taken = list(watched(steps))
    assert len(taken) > 2
    assert taken[-1] == Wanted(model=LLAMA)


def watched(steps: Any) -> Iterator[Any]:
    yield (yield from steps)
