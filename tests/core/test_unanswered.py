"""Which lookups of the fast path are not made again."""

from __future__ import annotations

from ollama_cache_proxy.core.unanswered import Unanswered


def test_each_counts_once_and_for_a_second() -> None:
    unanswered = Unanswered()
    assert not unanswered
    assert not unanswered.take("a", 100.0)
    unanswered.note("a", 100.0)
    unanswered.note("b", 100.0)
    assert unanswered
    assert [unanswered.take(key, 100.9) for key in ("a", "a", "c")] == [True, False, False]
    assert not unanswered.take("b", 101.0)
    assert not unanswered


def test_of_those_who_never_come_back_only_so_many_are_remembered() -> None:
    unanswered = Unanswered()
    for number in range(5000):
        unanswered.note(str(number), 100.0)
    assert len(unanswered._until) <= 1024
    assert unanswered.take("4999", 100.0)
