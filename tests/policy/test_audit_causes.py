"""Which known cause a difference looks like."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.audit_causes import MEANINGS, Cause, Seen, cause
from ollama_cache_proxy.policy.audit_comparison import Kind

CONTEXT = {"context_before": 2048, "context_now": 4096}
SAME_CONTEXT = {"context_before": 2048, "context_now": 2048}
TOKENS = {"tokens_stored": 12, "tokens_fresh": 30}
TABLE: list[tuple[dict[str, Any], Cause]] = [
    ({"kind": Kind.SLIGHTLY}, Cause.PRECISION),
    ({"kind": Kind.SLIGHTLY} | CONTEXT, Cause.CONTEXT),
    ({"kind": Kind.SLIGHTLY} | SAME_CONTEXT, Cause.PRECISION),
    ({"kind": Kind.SLIGHTLY, "context_before": 2048, "context_now": None}, Cause.PRECISION),
    ({"kind": Kind.SLIGHTLY, "context_before": None, "context_now": 2048}, Cause.PRECISION),
    ({"kind": Kind.WHOLLY}, Cause.ENTRY),
    ({"kind": Kind.LENGTH}, Cause.ENTRY),
    ({"kind": Kind.WHOLLY} | CONTEXT, Cause.CONTEXT),
    ({"kind": Kind.WHOLLY} | TOKENS, Cause.TEMPLATE),
    ({"kind": Kind.WHOLLY, "tokens_stored": 12, "tokens_fresh": 12}, Cause.ENTRY),
    ({"kind": Kind.WHOLLY, "tokens_stored": 12, "tokens_fresh": None}, Cause.ENTRY),
    ({"kind": Kind.TEXT}, Cause.SAMPLER),
    ({"kind": Kind.TEXT, "greedy": True}, Cause.PRECISION),
    ({"kind": Kind.TEXT, "template_changed": True}, Cause.TEMPLATE),
    ({"kind": Kind.TEXT, "greedy": True} | TOKENS, Cause.TEMPLATE),
    ({"kind": Kind.TEXT, "greedy": True} | CONTEXT | TOKENS, Cause.CONTEXT),
]


@pytest.mark.parametrize(("seen", "expected"), TABLE)
def test_a_difference_looks_like_the_first_cause_that_explains_it(seen: dict[str, Any], expected: Cause) -> None:
    assert cause(Seen(**seen)) is expected


def test_every_cause_is_explained_and_reached() -> None:
    assert MEANINGS.keys() == set(Cause) == {expected for _, expected in TABLE}


def test_causes_have_the_names_that_metrics_show() -> None:
    names = ["context-length", "template", "hardware-or-kv-cache", "sampler", "entry"]
    assert [each.value for each in Cause] == names
