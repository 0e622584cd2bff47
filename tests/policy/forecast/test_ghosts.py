"""Ghosts: which keys are sampled, and under which settings each is known."""

from __future__ import annotations

import tracemalloc
from zlib import crc32

import pytest

from ollama_cache_proxy.policy.forecast.ghosts import (
    ALL,
    BYPASSED,
    COMPLETIONS,
    DAY,
    EMBEDDINGS,
    FIXED,
    HOUR,
    IDLE,
    MOST,
    NEVER,
    NOW,
    PLAIN,
    ROOM,
    SCALE,
    SHARED,
    Ghosts,
)
from ollama_cache_proxy.policy.forecast.traffic_sample import Asked, TrafficSample

BEGIN = 1_700_000_000


def fixed(lifetime: int) -> int:
    return NOW << 1 + FIXED.index(lifetime)


def idle(lifetime: int) -> int:
    return NOW << 1 + len(FIXED) + IDLE.index(lifetime)


def stored(ghosts: Ghosts, key: int = 1, until: int = BEGIN + DAY) -> int:
    slot = ghosts.add(key, 0)
    assert slot is not None
    ghosts.link(slot, None, None)
    ghosts.keep(slot, BEGIN, 0, stored=BEGIN, until=until, size=1000)
    return slot


@pytest.mark.parametrize(
    ("later", "ended"),
    [
        (0, 0),
        (HOUR - 1, 0),
        (HOUR, fixed(HOUR) | idle(HOUR)),
        (DAY - 1, fixed(HOUR) | idle(HOUR) | fixed(6 * HOUR) | idle(6 * HOUR)),
        (90 * DAY, ALL & ~NEVER),
    ],
)
def test_a_ghost_is_known_as_long_as_each_lifetime_says(later: int, ended: int) -> None:
    ghosts = Ghosts()
    slot = stored(ghosts)
    assert ghosts.fresh(slot, BEGIN + later) == ALL & ~ended


def test_a_hit_renews_what_ends_when_it_is_idle_and_nothing_else() -> None:
    ghosts = Ghosts()
    slot = stored(ghosts)
    for later in range(HOUR // 2, 25 * HOUR, HOUR // 2):
        ghosts.touch(slot, BEGIN + later)
    found = ghosts.fresh(slot, BEGIN + 25 * HOUR)
    assert found & idle(HOUR)
    assert not found & (fixed(DAY) | NOW)


def test_an_idle_ghost_ends_in_the_end() -> None:
    ghosts = Ghosts()
    slot = stored(ghosts)
    for later in range(0, MOST, HOUR // 2):
        ghosts.touch(slot, BEGIN + later)
    assert ghosts.fresh(slot, BEGIN + MOST - 1) & idle(HOUR)
    assert not ghosts.fresh(slot, BEGIN + MOST) & idle(HOUR)


def test_what_is_stored_again_is_so_only_under_the_settings_that_did_not_know_it() -> None:
    ghosts = Ghosts()
    slot = stored(ghosts)
    mask = ghosts.fresh(slot, BEGIN + 2 * HOUR)
    ghosts.keep(slot, BEGIN + 2 * HOUR, mask, stored=BEGIN + 2 * HOUR, until=None, size=1000)
    later = ghosts.fresh(slot, BEGIN + 6 * HOUR)
    assert not later & fixed(6 * HOUR), "stored at the beginning"
    later = ghosts.fresh(slot, BEGIN + 3 * HOUR - 1)
    assert later & fixed(HOUR), "stored two hours later"


@pytest.mark.parametrize(("bit", "place"), [(SHARED, 0), (PLAIN, 1)])
def test_ghosts_that_would_be_one_know_what_the_other_has_stored(bit: int, place: int) -> None:
    ghosts = Ghosts()
    one, other, both = (ghosts.add(key, 0) for key in (1, 2, 3))
    assert one is not None
    assert other is not None
    linked = [None, None]
    linked[place] = both
    ghosts.link(one, *linked)
    ghosts.link(other, *linked)
    ghosts.keep(one, BEGIN, 0, stored=BEGIN, until=BEGIN + DAY, size=1000)
    assert ghosts.fresh(other, BEGIN + 1) == bit
    assert ghosts.fresh(other, BEGIN + DAY) == 0


def test_the_sample_halves_when_the_room_is_used_up_and_what_stays_is_below_the_limit() -> None:
    ghosts = Ghosts(1000)
    for key in range(20_000):
        ghosts.add(key, crc32(b"%d" % key))
        assert len(ghosts.slots) <= 1100
    assert ghosts.limits[EMBEDDINGS] in {SCALE // 16, SCALE // 32}
    for _ in range(1000):  # so that all that has to go has gone
        ghosts.add(0, crc32(b"0"))
    expected = {key for key in range(20_000) if crc32(b"%d" % key) < ghosts.limits[EMBEDDINGS]}
    assert {key for key in ghosts.slots if crc32(b"%d" % key) >= ghosts.limits[EMBEDDINGS]} == set()
    assert len(expected - ghosts.slots.keys()) < len(expected) / 4, "some came while room was made"


def test_slots_of_dropped_ghosts_are_used_again_and_empty() -> None:
    ghosts = Ghosts(100)
    for key in range(10_000):
        slot = ghosts.add(key, key % 7 * (SCALE // 7))
        if slot is not None:
            ghosts.link(slot, None, None)
            assert ghosts.fresh(slot, BEGIN) == 0
            ghosts.keep(slot, BEGIN, 0, stored=BEGIN, until=BEGIN + DAY, size=10)
    assert len(ghosts._hash) <= 110
    assert ghosts.distances.total == 10 * len(ghosts.slots)


def test_all_of_it_stays_within_its_room() -> None:
    tracemalloc.start()
    try:
        sample = TrafficSample(BEGIN)
        for number in range(18_000):
            hashed = crc32(b"%d" % number)

            def hash_of(_place: int, hashed: int = hashed) -> int:
                return hashed

            def alike(_place: int) -> tuple[int | None, int | None]:
                return None, None

            keys, now = [number + 1 << 48 | hashed], BEGIN + number  # up to 64 bits
            sample.add(
                Asked(embedding=True, keys=keys, known=[False], hashed=hash_of, alike=alike, now=now, stored=True)
            )
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sample.ghosts.rate(EMBEDDINGS) < 1
    assert most <= ROOM


def test_the_limit_halves_of_the_kind_that_takes_the_most_room_and_few_keys_of_another_stay() -> None:
    ghosts = Ghosts(1000)
    for key in range(200):
        ghosts.add(-1 - key, SCALE - 1, COMPLETIONS)
    for key in range(20_000):
        ghosts.add(key, crc32(b"%d" % key), EMBEDDINGS)
    assert ghosts.rate(EMBEDDINGS) < 1 / 8
    assert ghosts.rate(COMPLETIONS) == 1
    assert sum(key < 0 for key in ghosts.slots) == 200


def test_few_keys_of_a_second_are_looked_at_where_they_come_fast() -> None:
    """A burst is, as a whole; then as many as fit into each second, and less of all of them where they are more."""
    ghosts = Ghosts()
    hashes = [crc32(b"%d" % number) for number in range(40_000)]
    burst = [ghosts.admits(COMPLETIONS, hashed, now=7) for hashed in hashes[:1000]]
    assert all(burst)
    assert ghosts.rate(COMPLETIONS) == 1
    for second in range(8, 20):  # 2,000 of each are more than 100
        found = [ghosts.admits(COMPLETIONS, hashed, now=second) for hashed in hashes[1000 + second :][:2000]]
    assert 50 <= sum(found) <= 100
    assert ghosts.rate(COMPLETIONS) == 1 / 32
    assert [ghosts.rate(kind) for kind in (EMBEDDINGS, BYPASSED)] == [1, 1]


def test_a_hundred_keys_a_second_are_all_looked_at() -> None:
    ghosts = Ghosts()
    for second in range(100):
        for number in range(100):
            assert ghosts.admits(BYPASSED, crc32(b"%d %d" % (second, number)), now=second)
    assert ghosts.rate(BYPASSED) == 1
