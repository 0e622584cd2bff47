"""A sample of traffic: what is counted of each request, and what a synthetic trace says beside a replay."""

from __future__ import annotations

import random
from zlib import crc32

import pytest

from ollama_cache_proxy.policy.forecast.ghosts import ALL, DAY, EMBEDDINGS, FIXED, HOUR, NEVER, NOW, PLAIN
from ollama_cache_proxy.policy.forecast.outlook import InForce, forecast
from ollama_cache_proxy.policy.forecast.traffic_sample import (
    SIZES,
    Asked,
    Counts,
    Outcome,
    Totals,
    TrafficSample,
    outcome,
)
from ollama_cache_proxy.policy.steps import A_STEP

BEGIN = 1_700_000_000
FORCE = InForce(lifetime="idle", ttl_embedding=DAY, ttl_completion=DAY, room=None, room_setting="")


def alike(_place: int) -> tuple[int | None, int | None]:
    return None, None


def asked(*keys: int, known: bool = False, at: int = 0, **more: object) -> Asked:
    found = Asked(
        embedding=True,
        keys=keys,
        known=[known] * len(keys),
        hashed=lambda _: 0,
        alike=alike,
        now=BEGIN + at,
        until=BEGIN + at + DAY,
        ends=BEGIN + at + DAY,
        stored=True,
        saved=2.0,
        spent=3.0,
    )
    for name, value in more.items():
        setattr(found, name, value)
    return found


def counted(counts: Counts) -> list[tuple[Outcome, float]]:
    return [(outcome(name), weight) for name, (weight, _) in counts.items()]


def masks(sample: TrafficSample) -> list[int]:
    return [found.mask for found, _ in counted(sample.embeddings.items)]


def test_a_first_request_would_have_been_known_under_no_setting() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1))
    assert counted(sample.embeddings.items) == [(Outcome(known=False, size=0, mask=0), 1)]
    assert sample.embeddings.items.popitem()[1] == [1, 3.0], "it took Ollama three seconds"


def test_the_next_one_would_have_been_under_those_that_last_long_enough() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1))
    sample.add(asked(1, at=2 * DAY))
    longer = [NOW << 1 + place for place, lifetime in enumerate(FIXED) if lifetime > 2 * DAY]
    assert all(masks(sample)[1] & bit for bit in (*longer, NEVER))
    assert not masks(sample)[1] & (NOW | NOW << 3)


def test_hits_that_say_nothing_new_are_counted_by_their_number() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1, embedding=False))
    assert sample.again((1,), BEGIN + HOUR - 1, 2.0, 5, embedding=False) == []
    assert len(sample.completions.items) == 1, "all settings would have had them"
    totals = sample.completions.totals
    assert (totals.items, totals.item_hits, totals.saved, totals.spent) == (6, 5, 10.0, 3.0)


def test_more_has_to_be_known_of_hits_that_some_setting_would_not_have_had() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1))
    assert sample.again((1, 2), BEGIN + HOUR, 2.0, embedding=True) == [0, 1]
    sample.add(asked(1, 2, known=True, at=HOUR, age=HOUR), [0, 1])
    assert not masks(sample)[1] & NOW << 1
    assert sample.embeddings.totals.items == 3, "none is counted twice"


def test_a_list_is_known_as_a_whole_where_all_of_its_texts_are() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1))
    sample.add(asked(1, 2))
    sample.add(asked(1, 2, known=True))
    assert [(found.known, found.mask) for found, _ in counted(sample.embeddings.requests)][1:] == [(True, ALL)]


def test_what_was_not_stored_is_not_remembered() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1, stored=False))
    sample.add(asked(1))
    assert set(masks(sample)) == {0}


def test_a_request_that_says_no_cache_is_known_under_no_setting_and_stores_anew() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1))
    sample.add(asked(1, at=HOUR, forced=True))
    sample.add(asked(1, at=HOUR + 1, known=True))
    assert masks(sample) == [0, ALL]


def test_what_was_stored_before_the_sample_began_is_known_by_its_age() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1, known=True, age=2 * HOUR))
    (mask,) = masks(sample)
    assert mask & NOW
    assert not mask & NOW << 1, "an hour"
    assert mask & NOW << 2, "six hours"


def test_a_single_text_needs_a_token_count_of_its_own() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1, 2))
    sample.add(asked(1, alone=True, exact=True))
    sample.add(asked(1, alone=True, exact=True, known=True))
    assert masks(sample) == [0, ALL]


def test_a_new_generation_forgets_what_was_stored() -> None:
    sample = TrafficSample(BEGIN)
    sample.note_generation("one")
    sample.add(asked(1))
    sample.note_generation(None)
    sample.note_generation("one")
    assert sample.ghosts.slots
    sample.note_generation("two")
    sample.add(asked(1))
    assert masks(sample) == [0]


def test_texts_that_occur_twice_count_twice() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1, 2, weights=[3, 1]))
    assert sample.embeddings.totals.items == 4
    assert [weight for _, weight in counted(sample.embeddings.items)] == [4]


def test_a_bypassed_request_would_have_been_a_hit_within_its_lifetime() -> None:
    sample = TrafficSample(BEGIN)
    name = ("chat", "always", False)
    for at in (0, HOUR - 1, HOUR, HOUR + 1):
        sample.passed(name, 7, 0, BEGIN + at, seconds=4.0, ttl=HOUR)
    found = sample.unused[name]
    assert (found.requests, found.hits, found.saved) == (4, 2, 8.0)


class Store:
    """A store of the entries that were used last, up to so many, each for so many seconds from storing."""

    def __init__(self, entries: int, lifetime: float) -> None:
        self._entries, self._lifetime = entries, lifetime
        self._stored: dict[int, int] = {}

    def ask(self, key: int, now: int) -> bool:
        stored = self._stored.pop(key, None)
        known = stored is not None and now - stored < self._lifetime
        self._stored[key] = stored if known and stored is not None else now
        if len(self._stored) > self._entries:
            del self._stored[next(iter(self._stored))]
        return known


SIZE = 1 << 16
REQUESTS = 60_000
ENDLESS = float("inf")


def trace(seed: int) -> list[tuple[int, int]]:
    """Keys that are asked for at times: a few often, many seldom, and new ones all the time."""
    source = random.Random(seed)
    found = []
    for number in range(REQUESTS):
        key = int(source.paretovariate(0.6)) if source.random() < 0.8 else -number - 1
        found.append((key % 50_000 if key > 0 else key, BEGIN + number * 20))
    return found


@pytest.mark.parametrize("capacity", [8_000, 2_000])
def test_forecasts_of_a_trace_are_within_two_points_of_a_replay(capacity: int) -> None:
    requests = trace(3)
    sample, now_stored = TrafficSample(BEGIN, capacity), Store(1 << 30, DAY)
    for key, now in requests:

        def hashed(_place: int, key: int = key) -> int:
            return crc32(b"%d" % key)

        known = now_stored.ask(key, now)
        sample.add(asked(key, known=known, at=now - BEGIN, hashed=hashed, size=SIZE - 640))
    assert sample.ghosts.rate(EMBEDDINGS) < 1
    found = forecast(sample, FORCE, BEGIN + REQUESTS * 20)["embeddings"]
    rows = {(row["lifetime"], row["ttl"]): row["texts"] for row in found["lifetimes"]}
    for lifetime in (HOUR, 6 * HOUR, DAY, 7 * DAY):
        real = replayed(requests, Store(1 << 30, lifetime))
        assert rows["fixed", lifetime] == pytest.approx(real, abs=2)
    assert rows["until-evicted", None] == pytest.approx(replayed(requests, Store(1 << 30, ENDLESS)), abs=2)
    for row in found["sizes"]:
        real = replayed(requests, Store(row["bytes"] // SIZE, DAY))
        assert row["texts"] == pytest.approx(real, abs=2), row
    assert len(found["sizes"]) >= 2
    assert found["sizes"][-1]["bytes"] <= SIZES[-1]


def replayed(requests: list[tuple[int, int]], store: Store) -> float:
    return 100 * sum(store.ask(key, now) for key, now in requests) / len(requests)


def test_the_equal_texts_of_a_long_list_are_all_looked_up_before_any_is_stored() -> None:
    """As by the cache; the sample takes a list in steps."""
    sample, keys = TrafficSample(BEGIN), range(1, 2 * A_STEP)
    sample.add(asked(*keys, alike=lambda _: (None, 0)))
    assert {found.mask & PLAIN for found, _ in counted(sample.embeddings.items)} == {0}
    sample.add(asked(*keys, known=True, alike=lambda _: (None, 0), at=1))
    assert all(found.mask & PLAIN for found, _ in counted(sample.embeddings.items) if found.known)


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("stored", [True, False])
def test_a_request_outside_of_the_sample_counts_as_in_it(embedding: bool, stored: bool) -> None:
    inside, outside = TrafficSample(BEGIN), TrafficSample(BEGIN)
    inside.add(asked(1, embedding=embedding, stored=stored, spent=2.5))
    kind = outside.embeddings if embedding else outside.completions
    outside.ghosts.limits = [5] * 3
    assert outside.admits(1, 4, BEGIN, embedding=embedding)
    assert not outside.admits(2, 5, BEGIN, embedding=embedding)
    assert kind.totals == Totals()
    outside.missed(2.5, stored=stored, embedding=embedding)
    assert kind.totals == (inside.embeddings if embedding else inside.completions).totals


def test_a_key_in_the_sample_stays_however_fast_others_come() -> None:
    sample = TrafficSample(BEGIN)
    sample.add(asked(1, embedding=False))
    sample.ghosts.limits = [0] * 3
    assert sample.admits(1, 7, BEGIN, embedding=False)
