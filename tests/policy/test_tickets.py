from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.tickets import Lane, Ticket
from tests.support.tickets import chat, listed


@pytest.mark.parametrize(
    ("own", "other", "becomes"),
    [
        (listed(), chat(), Lane.INTERACTIVE),
        (listed(), listed(), Lane.BATCH),
        (listed(), None, Lane.BATCH),
        (chat(), listed(), Lane.INTERACTIVE),
        (chat(), chat(), Lane.INTERACTIVE),
    ],
)
def test_what_an_interactive_request_joins_becomes_interactive(
    own: Ticket, other: Ticket | None, becomes: Lane
) -> None:
    before, told = own.lane, list[Ticket]()
    own.on_raise = told.append
    own.raise_for(other)
    assert own.lane is becomes
    assert told == ([own] if own.lane is not before else [])


def test_it_may_be_raised_while_it_neither_waits_nor_is_under_way() -> None:
    own = listed()
    own.raise_for(chat())
    assert own.lane is Lane.INTERACTIVE


@pytest.mark.parametrize(
    ("waiting", "begun", "queued"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_it_is_queued_until_ollama_has_done_something_for_it(waiting: bool, begun: bool, queued: bool) -> None:
    own = listed()
    own.waiting, own.begun = waiting, begun
    assert own.is_queued is queued
