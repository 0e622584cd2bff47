from __future__ import annotations

import json
import math

import pytest

from ollama_cache_proxy.workbench.bench_questions import OPERATIONS, PROMPTS
from ollama_cache_proxy.workbench.fidelity import (
    Completing,
    completing,
    contexts,
    cosine,
    divergence,
    embedding,
    same_answer,
)


def logs(**shares: float) -> dict[str, float]:
    return {token: math.log(share) for token, share in shares.items()}


@pytest.mark.parametrize(
    ("source", "other", "share"),
    [
        ([["a", "b", "c"]], [["a", "b", "c"]], 1.0),
        ([["a", "b", "c", "d"]], [["a", "x", "c", "d"]], 0.25),
        ([["a", "b"], ["c", "d"]], [["a", "b"], ["x", "d"]], 0.5),
        ([["a", "b", "c", "d"]], [["a", "b"]], 0.5),
        ([["a"]], [["a", "b", "c"]], 1.0),
        ([["a"]], [[]], 0.0),
        ([[]], [["a"]], None),
    ],
)
def test_an_answer_is_the_same_up_to_the_first_difference(
    source: list[list[str]], other: list[list[str]], share: float | None
) -> None:
    assert same_answer(source, other) == share


def test_equal_distributions_do_not_diverge() -> None:
    assert divergence(logs(a=0.6, b=0.3), logs(a=0.6, b=0.3)) == 0.0


@pytest.mark.parametrize(
    ("source", "other", "nats"),
    [
        (logs(a=0.5, b=0.5), logs(a=0.25, b=0.75), 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)),
        # b and c are each named by one alone: 0.4 of the source's and 0.2 of the other's are the rest
        (logs(a=0.6, b=0.4), logs(a=0.8, c=0.2), 0.6 * math.log(0.6 / 0.8) + 0.4 * math.log(0.4 / 0.2)),
        # nothing shared: all is the rest, and nothing can be told
        (logs(a=1.0), logs(b=1.0), 0.0),
    ],
)
def test_the_divergence_is_of_what_both_name_and_one_rest(
    source: dict[str, float], other: dict[str, float], nats: float
) -> None:
    assert divergence(source, other) == pytest.approx(nats, abs=1e-4)


def test_lumping_can_only_lessen_a_divergence() -> None:
    p = {"a": 0.5, "b": 0.2, "c": 0.2, "d": 0.1}
    q = {"a": 0.4, "b": 0.1, "c": 0.3, "d": 0.2}
    whole = sum(p[token] * math.log(p[token] / q[token]) for token in p)
    top = divergence(logs(a=0.5, b=0.2), logs(a=0.4, c=0.3))
    assert 0 < top < whole
    assert divergence(logs(**p), logs(**q)) == pytest.approx(whole, abs=1e-4)


def test_what_the_other_gives_no_chance_at_all_is_a_number_still() -> None:
    assert 0 < divergence(logs(a=0.5, b=0.5), {"a": 0.0, "b": -200.0}) < 20


def test_models_are_compared_by_their_answers_and_what_was_likeliest() -> None:
    source = [logs(a=0.7, b=0.2)] * 19 + [logs(a=0.6, b=0.3)]
    other = [logs(a=0.7, b=0.2)] * 19 + [logs(b=0.6, a=0.3)]
    found = completing([["x", "y"]], [["x", "z"]], source, other)
    one = divergence(source[-1], other[-1])
    assert found == Completing(
        same_answer=0.5, same_next=0.95, divergence=pytest.approx(one / 20), divergence_high=0.0, contexts=20
    )
    assert completing([["x"]], [["x"]], source[18:], other[18:]).divergence_high == one


def test_without_probabilities_answers_alone_are_compared() -> None:
    assert completing([["x"]], [["x"]], [{}, {}], [{}, {}]) == Completing(same_answer=1.0)


def test_vectors_are_compared_by_their_cosines() -> None:
    found = embedding([[1.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [1.0, 1.0]])
    assert found.texts == 2
    assert found.cosine == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert found.cosine_low == pytest.approx(math.sqrt(0.5))


def test_a_vector_of_nothing_has_no_cosine() -> None:
    with pytest.raises(ValueError, match="all zeros"):
        cosine([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="their widths are 2 and 3"):
        cosine([1.0, 0.0], [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="no vectors"):
        embedding([], [])


def test_contexts_end_after_words_the_shorter_ones_first() -> None:
    assert contexts(["one two\n three", "x"], 2) == ["one two", "one two\n three", "x"]
    assert contexts(["a b"], 9) == ["a", "a b"]


def test_a_nonce_makes_every_request_new_from_its_beginning() -> None:
    """What Ollama still holds of the last prompt must be of no use to the next."""
    for operation in OPERATIONS:
        one, two = (operation.body("m", mark, 8) for mark in ("first", "other"))
        field = "input" if operation.embeds else "prompt"
        assert one[field].startswith("[first]")
        assert json.dumps(one).replace("first", "other") == json.dumps(two)


def test_prompts_are_different_and_long_enough_to_cut() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS)
    assert all(len(prompt.split()) > 16 for prompt in PROMPTS)
