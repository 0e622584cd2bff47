"""Reuse distances, beside those that are counted exactly."""

from __future__ import annotations

import random

from ollama_cache_proxy.policy.forecast.distances import Distances

NEAR = 8_000


def exact(order: list[int], sizes: dict[int, int], key: int) -> int:
    """The bytes of the keys that were used after this one."""
    return sum(sizes[other] for other in order[order.index(key) + 1 :])


def test_distances_are_those_of_an_exact_count_but_for_a_fiftieth_of_all_bytes() -> None:
    source = random.Random(1)
    distances, order, places = Distances(NEAR), [], {}
    sizes = {key: source.randint(100, 9_000) for key in range(400)}
    for step in range(6_000):
        key = min(int(source.expovariate(0.01)), 399)
        if key in places:
            if step > 1_000:
                slack = distances.total / 50 + NEAR
                assert abs(distances.distance(places[key]) - exact(order, sizes, key)) <= slack
            if places[key] >= distances.front:
                continue  # it is near enough to the newest to stay where it is
            order.remove(key)
            distances.remove(places[key], sizes[key])
        places[key] = distances.add(sizes[key])
        order.append(key)
    assert distances.total == sum(sizes[key] for key in places)


def test_what_is_near_has_no_distance() -> None:
    distances = Distances(NEAR)
    places = [distances.add(100) for _ in range(5_000)]
    assert distances.distance(places[-1]) == 0
    assert distances.distance(places[-NEAR // 100 // 2]) == 0
    assert distances.distance(places[0]) > 400_000


def test_buckets_stay_few_whatever_is_used() -> None:
    distances = Distances(NEAR)
    for size in (1, 50_000, 7, 1_000_000) * 5_000:
        distances.add(size)
    assert len(distances._last) <= 300


def test_a_use_is_a_look_at_the_distance_and_a_move_to_the_front() -> None:
    one, other = Distances(NEAR), Distances(NEAR)
    for both in (one, other):
        places = [both.add(100) for _ in range(5_000)]
    distance, place = one.use(places[10], 100)
    assert distance == other.distance(places[10])
    other.remove(places[10], 100)
    assert place == other.add(100)
    assert one.total == other.total == 500_000
    assert one.distance(places[0]) == other.distance(places[0])
