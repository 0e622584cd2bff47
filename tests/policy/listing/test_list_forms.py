from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.listing.list_forms import Forms, KnownForms

SOURCE = ("sha256:1", "0.33.0", "embed")


def after(*noted: bool) -> Forms:
    forms = KnownForms()
    for own in noted:
        forms.note(SOURCE, own=own)
    return forms.of(SOURCE)


@pytest.mark.parametrize(
    ("noted", "only_own", "only_other"),
    [
        ((), False, False),
        ((True,), True, False),
        ((False,), False, True),
        ((True, True), True, False),
        ((True, False), False, False),
        ((False, True), False, False),
        ((False, True, False), False, False),
    ],
)
def test_what_is_known_of_a_source(noted: tuple[bool, ...], only_own: bool, only_other: bool) -> None:
    assert (after(*noted).only_own, after(*noted).only_other) == (only_own, only_other)


@pytest.mark.parametrize("place", range(3))
def test_each_model_version_and_operation_is_a_source_of_its_own(place: int) -> None:
    forms = KnownForms()
    forms.note(SOURCE, own=True)
    other = (*SOURCE[:place], "x", *SOURCE[place + 1 :])
    assert forms.of((other[0], other[1], other[2])) == Forms()


def test_lists_are_asked_as_a_whole_for_a_while_after_one_was_not_joined() -> None:
    forms = KnownForms()
    forms.note(SOURCE, own=True)
    forms.note_not_joined(SOURCE)
    assert forms.of(SOURCE) == Forms(own=True, whole_lists=64)
    for left in range(63, -1, -1):
        forms.count_list(SOURCE)
        assert forms.of(SOURCE).whole_lists == left
    forms.count_list(SOURCE)
    assert forms.of(SOURCE) == Forms(own=True)


def test_a_bounded_number_of_sources_is_remembered() -> None:
    forms = KnownForms()
    forms.note(SOURCE, own=True)
    for number in range(300):
        forms.note((f"{number}", "", ""), own=True)
    assert forms.of(SOURCE) == Forms()
    assert forms.of(("299", "", "")).own
