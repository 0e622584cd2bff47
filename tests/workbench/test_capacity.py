"""The model of `plan`, with coefficients that one can compute with in one's head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.workbench.capacity import (
    Basis,
    Coefficients,
    Cost,
    Costs,
    Demand,
    Mix,
    Part,
    Plan,
    costs,
    document,
    favouring,
    mix_of,
    plan,
)

KNOWN = Coefficients(
    noted=Cost(fixed=10, byte=0.001),
    disturbed=20,
    posed=100,
    noting=50,
    parsed=300,
    stored=Cost(fixed=20, byte=0.01),
    missed=Cost(fixed=500, byte=0.1),
    lease=Costs(proxy=200, store=10, commands=5, wire=600),
    several=1.5,
    notice=5,
    notes=1000,
    store_found=Cost(fixed=4, byte=0.001),
    store_parsed=8,
    store_missed=Cost(fixed=20, byte=0.002),
    store_notice=3,
    commands_found=0.5,
    commands_missed=2,
    wire_found=600,
    wire_missed=800,
    entry=1000,
    hot_entry=1000,
    bodies=(100, 10_000),
    entries=1_000_000,
    workers=2,
    store_busy=0.1,
)
MIX = Mix(hit=0.5, hot=0.5, noted=1, body=1000)
DEMAND = Demand(
    rate=100,
    mix=MIX,
    request=1000,
    entries=1000,
    lifetime=None,
    miss_seconds=2,
    parallel=4,
    gpus=100,
    hosts=1,
    workers=1,
    nodes=1,
    node_bytes=4e6,
    link=1e9,
)


def part(name: str, made: Plan) -> Part:
    (found,) = (one for one in made.parts if one.name == name)
    return found


@pytest.mark.parametrize(
    ("mix", "proxy", "store", "commands", "wire"),
    [
        (Mix(hit=1, hot=1, noted=1, body=1000), 11, 0, 0, 0),
        (Mix(hit=1, hot=0, noted=1, body=1000), 11 + 30, 5, 0.5, 1600),
        (Mix(hit=1, hot=1, noted=0, body=1000, again=0), 101, 0, 0, 0),
        (Mix(hit=1, hot=1, noted=0, body=1000, again=0.5), 126, 0, 0, 0),
        (Mix(hit=1, hot=0, noted=0, body=1000, again=0), 131, 5, 0.5, 1600),
        (Mix(hit=0.9, hot=1, noted=1, body=0), 0.9 * 30 + 50, 2, 0.2, 80),
        (Mix(hit=0.95, hot=1, noted=1, body=0), 0.95 * 20 + 25, 1, 0.1, 40),
        (Mix(hit=0.95, hot=1, noted=0, body=0), 0.95 * 150 + 25, 1, 0.1, 40),
        (Mix(hit=0.8, hot=0, noted=0, body=0), 0.8 * 320 + 100, 0.8 * 8 + 4, 0.8 + 0.4, 0.8 * 600 + 160),
        (Mix(hit=0.8, hot=0, noted=0.5, body=0), 0.4 * 50 + 0.4 * 320 + 100, 0.4 * 12 + 4, 0.6 + 0.4, 0.8 * 600 + 160),
        (Mix(hit=0, hot=0, noted=0, body=1000), 600, 22, 2, 1800),
        (Mix(hit=0, hot=0, noted=0, body=0), 500, 20, 2, 800),
        (Mix(hit=0, hot=0, noted=0, body=0, leased=True), 700, 30, 7, 1400),
        (Mix(hit=1, hot=1, noted=1, body=1000, leased=True), 11, 0, 0, 0),
    ],
)
def test_a_request_costs_what_becomes_of_it(mix: Mix, proxy: float, store: float, commands: float, wire: float) -> None:
    found = costs(mix, KNOWN, processes=1, several=False)
    assert (found.proxy, found.store) == (pytest.approx(proxy), pytest.approx(store))
    assert (found.commands, found.wire) == (pytest.approx(commands), pytest.approx(wire))


def test_each_other_process_hears_of_each_write_and_several_workers_cost_more() -> None:
    mix = Mix(hit=0, hot=0, noted=0, body=1000)
    found = costs(mix, KNOWN, processes=4, several=True)
    assert (found.proxy, found.store) == (pytest.approx(1.5 * 600 + 3 * 5), pytest.approx(22 + 3 * 3))
    untold = costs(replace(mix, tier=False), KNOWN, processes=4, several=True)
    assert (untold.proxy, untold.store) == (pytest.approx(1.5 * 600), pytest.approx(22))


@pytest.mark.parametrize(
    ("entries", "hot", "noted", "again"),
    [
        (0, 1, 1, 1),
        (100, 1, 1, 1),
        (1000, 1, 1, 1),
        (2000, 0.5, 0.5, 1),
        (17_384, 1000 / 17_384, 1000 / 17_384, 0.5),
        (1e9, 1e-6, 1e-6, 8192 / (1e9 - 1000)),
    ],
)
def test_hot_tier_and_notes_have_the_share_that_they_have_room_for(
    entries: float, hot: float, noted: float, again: float
) -> None:
    found = mix_of(hit=0.5, body=1000, entries=entries, hot_bytes=2_000_000, known=KNOWN)
    assert (found.hot, found.noted, found.again) == (pytest.approx(hot), pytest.approx(noted), pytest.approx(again))
    assert found.tier
    assert not mix_of(hit=0.5, body=1000, entries=entries, hot_bytes=0, known=KNOWN).tier


@pytest.mark.parametrize(("hot", "noted"), [(0.5, 1), (0.25, 0.6), (0.1, 0.24)])
def test_who_is_asked_for_more_often_is_noted_more_often(hot: float, noted: float) -> None:
    found = favouring(Mix(hit=0.5, hot=0.25, noted=0.6, body=0), hot)
    assert (found.hot, found.noted) == (hot, pytest.approx(noted))


@pytest.mark.parametrize(
    ("name", "busy", "needed", "full_at"),
    [
        ("GPUs", 0.25, 36, 400),
        ("Proxy workers", 0.0323, 1, 3095.98),
        ("Store, cores", 0.001225, 1, 81632.7),
        ("Store, memory", 0.5, 1, None),
        ("Network, proxies", 0.00028, 1, 357142.9),
        ("Network, store", 0.00013, 1, 769230.8),
    ],
)
def test_each_part_is_as_busy_as_its_load_makes_it(name: str, busy: float, needed: int, full_at: float | None) -> None:
    found = part(name, plan(DEMAND, KNOWN))
    assert found.busy == pytest.approx(busy)
    assert found.needed == needed
    assert found.full_at == (None if full_at is None else pytest.approx(full_at, rel=1e-4))


@pytest.mark.parametrize(
    ("changed", "first", "full_at"),
    [
        ({}, "GPUs", 400),
        ({"gpus": 10_000}, "Proxy workers", 3095.98),
        ({"gpus": 10_000, "hosts": 100, "workers": 10, "link": 1e5}, "Network, store", 76.9),
        ({"lifetime": 20, "node_bytes": 4e5}, "Store, memory", 20),
        ({"node_bytes": 1e6}, "Store, memory", None),
    ],
)
def test_the_part_that_is_full_first_is_named(changed: dict[str, Any], first: str, full_at: float | None) -> None:
    found = plan(replace(DEMAND, **changed), KNOWN).first
    assert found.name == first
    assert found.full_at == (None if full_at is None else pytest.approx(full_at, rel=1e-3))


@pytest.mark.parametrize("rate", [1, 100, 1000, 10_000, 100_000])
@pytest.mark.parametrize("hit", [0, 0.5, 0.9, 1])
def test_with_what_is_needed_nothing_is_busier_than_the_target_and_with_one_less_it_is(rate: float, hit: float) -> None:
    asked = replace(DEMAND, rate=rate, mix=replace(MIX, hit=hit), workers=2)
    made = plan(asked, KNOWN)
    workers, nodes = part("Proxy workers", made).needed, part("Store, cores", made).needed
    assert nodes is not None
    if workers is None:
        assert asked.misses * KNOWN.notice >= 0.7e6
        return
    assert made.hosts == -(-workers // 2)

    def busy(count: int) -> float:
        return rate * costs(asked.mix, KNOWN, processes=count, several=True).proxy / 1e6 / count

    assert busy(workers) <= 0.7 + 1e-9
    assert workers == 1 or busy(workers - 1) > 0.7 - 1e-9
    store = rate * costs(asked.mix, KNOWN, processes=workers, several=True).store / 1e6
    assert store / nodes <= 0.7 + 1e-9


def test_more_workers_do_not_help_where_each_is_busy_with_notices() -> None:
    made = plan(replace(DEMAND, rate=300_000), KNOWN)
    assert (part("Proxy workers", made).needed, made.hosts) == (None, None)
    assert plan(replace(DEMAND, rate=300_000, mix=replace(MIX, tier=False)), KNOWN).hosts is not None


@pytest.mark.parametrize(
    ("changed", "measured"),
    [
        ({}, {"Proxy workers", "Store, cores", "Store, memory", "Network, proxies", "Network, store"}),
        ({"entries": 2_000_000}, set()),
        ({"mix": replace(MIX, body=99)}, set()),
        ({"mix": replace(MIX, body=10_001)}, set()),
        ({"hosts": 3}, {"Store, memory", "Network, proxies", "Network, store"}),
        ({"nodes": 2}, {"Proxy workers", "Network, proxies"}),
        ({"rate": 10_000}, {"Store, memory", "Network, proxies", "Network, store"}),
    ],
)
def test_only_what_was_measured_is_called_so(changed: dict[str, Any], measured: set[str]) -> None:
    made = plan(replace(DEMAND, **changed), KNOWN)
    assert {one.name for one in made.parts if one.basis is Basis.MEASURED} == measured
    assert part("GPUs", made).basis is Basis.GIVEN


def test_hits_alone_need_no_more_than_one_of_each() -> None:
    made = plan(replace(DEMAND, mix=replace(MIX, hit=1)), KNOWN)
    assert {one.needed for one in made.parts} == {1}
    assert part("GPUs", made).full_at is None


def test_the_document_has_every_figure() -> None:
    made = plan(DEMAND, KNOWN)
    found = document(made)
    assert (found["first"], found["missesPerSecond"], found["storeBytes"]) == ("GPUs", 50, 2_000_000)
    assert [one["name"] for one in found["parts"]] == [one.name for one in made.parts]
    assert found["parts"][0] == {
        "name": "GPUs",
        "have": 100,
        "needed": 36,
        "busy": 0.25,
        "fullAt": 400,
        "basis": "your figures",
    }
