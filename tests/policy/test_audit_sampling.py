"""Drawing hits: the text of the setting, and how many are drawn."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from ollama_cache_proxy.policy.audit_sampling import NEVER, Rate, Sampler, read_rate

SEEDS = 2000


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("off", None),
        ("1%", Rate(share=0.01)),
        ("100%", Rate(share=1)),
        ("0.5%", Rate(share=0.005)),
        ("12.25%", Rate(share=0.1225)),
        ("4 a minute", Rate(a_minute=4)),
        ("9999 a minute", Rate(a_minute=9999)),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate | None) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "on",
            "1",
            "0%",
            "0.0%",
            "101%",
            "100.5%",
            "-1%",
            "1 %",
            " 1%",
            "1%\n",
            "01%",
            "1.%",
            ".5%",
            "1e1%",
            "١%",
        ),
        *("0 a minute", "4 per minute", "4 a minute ", "4  a minute", "4 a second", "10000 a minute", "nan%", "Off"),
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be off"):
        read_rate(text)


def hits_until_drawn(sampler: Sampler, key: str, told_before: bool) -> int:
    """Give which hit of a key is drawn: hit by hit, or by the number that a path is told that serves without asking."""
    if told_before:
        gap = sampler.gap(key, 0)
        sampler.passed(key, gap - 1)
        assert sampler.take(key, 0)
        return gap
    return next(hit for hit in range(1, 1000) if sampler.take(key, 0))


@pytest.mark.parametrize("told_before", [False, True])
def test_at_one_percent_one_of_199_hits_of_an_entry_is_drawn_in_every_seed(told_before: bool) -> None:
    """Also of the hits after one that was drawn, and where hits of other entries come between."""
    for seed in range(SEEDS):
        sampler = Sampler(Rate(share=0.01), seed=seed)
        for _ in range(3):
            assert hits_until_drawn(sampler, "one", told_before) <= 199
            sampler.take("other", 0)


def test_the_hits_of_an_entry_are_counted_whatever_is_hit_between() -> None:
    for seed in range(100):
        sampler = Sampler(Rate(share=0.01), seed=seed)
        drawn = [turn for turn in range(1, 800) for key in ("b", "a", "c") if sampler.take(key, 0) and key == "a"]
        assert max(after - before for before, after in pairwise([0, *drawn])) <= 199


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("nth", [1, 2, 10])
def test_each_hit_is_drawn_with_the_probability_of_the_share(nth: int, share: float) -> None:
    """Also the first ones of an entry, since most entries may have no more. Tolerance: 4 deviations of a binomial."""
    drawn = 0
    for seed in range(SEEDS):
        sampler = Sampler(Rate(share=share), seed=seed)
        drawn += [sampler.take("one", 0) for _ in range(nth)][-1]
    assert abs(drawn - share * SEEDS) <= 4 * math.sqrt(SEEDS * share * (1 - share))


def test_a_text_of_many_lists_is_drawn_within_460_hits_in_99_of_100_seeds() -> None:
    """Texts of lists are counted together, so that of one text it is about geometric: 1 - 0.99 ** 460 is 0.9902."""
    expected, found = 1 - 0.99**460, 0
    for seed in range(SEEDS):
        sampler = Sampler(Rate(share=0.01), seed=seed)
        found += any(7 in sampler.places(100, 0) for _ in range(460))
    assert found - expected * SEEDS >= -4 * math.sqrt(SEEDS * expected * (1 - expected))


def test_counts_of_entries_are_bounded() -> None:
    sampler = Sampler(Rate(share=0.0001), seed=1)
    for number in range(2 * 4096):
        sampler.take(str(number), 0)
    assert len(sampler._left) == 4096


def test_a_hundred_percent_draws_every_hit() -> None:
    sampler = Sampler(Rate(share=1), seed=1)
    assert all(sampler.take("one", 0) for _ in range(100))
    assert sampler.gap("one", 0) == 1
    assert sampler.places(5, 0) == [0, 1, 2, 3, 4]


def test_the_draw_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    def drawn(seed: int) -> list[bool]:
        sampler = Sampler(Rate(share=0.3), seed=seed)
        return [sampler.take("one", 0) for _ in range(64)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_the_draw_is_splitmix64() -> None:
    """The numbers that its authors' code gives for the seed 1234567."""
    sampler = Sampler(Rate(share=0.5), seed=1234567)
    expected = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    assert [sampler._draw() for _ in expected] == [(number >> 11) / 2**53 for number in expected]


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9])
def test_the_gaps_have_the_mean_of_their_share(share: float) -> None:
    sampler = Sampler(Rate(share=share), seed=3)
    sampler.take("one", 0)  # the first gap is another
    gaps = [hits_until_drawn(sampler, "one", told_before=True) for _ in range(4001)][1:]
    assert min(gaps) >= 1
    assert max(gaps) <= math.ceil(2 / share - 1)
    assert sum(gaps) / len(gaps) == pytest.approx(1 / share, rel=0.06)
    placed = sum(len(sampler.places(50, 0)) for _ in range(4000))
    assert placed / (50 * 4000) == pytest.approx(share, rel=0.25)


def test_a_rate_a_minute_draws_so_many_whatever_the_number_of_hits() -> None:
    sampler = Sampler(Rate(a_minute=4), seed=5)
    drawn = [second for second in range(600) for _ in range(100) if sampler.take("one", second)]
    assert 36 <= len(drawn) <= 41
    assert min(after - before for before, after in pairwise(drawn)) >= 15


@pytest.mark.parametrize("a_minute", [1, 4, 60])
def test_between_two_hits_of_a_rate_a_minute_is_its_part_of_a_minute(a_minute: int) -> None:
    sampler = Sampler(Rate(a_minute=a_minute), seed=5)
    drawn = [second for second in range(601) if sampler.take("one", second)]
    assert {after - before for before, after in pairwise(drawn)} == {60 // a_minute}


def test_each_text_of_a_list_is_as_likely_the_one_that_is_due() -> None:
    places = []
    for seed in range(200):
        sampler = Sampler(Rate(a_minute=1), seed=seed)
        sampler.take("one", 0)  # from now on its pause is known
        places += sampler.places(3, 60)
    assert len(places) == 200
    assert min(map(places.count, range(3))) > 40


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_the_first_text_of_the_first_list_is_drawn_with_the_probability_of_the_share(share: float) -> None:
    drawn = sum(Sampler(Rate(share=share), seed=seed).places(1, 0) == [0] for seed in range(SEEDS))
    assert abs(drawn - share * SEEDS) <= 4 * math.sqrt(SEEDS * share * (1 - share))


def test_texts_of_lists_are_counted_from_one_list_to_the_next() -> None:
    for seed in range(100):
        sampler = Sampler(Rate(share=0.01), seed=seed)
        drawn = [7 * turn + place for turn in range(100) for place in sampler.places(7, 0)]
        assert max(after - before for before, after in pairwise([-1, *drawn])) <= 199


def test_never_is_more_hits_than_a_million_a_second_in_a_thousand_years() -> None:
    assert NEVER > 1_000_000 * 86_400 * 366 * 1000


def test_the_hit_that_is_due_is_promised_to_one_path_at_a_time() -> None:
    sampler = Sampler(Rate(a_minute=1), seed=5)
    assert sampler.gap("one", 0) == NEVER
    assert [sampler.gap("one", now) for now in (60, 60.5, 61)] == [1, NEVER, 1], "a second later to another"
    sampler.passed("one", 5)
    assert sampler.take("one", 62)
    assert not sampler.take("one", 62)
    assert sampler.gap("one", 62) == NEVER
    assert sampler.places(3, 62) == []
    assert sampler.places(0, 125) == [], "there is none to audit"
    assert sampler.places(3, 125)[0] in range(3)


def test_workers_divide_a_rate_and_each_draws_its_share_of_its_own_hits() -> None:
    assert Rate(a_minute=4).of_worker(8) == Rate(a_minute=0.5)
    assert Rate(share=0.01).of_worker(8) == Rate(share=0.01)
