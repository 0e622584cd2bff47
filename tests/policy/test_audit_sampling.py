"""Drawing hits: the text of the setting, and how many are drawn."""

from __future__ import annotations

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


@pytest.mark.parametrize("told_before", [False, True])
def test_at_one_percent_the_first_of_460_hits_is_drawn_in_99_of_100_seeds(told_before: bool) -> None:
    """Hit by hit, and by the number of hits until the next drawn one; 1 - 0.99 ** 460 is 0.9902."""
    found = 0
    for seed in range(SEEDS):
        sampler = Sampler(Rate(share=0.01), seed=seed)
        found += sampler.gap(0) <= 460 if told_before else any(sampler.take(0) for _ in range(460))
    assert found / SEEDS == pytest.approx(0.9902, abs=0.005)
    assert found >= 0.99 * SEEDS or not told_before


def test_a_hundred_percent_draws_every_hit() -> None:
    sampler = Sampler(Rate(share=1), seed=1)
    assert all(sampler.take(0) for _ in range(100))
    assert sampler.gap(0) == 1
    assert sampler.places(5, 0) == [0, 1, 2, 3, 4]


def test_the_draw_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    def drawn(seed: int) -> list[bool]:
        sampler = Sampler(Rate(share=0.3), seed=seed)
        return [sampler.take(0) for _ in range(64)]

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
    gaps = [sampler.gap(0) for _ in range(4000)]
    assert min(gaps) >= 1
    assert sum(gaps) / len(gaps) == pytest.approx(1 / share, rel=0.06)
    placed = sum(len(sampler.places(50, 0)) for _ in range(4000))
    assert placed / (50 * 4000) == pytest.approx(share, rel=0.25)


def test_a_rate_a_minute_draws_so_many_whatever_the_number_of_hits() -> None:
    sampler = Sampler(Rate(a_minute=4), seed=5)
    drawn = [second for second in range(600) for _ in range(100) if sampler.take(second)]
    assert 36 <= len(drawn) <= 41
    assert min(after - before for before, after in pairwise(drawn)) >= 15


def test_the_hit_that_is_due_is_promised_to_one_path_at_a_time() -> None:
    sampler = Sampler(Rate(a_minute=1), seed=5)
    assert sampler.gap(0) == NEVER
    assert [sampler.gap(60), sampler.gap(60.5), sampler.gap(61.5)] == [1, NEVER, 1]
    assert sampler.take(62, drawn=True)
    assert not sampler.take(62, drawn=True)
    assert sampler.gap(62) == NEVER
    assert sampler.places(3, 62) == []
    assert sampler.places(0, 125) == [], "there is none to audit"
    assert sampler.places(3, 125)[0] in range(3)


def test_workers_divide_a_rate_and_each_draws_its_share_of_its_own_hits() -> None:
    assert Rate(a_minute=4).of_worker(8) == Rate(a_minute=0.5)
    assert Rate(share=0.01).of_worker(8) == Rate(share=0.01)
