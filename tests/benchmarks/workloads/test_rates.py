"""The computed hits of a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.workloads.rates import Bounded, Cache, Expiring, Idle, Tally, Versions, count, shared_beginning
from benchmarks.workloads.requests import Asked
from ollama_cache_proxy.policy.lifetimes import renewals_of
from ollama_cache_proxy.policy.reuse import NO_DIRECTIVES, Hit, reuse
from ollama_cache_proxy.stores.memory import MemoryStore
from tests.support.clocks import Clock
from tests.support.entries import ENTRY


def embed(*texts: str, at: int = 0) -> Asked:
    return Asked(at=at, category="embed", texts=texts)


def explain(text: str, at: int = 0) -> Asked:
    return Asked(at=at, category="explain", texts=(text,))


def test_a_list_costs_what_is_not_known_of_it() -> None:
    tallies = count([embed("a", "b")], [embed("a", "c"), embed("b", "c"), explain("a")], Cache(Expiring()))
    tally = tallies.by_category["embed"]
    assert tally == Tally(requests=2, request_hits=1, items=4, item_hits=3)
    assert (tally.by_item, tally.by_request) == (75.0, 50.0)
    assert tallies.by_category["explain"] == Tally(requests=1, request_hits=0, items=1, item_hits=0)
    assert tallies.overall == Tally(requests=3, request_hits=1, items=5, item_hits=3)
    assert tallies.by_category["fix"].by_item is None


def test_lists_as_a_whole_know_only_the_same_list() -> None:
    asked = [embed("a", "b"), embed("b", "a"), embed("a", "b")]
    tally = count([], asked, Cache(Expiring(), itemwise=False)).by_category["embed"]
    assert tally == Tally(requests=3, request_hits=1, items=6, item_hits=2)


def test_a_text_that_is_there_twice_is_asked_for_once() -> None:
    cache = Cache(Expiring())
    assert cache.ask(embed("a", "b", "a")) == ("a", "b")
    assert cache.ask(embed("b", "a")) == ()


def test_a_text_alone_needs_its_own_count_of_tokens() -> None:
    cache = Cache(Expiring())
    assert cache.ask(embed("a", "b")) == ("a", "b")
    assert cache.ask(embed("a")) == ("a",)
    assert cache.ask(embed("a")) == ()
    assert cache.ask(embed("a", "c")) == ("c",)  # asked for alone, so it is exact
    assert cache.ask(embed("c")) == ()


def test_what_a_list_brings_again_has_no_count_of_its_own_any_more() -> None:
    cache = Cache(Expiring(60))
    assert [cache.ask(embed(*texts, at=at)) for at, texts in ((0, "a"), (100, "ab"), (101, "a"))] == [
        ("a",),
        ("a", "b"),
        ("a",),
    ]


@pytest.mark.parametrize("age", [0, 59, 60, 61])
def test_a_lifetime_ends_when_the_proxy_says_so(age: int) -> None:
    kept = Expiring(60)
    kept.store("a", 1_000, 1)
    entry = replace(ENTRY, stored_at=1_000, lifetime=60)
    assert kept.knows("a", 1_000 + age) == isinstance(reuse(entry, NO_DIRECTIVES, 1_000 + age), Hit)


def test_a_hit_does_not_lengthen_a_lifetime() -> None:
    cache = Cache(Expiring(60))
    assert [cache.ask(explain("a", at=at)) for at in (0, 50, 70, 100)] == [("a",), (), ("a",), ()]


@pytest.mark.parametrize(
    "gaps", [(19,), (20,), (19, 19, 19), (19, 19, 20), (19,) * 5 + (4,), (19,) * 5 + (5,), (21, 5)]
)
def test_a_hit_renews_an_idle_entry_as_the_proxy_does(gaps: tuple[int, ...]) -> None:
    clock, kept = Clock(), Idle(20, 100)
    memory = MemoryStore(1 << 20, clock=clock)
    entry = replace(ENTRY, stored_at=clock.time, lifetime=100, idle=20)
    kept.store("a", int(clock.time), 1)
    memory.add("a", entry)
    for gap in gaps:
        clock.time += gap
        known = memory.held("a") is not None
        assert kept.knows("a", int(clock.time)) == known
        if known:
            memory.renew(renewals_of([("a", entry)]))


def test_a_new_version_knows_nothing_of_the_one_before() -> None:
    cache = Cache(Versions(Expiring, 100))
    assert [cache.ask(explain("a", at=at)) for at in (120, 199, 200, 299, 300)] == [("a",), (), ("a",), (), ("a",)]


def test_what_was_asked_for_longest_ago_leaves_first() -> None:
    kept = Bounded(20)
    cache = Cache(kept, sizes={"explain": 10})
    assert [cache.ask(explain(text)) for text in "abab"] == [("a",), ("b",), (), ()]
    assert cache.ask(explain("a")) == ()
    assert cache.ask(explain("c")) == ("c",)
    assert cache.ask(explain("a")) == ()
    assert cache.ask(explain("b")) == ("b",)
    assert (kept.held, kept.entries, kept.evicted) == (20, 2, 2)


def test_the_beginning_that_prompts_share() -> None:
    assert shared_beginning(["abcd", "abxy", "abx"]) == round(100 * 5 / 11, 1)
    assert shared_beginning([]) is None
