from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.policy.embeddings import missing
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.listing.list_forms import Forms
from ollama_cache_proxy.policy.listing.list_plan import Plan, in_parts, plan
from tests.support.lists import EMBED, V1, asking, some

OWN = some(b"[0.5,1]")
CODED = some(b'"AACAPwAAgD8="')
OTHER = replace(OWN, frame=b"{}")
BASE64 = {"encoding_format": "base64"}


def planned(
    path: str, known: dict[str, Item], forms: Forms, *, limit: int = 10_000, texts: str = "aba", **more: Any
) -> Plan | None:
    asked = asking(path, *texts, **more)
    return plan(asked, known, missing(asked, known, estimates=False), forms, limit)


@pytest.mark.parametrize(
    ("forms", "path", "more", "expected"),
    [
        (Forms(), EMBED, {}, None),
        (Forms(), V1, BASE64, None),
        (Forms(own=True), V1, {}, None),
        (Forms(own=True), EMBED, {}, None),
        (Forms(own=True), EMBED, BASE64, None),
        (Forms(own=True), V1, BASE64, Plan(texts=("a", "b", "a"), numbers=True)),
        (Forms(own=True, other=True), V1, BASE64, None),
        (Forms(other=True), V1, BASE64, None),
        (Forms(own=True, whole_lists=1), V1, BASE64, None),
    ],
)
def test_where_nothing_is_known_the_client_asks(
    forms: Forms, path: str, more: dict[str, Any], expected: Plan | None
) -> None:
    assert planned(path, {}, forms, **more) == expected


@pytest.mark.parametrize("forms", [Forms(), Forms(own=True), Forms(other=True), Forms(own=True, other=True)])
@pytest.mark.parametrize(("path", "more"), [(EMBED, {}), (V1, {}), (V1, BASE64)], ids=["embed", "v1", "base64"])
@pytest.mark.parametrize(("item", "numbers"), [(OWN, True), (CODED, True), (OTHER, False)])
def test_the_missing_texts_are_asked_for_in_the_form_of_those_that_are_known(
    forms: Forms, path: str, more: dict[str, Any], item: Item, numbers: bool
) -> None:
    assert planned(path, {"a": item}, forms, **more) == Plan(texts=("b",), numbers=numbers)


def test_a_part_that_could_not_be_joined_or_would_be_too_large_is_not_asked_for() -> None:
    assert planned(EMBED, {"a": OWN}, Forms(own=True, whole_lists=1)) is None
    assert planned(EMBED, {"a": OWN}, Forms(own=True), limit=100) is None
    assert planned(EMBED, {"a": OWN}, Forms(own=True), texts="a" * 200 + "b") is None


def test_what_is_wholly_known_is_not_planned() -> None:
    assert planned(EMBED, {"a": OWN, "b": OWN}, Forms(own=True)) is None


ONLY_OWN = Forms(own=True)
AB = ("a", "b")


@pytest.mark.parametrize(
    ("texts", "known", "forms", "expected"),
    [
        # nothing is known: all texts, those that occur twice among them, where the source writes Ollama's own form
        ("aba", {}, ONLY_OWN, ("a", "b", "a")),
        ("aba", {}, Forms(), ()),
        ("aba", {}, Forms(other=True), ()),
        ("aba", {}, Forms(own=True, other=True), ()),
        ("aba", {}, Forms(own=True, whole_lists=3), ()),
        # some are known: the others
        ("abca", {"a": OWN}, ONLY_OWN, ("b", "c")),
        ("abca", {"a": OTHER}, ONLY_OWN, ()),
        ("ab", {"a": OWN, "b": OWN}, ONLY_OWN, ()),
        # so many known ones that the response would be too large
        ("a" * 400 + "b", {"a": OWN}, ONLY_OWN, ()),
    ],
)
@pytest.mark.parametrize(("path", "more"), [(EMBED, {}), (V1, {}), (V1, BASE64)], ids=["embed", "v1", "base64"])
def test_which_texts_may_be_asked_for_part_by_part(  # noqa: PLR0917
    path: str, more: dict[str, Any], texts: str, known: dict[str, Item], forms: Forms, expected: tuple[str, ...]
) -> None:
    asked = asking(path, *texts, **more)
    absent = missing(asked, known, estimates=False)
    assert in_parts(asked, known, plan(asked, known, absent, forms, 10_000), absent, forms) == expected


def test_a_list_with_odd_texts_is_not_cut() -> None:
    asked = replace(asking(EMBED, *AB), odd={"a": b'"\\ud800"'})
    assert in_parts(asked, {}, None, AB, ONLY_OWN) == ()
