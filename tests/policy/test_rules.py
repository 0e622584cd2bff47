from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.callers import callers
from ollama_cache_proxy.policy.credentials import DEFAULT_RULES
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, Endpoint, Kind, Policy
from ollama_cache_proxy.policy.host_names import host_names
from ollama_cache_proxy.policy.lifetimes import Lifetime, LifetimeKind
from ollama_cache_proxy.policy.replay_pace import Pace
from ollama_cache_proxy.policy.rules import Rules, Terms

RULES = Rules(
    policies={},
    streams=False,
    pace=Pace.RECORDED,
    line_pace_for=callers(("chat", "agent:genkit")),
    ignore_no_cache=callers(()),
    unbuffered_streams=False,
    prompt_slots=1,
    ttl_completion=1,
    ttl_embedding=2,
    max_ttl=6,
    lifetime=LifetimeKind.FIXED,
    max_lifetime=9,
    models={},
    categories={},
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
    assert RULES.lifetime_of(endpoint, asked=None) == Lifetime(seconds=2 if vectors else 1)
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


BY_NAME = {row.operation: row for row in ENDPOINTS}
EMBED, GENERATE, CHAT = BY_NAME["embed"], BY_NAME["generate"], BY_NAME["chat"]
IDLE, FIXED = LifetimeKind.IDLE, LifetimeKind.FIXED
TABLES = replace(
    RULES,
    models={
        "registry.ollama.ai/library/all-minilm:latest": Terms(ttl=5, kind=IDLE),
        "registry.ollama.ai/library/off:latest": Terms(policy=Policy.OFF),
        "registry.ollama.ai/library/on:latest": Terms(policy=Policy.READ_ONLY),
    },
    categories={"docs": Terms(ttl=7), "fixed": Terms(kind=FIXED), "on": Terms(policy=Policy.ALWAYS)},
)


@pytest.mark.parametrize(
    ("endpoint", "category", "model", "asked", "expected"),
    [
        pytest.param(EMBED, "", "bge-m3", None, Lifetime(seconds=2), id="no table"),
        pytest.param(EMBED, "", "no such name", None, Lifetime(seconds=2), id="no name"),
        pytest.param(EMBED, "", "all-minilm", None, Lifetime(seconds=9, idle=5), id="model"),
        pytest.param(EMBED, "", "library/ALL-MINILM:latest", None, Lifetime(seconds=9, idle=5), id="its other name"),
        pytest.param(EMBED, "docs", "all-minilm", None, Lifetime(seconds=9, idle=7), id="each from its own table"),
        pytest.param(EMBED, "fixed", "all-minilm", None, Lifetime(seconds=5), id="category before model"),
        pytest.param(EMBED, "docs", "bge-m3", None, Lifetime(seconds=7), id="category"),
        pytest.param(EMBED, "docs", "all-minilm", 3, Lifetime(seconds=3), id="request"),
        pytest.param(EMBED, "", "all-minilm", 0, Lifetime(seconds=0), id="request for nothing"),
        pytest.param(GENERATE, "", "all-minilm", None, Lifetime(seconds=5), id="completion"),
        pytest.param(GENERATE, "", "tiny", None, Lifetime(seconds=1), id="completion without a table"),
    ],
)
def test_a_lifetime_is_that_of_the_request_its_category_its_model_or_the_setting(
    endpoint: Endpoint, category: str, model: str, asked: int | None, expected: Lifetime
) -> None:
    assert TABLES.lifetime_of(endpoint, category, model, asked=asked) == expected


@pytest.mark.parametrize(
    ("tables", "category", "expected"),
    [
        pytest.param({"models": TABLES.models}, "", Lifetime(seconds=9, idle=5), id="models alone"),
        pytest.param({"categories": TABLES.categories}, "docs", Lifetime(seconds=7), id="categories alone"),
        pytest.param({"models": TABLES.models}, "docs", Lifetime(seconds=9, idle=5), id="a category without a table"),
    ],
)
def test_each_table_holds_without_the_other(
    tables: dict[str, Mapping[str, Terms]], category: str, expected: Lifetime
) -> None:
    assert replace(RULES, **tables).lifetime_of(EMBED, category, "all-minilm", asked=None) == expected


def test_without_a_setting_no_authorization_is_added() -> None:
    assert RULES.authorization == b""


@every
def test_no_kind_but_fixed_is_for_completions(endpoint: Endpoint) -> None:
    rules = replace(RULES, lifetime=LifetimeKind.UNTIL_EVICTED)
    fixed = rules.lifetime_of(endpoint, asked=None) == Lifetime(seconds=1)
    assert fixed == (endpoint.kind is not Kind.EMBEDDING)


@pytest.mark.parametrize(
    ("endpoint", "category", "model", "expected"),
    [
        (EMBED, "", "bge-m3", Policy.ALWAYS),
        (EMBED, "", "off", Policy.OFF),
        (EMBED, "on", "off", Policy.ALWAYS),
        (EMBED, "docs", "off", Policy.OFF),
        (CHAT, "", "tiny", Policy.OFF),
        (CHAT, "", "on", Policy.READ_ONLY),
        (CHAT, "on", "on", Policy.ALWAYS),
        (OTHER, "on", "on", None),
    ],
)
def test_a_policy_is_that_of_the_category_the_model_or_the_endpoint(
    endpoint: Endpoint, category: str, model: str, expected: Policy | None
) -> None:
    assert TABLES.policy(endpoint, category, model) is expected


def test_a_model_may_turn_on_what_is_off_unless_the_category_has_a_policy() -> None:
    assert TABLES.model_may_open("")
    assert TABLES.model_may_open("docs")
    assert not TABLES.model_may_open("on")
    assert not RULES.model_may_open("")
    assert not replace(TABLES, models={"a": Terms(policy=Policy.OFF), "b": Terms(ttl=5)}).model_may_open("")
