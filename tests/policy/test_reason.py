"""Reasons: their names for programs, and what they mean."""

from __future__ import annotations

import orjson
import pytest

from ollama_cache_proxy.policy.reason import Reason


class Why(Reason):
    LATE = "too-late", "it came late"
    GONE = "gone", "it is not there any more"


def test_a_reason_is_its_name_and_tells_what_it_means():
    assert [(str(why), why.meaning) for why in Why] == [
        ("too-late", "it came late"),
        ("gone", "it is not there any more"),
    ]
    assert orjson.dumps({"why": Why.LATE}) == b'{"why":"too-late"}'
    assert Why("gone") is Why.GONE


def test_a_meaning_is_no_name():
    with pytest.raises(ValueError, match="it came late"):
        Why("it came late")
