from __future__ import annotations

import random
from contextlib import ExitStack

import pytest

from ollama_cache_proxy.policy.buffers import Buffers

FREE = 65_536


@pytest.fixture
def buffers():
    return Buffers(1000)


def test_small_exchanges_are_not_counted_however_full_it_is(buffers):
    with buffers.hold() as large, buffers.hold() as small:
        assert large.grow(FREE + 1000)
        assert small.grow(FREE)
        assert (buffers.held, small.refused) == (1000, False)
        assert not small.grow(1)
        assert (buffers.held, small.refused, small.size) == (1000, True, FREE)


def test_what_is_refused_is_not_held_and_less_may_fit(buffers):
    with buffers.hold() as hold:
        assert hold.grow(FREE + 900)
        assert not hold.grow(101)
        assert hold.grow(100)
        assert (buffers.held, hold.refused) == (1000, True)


def test_it_is_given_back_when_the_last_user_has_left(buffers):
    hold = buffers.hold()
    with hold:
        hold.__enter__()  # the flight that goes on when the exchange has ended
        hold.grow(FREE + 10)
    assert buffers.held == 10
    hold.grow(20)
    hold.__exit__()
    assert (buffers.held, hold.size) == (0, 0)


def test_the_bound_holds_and_everything_is_given_back():
    draw = random.Random(5)
    buffers = Buffers(1_000_000)
    refused = 0
    for _ in range(200):
        with ExitStack() as stack:
            holds = [stack.enter_context(buffers.hold()) for _ in range(20)]
            for _ in range(100):
                refused += not draw.choice(holds).grow(draw.randrange(50_000))
                assert buffers.held == sum(max(0, hold.size - FREE) for hold in holds) <= buffers.limit
        assert buffers.held == 0
    assert refused > 1000
