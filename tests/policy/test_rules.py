from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.callers import callers
from ollama_cache_proxy.policy.credentials import DEFAULT_RULES
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, Kind, Policy
from ollama_cache_proxy.policy.host_names import host_names
from ollama_cache_proxy.policy.replay_pace import Pace
from ollama_cache_proxy.policy.rules import Rules

RULES = Rules(
    policies={},
    streams=False,
    pace=Pace.RECORDED,
    line_pace_for=callers(("chat", "agent:genkit")),
    ignore_no_cache=callers(()),
    unbuffered_streams=False,
    ttl_completion=1,
    ttl_embedding=2,
    max_ttl=6,
    max_request_bytes=7,
    max_entry_bytes=3,
    max_list_bytes=4,
    max_buffered_bytes=8,
    max_misses=None,
    estimated_counts=False,
    linger=5.0,
    epoch="",
    credentials=DEFAULT_RULES,
    pseudonym=b"ollama-cache-proxy-1f",
    guard_host=False,
    hostname="",
    allowed_hosts=host_names(()),
    local_addresses=frozenset(),
)


def test_their_text_has_no_credential():
    assert "0f3a9c" not in repr(replace(RULES, authorization=b"Bearer 0f3a9c"))


every = pytest.mark.parametrize("endpoint", [*ENDPOINTS, OTHER], ids=lambda row: row.operation)


@every
def test_embeddings_have_limits_of_their_own(endpoint):
    vectors = endpoint.kind is Kind.EMBEDDING
    assert RULES.lifetime(endpoint) == (2 if vectors else 1)
    assert RULES.max_response_bytes(endpoint) == (4 if vectors else 3)
    assert RULES.linger_seconds(endpoint) == (5.0 if vectors else 0.0)


def test_the_pace_of_lines_holds_for_its_callers_whatever_the_others_get():
    agent = ((b"User-Agent", b"genkit/1"),)
    by_name = {row.operation: row for row in ENDPOINTS}
    assert RULES.pace_for(by_name["generate"], ()) is Pace.RECORDED
    assert RULES.pace_for(by_name["generate"], agent) is Pace.LINE
    assert RULES.pace_for(by_name["chat"], ()) is Pace.LINE


@every
def test_without_a_setting_an_endpoints_own_policy_holds(endpoint):
    assert RULES.policy(endpoint) is endpoint.policy


@every
def test_a_policy_that_is_set_holds_for_its_operation_alone(endpoint):
    rules = replace(RULES, policies={"generate": Policy.OFF, "v1-chat": Policy.DETERMINISTIC})
    expected = {"generate": Policy.OFF, "v1-chat": Policy.DETERMINISTIC}.get(endpoint.operation, endpoint.policy)
    assert rules.policy(endpoint) is expected
