from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, Kind, Policy
from ollama_cache_proxy.policy.rules import Rules

RULES = Rules(ttl_completion=1, ttl_embedding=2, max_entry_bytes=3, max_list_bytes=4, linger=5.0)


every = pytest.mark.parametrize("endpoint", [*ENDPOINTS, OTHER], ids=lambda row: row.operation)


@every
def test_embeddings_have_limits_of_their_own(endpoint):
    vectors = endpoint.kind is Kind.EMBEDDING
    assert RULES.lifetime(endpoint) == (2 if vectors else 1)
    assert RULES.max_answer(endpoint) == (4 if vectors else 3)
    assert RULES.lingers(endpoint) == (5.0 if vectors else 0.0)


def test_the_defaults_are_those_of_the_design():
    rules = Rules()
    assert (rules.ttl_completion, rules.ttl_embedding) == (3600, 24 * 3600)
    assert (rules.max_entry_bytes, rules.max_list_bytes) == (1 << 20, 64 << 20)
    assert (rules.max_ttl, rules.max_request_bytes) == (7 * 24 * 3600, 8 << 20)
    assert rules.linger == 60.0
    assert (rules.max_buffered_bytes, rules.max_misses) == (256 << 20, None)
    assert rules.guard_host is False
    assert rules.policies == {}
    assert (rules.streams, rules.paced) == (False, False)


@every
def test_without_a_setting_an_endpoints_own_policy_holds(endpoint):
    assert Rules().policy(endpoint) is endpoint.policy


@every
def test_a_policy_that_is_set_holds_for_its_operation_alone(endpoint):
    rules = Rules(policies={"generate": Policy.OFF, "v1-chat": Policy.DETERMINISTIC})
    expected = {"generate": Policy.OFF, "v1-chat": Policy.DETERMINISTIC}.get(endpoint.operation, endpoint.policy)
    assert rules.policy(endpoint) is expected
