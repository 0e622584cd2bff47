from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.stable_prefix import BUILT_IN, CLAUDE_CODE
from ollama_cache_proxy.service.prefix_tables import PrefixTable, chosen_rules
from ollama_cache_proxy.service.settings import SettingsError, load, packed, unpacked

OWN = {"path": "system[0].text", "pattern": "^Turn ([0-9]+)", "client": "agent/"}


def test_rules_are_chosen_by_name_in_the_order_of_the_setting() -> None:
    own = {"own": PrefixTable(**OWN)}
    first, second = chosen_rules(("own", "claude-code", "own"), own)
    assert (first.name, first.client, first.paths) == ("own", b"agent/", (("system", 0, "text"),))
    assert second is CLAUDE_CODE
    assert chosen_rules((), own) == ()


def test_each_rule_that_is_built_in_names_client_versions_endpoint_and_source() -> None:
    for name, rule in BUILT_IN.items():
        assert rule.name == name
        assert rule.client
        assert rule.since is not None
        assert rule.before is not None
        assert rule.dialect is not None
        assert rule.source
        assert rule.pattern.groups


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"claude-code": OWN}, "built in"),
        ({"own": {**OWN, "path": "[0]"}}, "own: .* is no path"),
        ({"own": {**OWN, "pattern": "Turn ([0-9]+)"}}, "own: its pattern must begin with"),
        ({"own": {"path": "system"}}, "pattern"),
        ({"own": {**OWN, "move": True}}, "move"),
    ],
)
def test_a_table_that_is_no_rule_is_refused(tables: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load(None, {"stable_prefix_rules": tables})


def test_workers_get_the_rules_of_the_supervisor() -> None:
    settings = load(None, {"stable_prefix": ["own"], "stable_prefix_rules": {"own": OWN}})
    again = unpacked(packed(settings))
    assert again.stable_prefix_rules == settings.stable_prefix_rules
    assert chosen_rules(again.stable_prefix, again.stable_prefix_rules)[0].name == "own"
