from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.dialects import anthropic, token_counts
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish

INCOMPLETE = NotStorable(detail=Detail.INCOMPLETE)


@pytest.mark.parametrize("document", [{"input_tokens": 11}, {"input_tokens": 0}, {"input_tokens": 1, "x": None}])
def test_a_count_is_stored_and_no_model_has_worked_on_it(document: dict[str, object]) -> None:
    assert token_counts.whole(document) == Storable(prompt_tokens=None, output_tokens=None)
    assert token_counts.usage(b'{"input_tokens":11}') is None


@pytest.mark.parametrize("document", [{}, {"input_tokens": None}, {"input_tokens": "11"}, {"input_tokens": -1}])
def test_what_is_no_count_is_not_stored(document: dict[str, object]) -> None:
    assert token_counts.whole(document) == INCOMPLETE


def test_it_never_streams() -> None:
    assert finish(token_counts.stream(b'{"input_tokens":11}')) == INCOMPLETE
    assert token_counts.ends(b"event: message_stop\n\n") is False


def test_an_error_is_anthropics() -> None:
    assert token_counts.error(404, "why") == anthropic.error(404, "why")
