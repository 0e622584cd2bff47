from __future__ import annotations

from io import StringIO

import pytest

from ollama_cache_proxy.core.facts import (
    KINDS,
    NOTHING,
    Event,
    Exchange,
    Health,
    OwnRefusal,
    Part,
    Saved,
    fan_out,
)
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.status import Detail, bypass
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.stores.memory import MemoryValues
from ollama_cache_proxy.telemetry.log import Log, Style
from ollama_cache_proxy.telemetry.recent import Recent
from ollama_cache_proxy.telemetry.statistics import Statistics


def test_everyone_is_told_in_order() -> None:
    told: list[tuple[str, object]] = []
    event = Health(part=Part.STORE, well=True, name="x")
    fan_out([lambda event: told.append(("a", event)), lambda event: told.append(("b", event))])(event)
    assert told == [("a", event), ("b", event)]


def test_who_takes_some_kinds_of_facts_is_told_of_no_others() -> None:
    class OfHealth:
        takes = frozenset({Health})

        def __init__(self) -> None:
            self.told: list[Event] = []

        def __call__(self, event: Event) -> None:
            self.told.append(event)

    some, all_of_them = OfHealth(), []
    health, other = Health(part=Part.STORE, well=True, name="x"), OwnRefusal(detail=Detail.HOST)
    observe = fan_out([some, all_of_them.append])
    observe(health)
    observe(other)
    assert (some.told, all_of_them) == ([health], [health, other])


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.__name__))
def test_nobody_does_anything_with_a_kind_of_fact_that_is_not_taken(kind: type) -> None:
    """A fact that is no such kind would raise where it is looked into: it has no fields."""
    observers = (
        Log(StringIO(), style=Style.PLAIN, development=False, requests=False, clock=SystemClock()),
        Recent(lambda: 0.0),
        Statistics(MemoryValues(), tasks=Tasks()),
    )
    for observer in observers:
        if kind not in observer.takes:
            observer(kind.__new__(kind))


def test_an_exchange_saves_nothing_unless_it_says_so():
    exchange = Exchange(
        method="GET",
        operation="tags",
        model="",
        cache=bypass(Detail.ENDPOINT),
        status=200,
        seconds=0.1,
        first_byte=None,
        bytes_sent=0,
    )
    assert exchange.saved == NOTHING == Saved(seconds=0.0, prompt_tokens=0, output_tokens=0)
    assert (exchange.prompt_tokens, exchange.output_tokens, exchange.category) == (None, None, "")
