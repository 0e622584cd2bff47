from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.steps import A_STEP, Steps, batched, finish, joined


def counted(steps: int) -> Steps[str]:
    for _ in range(steps):
        yield
    return f"{steps} steps"


def test_all_steps_are_taken() -> None:
    assert finish(counted(0)) == "0 steps"
    assert finish(counted(3)) == "3 steps"


@pytest.mark.parametrize("count", [0, 1, A_STEP, A_STEP + 1])
def test_things_come_in_batches(count: int) -> None:
    batches = list(batched(range(count)))
    assert [thing for batch in batches for thing in batch] == list(range(count))
    assert all(0 < len(batch) <= A_STEP for batch in batches)


@pytest.mark.parametrize("sizes", [[], [0], [3, 5], [1 << 20, 1, 2], [(1 << 22) + 1, 0, 7], [60_000] * 60])
def test_parts_are_joined_whatever_their_sizes(sizes: list[int]) -> None:
    parts = [bytes([at % 251]) * size for at, size in enumerate(sizes)]
    views: list[bytes | memoryview] = [memoryview(part) if at % 2 else part for at, part in enumerate(parts)]
    steps = joined(views)
    assert finish(steps) == b"".join(parts)


def test_large_parts_are_joined_in_steps() -> None:
    assert len(list(joined([b"a" * 60_000] * 100))) >= 5
    assert len(list(joined([b"a" * 6_000_000]))) >= 5
    assert list(joined([b"a" * 60_000] * 10)) == []
