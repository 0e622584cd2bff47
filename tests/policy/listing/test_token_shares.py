from __future__ import annotations

import random

import pytest

from ollama_cache_proxy.policy.listing.token_shares import ADDED, AddedTokens, pieces, shares


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        (" \n\t", 0),
        ("a", 1),
        ("two words", 2),
        ("internationalisation", 3),
        ("1234567", 3),
        ("x1y", 3),
        ("snake_case(arg);", 7),
        ("größe", 1),
        ("你好世界", 4),
        ("한국어", 3),
        ("🙂🙂", 2),
        ("\ud800", 1),
    ],
)
def test_pieces_are_about_what_a_tokenizer_makes(text, expected):
    assert pieces([text]) == [expected]


def test_of_long_texts_only_the_beginning_is_looked_at():
    long = "word " * 100_000
    assert pieces([long]) == [100_000]
    assert pieces([long, "a", "字" * 300_000]) == [
        pytest.approx(100_000, rel=0.01),
        1,
        pytest.approx(300_000, rel=0.01),
    ]
    assert pieces(["字" * 1000] * 20_000) == [1000] * 20_000
    assert pieces([]) == []


@pytest.mark.parametrize(
    ("lengths", "tokens", "expected"),
    [
        ((5,), 9, [9]),
        ((1, 1), 4, [2, 2]),
        ((1, 1), 5, [3, 2]),
        ((1, 1, 1), 5, [2, 2, 1]),
        ((1, 3), 8, [3, 5]),
        ((10, 1), 15, [12, 3]),
        ((1, 10), 15, [3, 12]),
        ((0, 1), 5, [2, 3]),
        ((1, 1, 1), 2, [1, 1, 0]),
        ((1, 9), 1, [0, 1]),
        ((9, 1, 9), 0, [0, 0, 0]),
        ((0, 0), 2, [1, 1]),
    ],
)
def test_tokens_are_shared_out_by_pieces_and_what_is_added_to_each_text(lengths, tokens, expected):
    assert shares(tokens, tuple("字" * length for length in lengths)) == expected


def test_without_added_tokens_the_pieces_alone_count():
    assert shares(11, ("字", "字" * 10), 0) == [1, 10]
    assert shares(15, ("字", "字" * 10), 2) == [3, 12]
    assert shares(27, ("字", "字" * 10), 8) == [9, 18]


@pytest.mark.parametrize("seed", range(30))
def test_the_shares_hold_the_sum_and_are_near_their_due(seed):
    rng = random.Random(seed)
    texts = tuple("字" * rng.randrange(60) for _ in range(rng.randrange(2, 20)))
    tokens = rng.choice([0, 1, rng.randrange(30), rng.randrange(10**6), rng.randrange(2**62)])
    found = shares(tokens, texts)
    assert sum(found) == tokens
    assert all(share >= (tokens >= len(texts)) for share in found), "none is free where there are enough"
    assert shares(tokens, texts) == found
    whole = sum(count + ADDED for count in pieces(texts))
    if all(tokens * (count + ADDED) >= whole for count in pieces(texts)):
        for share, count in zip(found, pieces(texts), strict=True):
            assert abs(share * whole - tokens * (count + ADDED)) < whole


# What a model adds


def lists(seed: int, added: int, factor: float = 1.0):
    """Yield lists of texts with the count that a model tells."""
    rng = random.Random(seed)
    for _ in range(200):
        texts = ["字" * rng.randrange(1, 80) for _ in range(rng.choice([1, 3, 9]))]
        yield texts, round(sum(added + factor * len(text) for text in texts))


@pytest.mark.parametrize("added", [0, 1, 2, 5])
@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_what_a_model_adds_is_learnt_from_its_counts(added, factor):
    learnt = AddedTokens()
    assert learnt.of("m") == ADDED
    for texts, tokens in lists(added, added, factor):
        learnt.learn("m", texts, tokens)
    assert learnt.of("m") == round(added / factor)
    assert learnt.of("another") == ADDED


def test_counts_that_are_all_alike_teach_nothing():
    learnt = AddedTokens()
    for _ in range(100):
        learnt.learn("m", ["字" * 10, "字" * 10], 40)
    assert learnt.of("m") == ADDED


def test_a_few_counts_teach_nothing_and_wrong_ones_no_nonsense():
    learnt = AddedTokens()
    for texts, tokens in list(lists(1, 5))[:15]:
        learnt.learn("m", texts, tokens)
    assert learnt.of("m") == ADDED
    for count in range(100):
        learnt.learn("odd", ["字" * (count % 7)], 1000 - count)
        learnt.learn("zero", ["a"], 0)
        learnt.learn("none", [], 5)
    assert 0 <= learnt.of("odd") <= 8
    assert learnt.of("zero") == learnt.of("none") == ADDED


def test_seventeen_counts_teach_something_and_no_more_than_eight_tokens_are_taken_for_added() -> None:
    learnt = AddedTokens()
    for texts, tokens in list(lists(1, 5))[:17]:
        learnt.learn("m", texts, tokens)
    for texts, tokens in lists(1, 20):
        learnt.learn("many", texts, tokens)
    assert learnt.of("m") == 5
    assert learnt.of("many") == 8


def test_what_a_model_added_before_it_changed_fades() -> None:
    learnt = AddedTokens()
    for added, rounds in ((5, 1), (1, 25)):
        for texts, tokens in [*lists(added, added)] * rounds:
            learnt.learn("m", texts, tokens)
    assert learnt.of("m") == 1


def test_a_bounded_number_of_models_is_remembered():
    learnt = AddedTokens()
    for texts, tokens in lists(3, 0):
        learnt.learn("first", texts, tokens)
    assert learnt.of("first") == 0
    for number in range(300):
        learnt.learn(f"m{number}", ["a"], 3)
    assert learnt.of("first") == ADDED
