"""The lanes in front of Ollama, if the settings ask for them."""

from __future__ import annotations

import secrets

from ollama_cache_proxy.core.facts import Observer
from ollama_cache_proxy.core.lanes import Lanes
from ollama_cache_proxy.core.ports import Clock, Siblings
from ollama_cache_proxy.policy.lane_rules import LaneRules, batches
from ollama_cache_proxy.service.settings import Settings


def lanes_from(settings: Settings, clock: Clock, observe: Observer, siblings: Siblings | None = None) -> Lanes | None:
    """Return the lanes; None where they are off. `siblings` are the other workers of this proxy."""
    if settings.lanes == "off":
        return None
    rules = LaneRules(
        batches=batches(settings.lanes_batch_for),
        trusts_priority=settings.lanes_trust_priority,
        interactive_slots=settings.lanes_interactive_slots,
        batch_slots=settings.lanes_batch_slots,
        batch_share=settings.lanes_batch_share,
        max_waiting=settings.lanes_max_waiting,
        max_wait=settings.lanes_max_wait,
        part_seconds=settings.lanes_part_seconds,
    )
    return Lanes(rules, key=secrets.token_bytes(16), clock=clock, observe=observe, siblings=siblings)
