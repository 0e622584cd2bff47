from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.dialects import openai, transcriptions
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish

INCOMPLETE = NotStorable(detail=Detail.INCOMPLETE)


@pytest.mark.parametrize("document", [{"text": "hello"}, {"text": ""}, {"task": "transcribe", "text": "x"}])
def test_a_text_is_stored(document: dict[str, object]) -> None:
    assert transcriptions.whole(document) == Storable(prompt_tokens=None, output_tokens=None)


@pytest.mark.parametrize("document", [{}, {"text": None}, {"text": ["x"]}, {"Text": "x"}])
def test_what_is_no_text_is_not(document: dict[str, object]) -> None:
    assert transcriptions.whole(document) == INCOMPLETE


def test_it_never_streams_and_tells_no_tokens() -> None:
    assert finish(transcriptions.stream(b'{"text":"x"}')) == INCOMPLETE
    assert transcriptions.ends(b"data: [DONE]\n\n") is False
    assert transcriptions.usage(b'{"text":"x","usage":{"input_tokens":1}}') is None


def test_an_error_is_openais() -> None:
    assert transcriptions.error(400, "why") == openai.error(400, "why")
