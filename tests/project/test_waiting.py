"""A measurement that the machine disturbed is made again; one that it did not is not."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.waiting import STOOD_STILL, undisturbed


@pytest.mark.parametrize(("stalls", "tries"), [(0, 1), (2, 3), (9, 5)])
async def test_what_stood_still_is_measured_again_five_times_at_most(
    stalls: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.waiting.STOOD_STILL", 2.0)
    made: list[int] = []

    async def measure(number: int) -> str:
        made.append(number)
        await asyncio.sleep(0.02)
        if number < stalls:
            monkeypatch.setattr("tests.support.waiting.STOOD_STILL", 0.001)
            time.sleep(0.002)  # noqa: ASYNC251 - it is to stand still
        else:
            monkeypatch.setattr("tests.support.waiting.STOOD_STILL", 60.0)
        return f"the {number}th"

    assert await undisturbed(measure) == f"the {tries - 1}th"
    assert made == list(range(tries))
    assert STOOD_STILL < 0.25, "or it would not notice what the store's deadline does"


async def test_a_failure_is_a_failure() -> None:
    async def measure(_number: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await undisturbed(measure)
