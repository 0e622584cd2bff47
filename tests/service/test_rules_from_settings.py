from __future__ import annotations

import socket

import pytest

from ollama_cache_proxy.policy.callers import Callers, callers
from ollama_cache_proxy.policy.credentials import DEFAULT_RULES, credential_rules
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, REUSABLE, Policy
from ollama_cache_proxy.policy.lifetimes import LifetimeKind
from ollama_cache_proxy.policy.replay_pace import Pace
from ollama_cache_proxy.policy.rules import Rules, Terms
from ollama_cache_proxy.service.rules_from_settings import rules_from
from ollama_cache_proxy.service.settings import load, setting_of


def rules(**settings: object) -> Rules:
    return rules_from(load(None, settings), loopback=False, instance="1f")


def test_the_defaults_are_those_of_the_design():
    found = rules()
    assert (found.ttl_completion, found.ttl_embedding) == (3600, 24 * 3600)
    assert (found.max_entry_bytes, found.max_list_bytes) == (1 << 20, 64 << 20)
    assert (found.max_ttl, found.max_request_bytes) == (7 * 24 * 3600, 8 << 20)
    assert found.linger == 60.0
    assert (found.max_buffered_bytes, found.max_misses) == (256 << 20, None)
    assert found.guard_host is False
    assert found.epoch == ""
    assert found.pseudonym == b"ollama-cache-proxy-1f"
    assert (found.streams, found.pace, found.unbuffered_streams) == (False, Pace.AT_ONCE, False)
    assert found.ignore_no_cache == found.line_pace_for == Callers()


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, OTHER], ids=lambda row: row.operation)
def test_without_a_setting_an_endpoints_own_policy_holds(endpoint):
    assert rules().policy(endpoint) is endpoint.policy


@pytest.mark.parametrize("endpoint", REUSABLE, ids=lambda row: row.operation)
@pytest.mark.parametrize("policy", Policy)
def test_the_policy_that_is_set_for_an_endpoint_holds(endpoint, policy):
    assert rules(**{setting_of(endpoint.operation): policy.value}).policy(endpoint) is policy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl_completion", 11),
        ("ttl_embedding", 12),
        ("max_ttl", 13),
        ("lifetime", LifetimeKind.IDLE),
        ("max_lifetime", 16),
        ("max_request_bytes", 2001),
        ("max_entry_bytes", 2002),
        ("max_list_bytes", 2003),
        ("max_buffered_bytes", 2004),
        ("max_misses", 14),
        ("linger", 15.5),
        ("estimated_counts", True),
        ("epoch", "e"),
    ],
)
def test_rules_have_the_values_of_the_settings(name, value):
    changed, usual = rules(**{name: value}), rules()
    assert getattr(changed, name) == value
    assert {field for field in Rules.__dataclass_fields__ if getattr(changed, field) != getattr(usual, field)} == {name}


def test_tables_are_by_the_full_names_of_models_and_by_categories():
    found = rules(
        models={"All-MiniLM": {"ttl": "1h"}, "a/b:c": {"cache": "off"}}, categories={"x": {"lifetime": "idle"}}
    )
    assert found.models == {
        "registry.ollama.ai/library/all-minilm:latest": Terms(ttl=3600),
        "registry.ollama.ai/a/b:c": Terms(policy=Policy.OFF),
    }
    assert found.categories == {"x": Terms(kind=LifetimeKind.IDLE)}


def test_what_counts_as_a_credential_is_as_set():
    assert rules().credentials == DEFAULT_RULES
    found = rules(credential_fields=["X-Team-Key"], placeholder_credentials=["ollama", ""])
    assert found.credentials == credential_rules(["X-Team-Key"], ["ollama", ""])


def test_streams_are_recorded_and_paced_as_set():
    found = rules(cache_streams=True, stream_pace="recorded", unbuffered_streams=True)
    assert (found.streams, found.pace, found.unbuffered_streams) == (True, Pace.RECORDED, True)
    assert rules(stream_pace="line").pace is Pace.LINE
    found = rules(line_pace_for=["chat"], ignore_no_cache="v1-chat, agent:Go-http-client/")
    assert found.line_pace_for.operations == {"chat"}
    assert found.ignore_no_cache == callers(("v1-chat", "agent:Go-http-client/"))


@pytest.mark.parametrize("loopback", [True, False])
def test_the_host_is_guarded_on_loopback_by_the_names_of_this_machine(loopback, monkeypatch):
    def addresses(host: str, _port: None) -> list[tuple[object, ...]]:
        assert host == "box"
        return [(0, 0, 0, "", ("192.0.2.1", 0)), (0, 0, 0, "", ("2001:db8::1", 0, 0, 0))]

    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    found = rules_from(load(None, {}), loopback=loopback, instance="1f")
    assert (found.guard_host, found.hostname) == (loopback, "box")
    assert found.local_addresses == {"192.0.2.1", "2001:db8::1"}


def test_a_machine_whose_name_has_no_address_has_none(monkeypatch):
    def none(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", none)
    assert rules().local_addresses == frozenset()


def test_the_credentials_for_ollama_are_for_clients_only_with_all():
    assert rules(upstream_authorization="Bearer canary").authorization == b""
    found = rules(upstream_authorization="Bearer canary", upstream_authorization_for="all")
    assert found.authorization == b"Bearer canary"
    assert "canary" not in repr(found)
