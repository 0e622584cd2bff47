"""The short form of the measurement of lanes: that it measures what it says. No times are asserted."""

from __future__ import annotations

import pytest

from benchmarks.lanes import LIST, ROWS, SIMULATED, Figures, in_turns, line, lists, measured


@pytest.mark.parametrize("name", ROWS)
async def test_every_row_is_measured_and_nothing_fails(name: str) -> None:
    lanes, chatting, indexing = ROWS[name]
    texts = 100 if indexing else 0
    figures = await measured(lanes=lanes, chatting=chatting, texts=texts, scale=20, number=3)
    assert (figures.failures, figures.vectors) == (0, texts)
    assert (figures.indexing is not None) is indexing
    assert bool(figures.first_tokens) is chatting
    assert len(figures.first_tokens) == 3 or indexing or not chatting


async def test_indexing_in_turns_embeds_all_texts_both_ways() -> None:
    found = await in_turns(70, 20, SIMULATED)
    assert {name: (figures.vectors, figures.failures) for name, figures in found.items()} == {
        "indexing": (70, 0),
        "indexing-lanes": (70, 0),
    }


def test_lists_have_all_texts_once() -> None:
    made = list(lists(100))
    assert [len(one) for one in made] == [LIST] * 6 + [4]
    assert len({text for one in made for text in one}) == 100


def test_a_percentile_is_one_of_the_times() -> None:
    figures = Figures(first_tokens=[0.3, 0.1, 0.2, 0.4])
    assert [figures.percentile(share) for share in (0.25, 0.5, 0.95)] == [0.1, 0.2, 0.4]


def test_a_line_compares_with_chats_alone_and_with_indexing_without_lanes() -> None:
    alone, indexing = Figures(first_tokens=[0.2]), Figures(indexing=10.0, vectors=100)
    both = Figures(first_tokens=[0.3], indexing=11.0, vectors=100)
    told = line("both-lanes", both, alone, indexing)
    assert "p95 0.300 s (1.50 x alone)" in told
    assert "100 texts in 11.0 s (1.100 x without lanes) 0 failed" in told
    assert "x alone" not in line("chats", alone, alone, None)
