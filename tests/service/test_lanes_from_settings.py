from __future__ import annotations

import pytest

from ollama_cache_proxy.core.facts import Event
from ollama_cache_proxy.policy.lane_rules import Batches, LaneRules
from ollama_cache_proxy.service.lanes_from_settings import lanes_from
from ollama_cache_proxy.service.settings import Settings, SettingsError, load, share
from ollama_cache_proxy.service.system_clock import SystemClock


def _ignore(_: Event) -> None:
    pass


def test_without_the_setting_there_are_none() -> None:
    assert lanes_from(Settings(), SystemClock(), _ignore) is None


def test_the_rules_are_those_of_the_settings() -> None:
    settings = load(
        None,
        {
            "lanes": "interactive-first",
            "lanes_batch_for": "embeddings, category:docs, agent:py/",
            "lanes_trust_priority": True,
            "lanes_interactive_slots": 6,
            "lanes_batch_slots": 3,
            "lanes_batch_share": 0.2,
            "lanes_max_waiting": 12,
            "lanes_max_wait": 5,
            "lanes_part_seconds": 0.1,
        },
    )
    lanes = lanes_from(settings, SystemClock(), _ignore)
    assert lanes is not None
    assert lanes.rules == LaneRules(
        batches=Batches(operations=frozenset({"embeddings"}), categories=frozenset({"docs"}), agents=(b"py/",)),
        trusts_priority=True,
        interactive_slots=6,
        batch_slots=3,
        batch_share=0.2,
        max_waiting=12,
        max_wait=5,
        part_seconds=0.1,
    )


def test_defaults_are_those_of_the_rules() -> None:
    lanes = lanes_from(Settings(lanes="interactive-first"), SystemClock(), _ignore)
    assert lanes is not None
    assert lanes.rules == LaneRules(batches=Batches())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lanes", "on"),
        ("lanes_batch_for", "indexer"),
        ("lanes_batch_share", 0),
        ("lanes_batch_share", 1),
        ("lanes_interactive_slots", 0),
        ("lanes_batch_slots", 0),
        ("lanes_max_waiting", 0),
        ("lanes_max_wait", 0),
        ("lanes_part_seconds", 0),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        load(None, {name: value})


def test_workers_divide_slots_and_places() -> None:
    shared = share(Settings(workers=3, lanes_interactive_slots=7, lanes_batch_slots=2, lanes_max_waiting=30))
    assert (shared.lanes_interactive_slots, shared.lanes_batch_slots, shared.lanes_max_waiting) == (2, 1, 10)
