from __future__ import annotations

from ollama_cache_proxy.policy.hosts import Hosts


def test_a_response_belongs_to_the_hosts_unless_another_one_has_answered() -> None:
    hosts = Hosts(frozenset({"a", "b"}), "m")
    assert hosts.kept_to
    hosts.answered = "b"
    assert hosts.kept_to
    hosts.answered = "c"
    assert not hosts.kept_to
    assert hosts.again().kept_to
