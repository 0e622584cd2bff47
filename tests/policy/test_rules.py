from __future__ import annotations

import pytest

from proxy.policy.endpoints import ENDPOINTS, OTHER, Kind
from proxy.policy.rules import Rules

RULES = Rules(ttl_completion=1, ttl_embedding=2, max_entry_bytes=3, max_list_bytes=4, linger=5.0)


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, OTHER], ids=lambda row: row.operation)
def test_embeddings_have_limits_of_their_own(endpoint):
    vectors = endpoint.kind is Kind.EMBEDDING
    assert RULES.lifetime(endpoint) == (2 if vectors else 1)
    assert RULES.max_answer(endpoint) == (4 if vectors else 3)
    assert RULES.lingers(endpoint) == (5.0 if vectors else 0.0)


def test_the_defaults_are_those_of_the_design():
    rules = Rules()
    assert (rules.ttl_completion, rules.ttl_embedding) == (3600, 24 * 3600)
    assert (rules.max_entry_bytes, rules.max_list_bytes) == (1 << 20, 64 << 20)
    assert rules.linger == 60.0
    assert rules.guard_host is False
