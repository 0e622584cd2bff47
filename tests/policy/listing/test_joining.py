from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.listing.joining import Part, join, joinable, joined_size, same_length, usable
from tests.support.lists import EMBED, V1, asking, some

BASE64 = {"encoding_format": "base64"}
CODED = some(b'"AAAAPw=="')
FRAME = b'{"base64":false,"row":null,"top":{"embeddings":"rows","prompt_eval_count":"count"},"type":"application/json"}'
UNTOLD = b'{"base64":false,"row":null,"top":{"embeddings":"rows"},"type":"application/json"}'


def part(*texts: str, tokens: int | None = 10, frame: bytes = b"") -> Part:
    vectors = tuple(f"[0.{place + 1}]".encode() for place in range(len(texts)))
    return Part(
        texts=texts,
        cut=Cut(vectors=vectors, numbers=1, tokens=tokens, total_duration=9, load_duration=3, frame=frame),
    )


# Token counts


@pytest.mark.parametrize(
    ("texts", "known", "asked", "tokens", "estimated"),
    [
        ("ab", {"a": some(tokens=3)}, "b", 13, False),
        ("aba", {"a": some(tokens=3)}, "b", 16, False),
        ("abc", {"a": some(tokens=3)}, "bc", 13, False),
        ("abcb", {"a": some(tokens=3)}, "bc", 18, True),
        ("abb", {"a": some(tokens=3)}, "b", 23, False),
        ("abb", {"a": some(tokens=3, exact=False)}, "b", 23, True),
        ("ab", {"a": some(tokens=3, exact=False)}, "b", 13, True),
        ("abab", {}, "abab", 10, False),
        ("ab", {}, "ab", 10, False),
        ("a", {}, "a", 10, False),
    ],
)
def test_what_a_response_told_counts_as_a_whole(
    texts: str, known: dict[str, Item], asked: str, tokens: int, estimated: bool
) -> None:
    joined = join(asking(EMBED, *texts), known, part(*asked))
    assert (joined.tokens, joined.estimated) == (tokens, estimated)
    assert json.loads(joined.body)["prompt_eval_count"] == tokens
    assert json.loads(joined.body)["total_duration"] == 9


@pytest.mark.parametrize(
    ("texts", "exact", "tokens", "estimated"),
    [("ab", (True, True), 7, False), ("abb", (True, True), 11, False), ("ab", (True, False), 7, True)],
)
def test_what_is_known_counts_as_often_as_it_occurs(
    texts: str, exact: tuple[bool, bool], tokens: int, estimated: bool
) -> None:
    items = {"a": some(tokens=3, exact=exact[0]), "b": some(tokens=4, exact=exact[1])}
    joined = join(asking(EMBED, *texts), items)
    assert (joined.tokens, joined.estimated) == (tokens, estimated)


def test_a_count_that_was_not_told_stays_absent() -> None:
    item = replace(some(), tokens=None, frame=UNTOLD)
    for joined in (
        join(asking(EMBED, "a", "a"), {"a": item}),
        join(asking(EMBED, "a", "b", "b"), {"a": item}, part("b", tokens=None, frame=UNTOLD)),
    ):
        assert (joined.tokens, joined.estimated) == (None, False)
        assert json.loads(joined.body).keys() == {"embeddings"}


def test_items_of_a_part_share_its_count() -> None:
    items = part("a", "b b b b b b", "a").items()
    assert list(items) == ["a", "b b b b b b"]
    assert [(item.tokens, item.exact) for item in items.values()] == [(2, False), (6, False)]
    assert [(item.tokens, item.exact) for item in part("a").items().values()] == [(10, True)]
    assert [(item.tokens, item.exact) for item in part("a", "b", tokens=None).items().values()] == [(None, True)] * 2


# What belongs together


@pytest.mark.parametrize(
    ("item", "form", "length"),
    [
        (some(), True, True),
        (some(exact=False), True, True),
        (some(b"[1,2]"), True, False),
        (replace(some(), frame=FRAME), False, True),
        (replace(some(b"[1,2]"), frame=FRAME), True, False),
        (CODED, True, True),
    ],
)
def test_one_form_and_one_length_can_be_joined(item: Item, form: bool, length: bool) -> None:
    known = {"a": some(), "b": item}
    assert (joinable(known, part("c").cut, own=True), same_length(known, part("c").cut)) == (form, length)


def test_base64_that_was_asked_for_as_numbers_is_made_of_ollamas_own_form() -> None:
    assert joinable({}, part("c").cut, own=True)
    assert not joinable({}, part("c", frame=FRAME).cut, own=True)
    assert joinable({}, part("c", frame=FRAME).cut, own=False)
    assert joinable({"a": replace(some(), frame=FRAME)}, part("c", frame=FRAME).cut, own=False)


@pytest.mark.parametrize(
    ("items", "other", "more", "path", "expected"),
    [
        ({}, False, {}, EMBED, ""),
        ({"a": some(), "b": some()}, False, {}, EMBED, "ab"),
        ({"a": some(), "b": some()}, True, {}, EMBED, ""),
        ({"a": some(), "b": some(b"[1,2]")}, False, {}, EMBED, ""),
        ({"a": some(), "b": CODED}, False, {}, EMBED, "a"),
        ({"a": some(), "b": CODED}, False, {}, V1, "a"),
        ({"a": some(), "b": CODED}, False, BASE64, V1, "ab"),
        ({"a": some(), "b": replace(some(), frame=FRAME)}, False, {}, EMBED, "a"),
        ({"a": some(), "b": replace(some(), frame=FRAME)}, True, {}, EMBED, "b"),
        ({"a": replace(some(), frame=FRAME), "b": replace(some(b"[1,2]"), frame=FRAME)}, True, {}, EMBED, ""),
        ({name: replace(some(), frame=UNTOLD if name == "b" else FRAME) for name in "abc"}, True, {}, EMBED, "ac"),
        ({name: replace(some(), frame=FRAME if name == "b" else UNTOLD) for name in "abc"}, True, {}, EMBED, "ac"),
        ({"a": replace(CODED, frame=FRAME)}, True, {}, V1, "a"),
    ],
)
def test_only_items_of_one_kind_are_used(
    items: dict[str, Item], other: bool, more: dict[str, Any], path: str, expected: str
) -> None:
    assert "".join(usable(asking(path, "a", "b", "c", **more), items, other=other)) == expected


# Bodies


def test_base64_is_joined_with_numbers_that_are_written_so() -> None:
    joined = join(asking(V1, "b", "a", "b", **BASE64), {"a": CODED, "b": some(b"[0.5]")})
    rows = json.loads(joined.body)["data"]
    assert [row["embedding"] for row in rows] == ["AAAAPw=="] * 3
    assert [row["index"] for row in rows] == [0, 1, 2]


def test_another_form_is_joined_in_its_own_frame() -> None:
    known = {"a": replace(some(b"[1e-3]", tokens=2), frame=FRAME)}
    joined = join(asking(EMBED, "a", "b", "a"), known, part("b", tokens=5, frame=FRAME))
    assert joined.body == b'{"embeddings":[[1e-3],[0.1],[1e-3]],"prompt_eval_count":9}'


def test_the_size_is_known_before_a_response_is_built() -> None:
    vectors = {"a": b"[1]", "b": b"[" + b"1" * 1000 + b"]"}
    assert joined_size(asking(EMBED, "a"), vectors) < 100
    assert 1000 < joined_size(asking(EMBED, "a", "b"), vectors) < 1200
    assert 10_000 < joined_size(asking(EMBED, *"ab", *"b" * 9), vectors) < 12_000
    assert 2000 < joined_size(asking(EMBED, "b", "new"), vectors) < 2300, "what is not known is as long as the longest"
    assert joined_size(asking(EMBED, "new"), {}) == 0
