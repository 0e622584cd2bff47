"""Requests through a real proxy and a real store, compared with the computed hits."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from benchmarks.workloads import costs, figures
from benchmarks.workloads.ollama import Pace
from benchmarks.workloads.replay import replay
from benchmarks.workloads.requests import Asked
from ollama_cache_proxy.simulator import Received


def asked(category: str, *texts: str) -> Asked:
    return Asked(at=0, category=category, texts=texts)


BEFORE = [asked("embed", "a", "b")]
ASKED = [
    asked("embed", "a", "c", "b", "a"),
    asked("embed", "c", "b"),
    asked("embed", "a"),
    asked("embed", "a"),
    asked("explain", "a"),
    asked("fix", "a"),
    asked("explain", "a"),
]
KNOWN = [3, 2, 0, 1, 0, 0, 1]


async def test_the_proxy_knows_what_arithmetic_says() -> None:
    steps: list[int] = []
    measured = await replay(BEFORE, ASKED, seed=1, scale=0.01, step=lambda: steps.append(1))
    assert [row.known for row in measured.rows] == [row.expected for row in measured.rows] == KNOWN
    assert len(steps) == len(BEFORE) + 2 * len(ASKED)
    # Each text alone is an entry; the answers to two questions are others.
    assert measured.evicted == 0
    assert measured.sizes["embed"] > measured.sizes["fix"] > 0
    assert measured.memory > measured.empty
    for row in measured.rows:
        assert row.direct >= 0.01 * row.ollama_direct
        assert row.cached >= 0.01 * row.ollama_cached
        assert row.ollama_cached == 0 if row.known == row.items else row.ollama_cached > 0
    figured = figures.replayed(measured)
    assert figured["unlike"] == 0
    assert figured["groups"]["explain"]["by_request"] == figured["groups"]["explain"]["derived_by_request"] == 50.0
    assert figured["groups"]["embed"]["by_item"] == round(100 * 6 / 8, 1)


async def test_a_store_that_is_full_forgets() -> None:
    many = [asked("embed", *(f"{number}: {at}" for at in range(60))) for number in range(10)]
    again = [asked("embed", *one.texts[:30]) for one in many]
    measured = await replay(many, again, seed=1, scale=0.0, maxmemory=3 << 20)
    assert measured.evicted > 0
    assert sum(row.known for row in measured.rows) < sum(row.expected for row in measured.rows) == 300


def test_what_differs_from_arithmetic_is_counted() -> None:
    async def run() -> figures.Measured:
        return await replay([], ASKED[-1:], seed=1, scale=0.0)

    measured = asyncio.run(run())
    wrong = replace(measured, rows=tuple(replace(row, known=1) for row in measured.rows))
    assert (figures.replayed(measured)["unlike"], figures.replayed(wrong)["unlike"]) == (0, 1)


@pytest.mark.parametrize("one", [*BEFORE, *ASKED])
def test_the_simulator_takes_as_long_as_is_said(one: Asked) -> None:
    pace = Pace(seed=1)
    received = Received(method="POST", target=one.path, fields=(), body=one.body())
    assert pace(received) == 0
    pace.scale = 0.5
    assert pace(received) == pytest.approx(0.5 * costs.seconds(one.category, one.texts, 1))
