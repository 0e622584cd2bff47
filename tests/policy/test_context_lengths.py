"""When an observed context length counts, what it adds to the epoch, and which requests may disturb an observation."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.context_lengths import (
    UNKNOWN,
    Contexts,
    begun,
    epoch,
    leaves_loading_to_ollama,
    may_reload,
    observed,
    packed,
    part,
    unpacked,
)

KNOWN = Contexts(first=4096, now=4096, before=4096, since=1.0)
CHANGED = Contexts(first=4096, now=8192, before=4096, since=1.0)

OBSERVATIONS: list[tuple[Contexts, list[int], int | None, int | None, str]] = [
    (UNKNOWN, [], None, None, ""),
    (UNKNOWN, [4096], None, 4096, ""),
    (KNOWN, [4096], 4096, None, ""),
    (KNOWN, [8192], 4096, 8192, ""),
    (KNOWN, [8192, 4096], 4096, None, ""),
    (KNOWN, [8192, 4096, 8192], 4096, 8192, ""),
    (KNOWN, [8192, 2048], 4096, 2048, ""),
    (KNOWN, [8192, 2048, 8192], 4096, 8192, ""),
    (KNOWN, [8192, 8192], 8192, None, "ctx=8192"),
    (KNOWN, [2048, 8192, 8192], 8192, None, "ctx=8192"),
    (KNOWN, [8192, 8192, 4096], 8192, 4096, "ctx=8192"),
    (KNOWN, [8192, 8192, 4096, 4096], 4096, None, ""),
    (KNOWN, [8192, 8192, 2048, 2048], 2048, None, "ctx=2048"),
    (CHANGED, [4096, 4096], 4096, None, ""),
]


@pytest.mark.parametrize(("contexts", "lengths", "now", "seen", "told"), OBSERVATIONS)
def test_two_observations_in_a_row_count(
    contexts: Contexts, lengths: list[int], now: int | None, seen: int | None, told: str
) -> None:
    for length in lengths:
        contexts = observed(contexts, length, 2.0)
    assert (contexts.now, contexts.seen, part(contexts)) == (now, seen, told)


def test_the_length_and_the_time_before_a_change_are_known() -> None:
    found = observed(observed(KNOWN, 8192, 5.0), 8192, 6.0)
    assert found == Contexts(first=4096, now=8192, before=4096, since=6.0)


@pytest.mark.parametrize(
    ("contexts", "lengths", "before"),
    [
        pytest.param(CHANGED, [2048, 2048], 8192, id="the one that counted, not the first"),
        pytest.param(Contexts(first=4096), [8192, 8192], 4096, id="the first, where none counted here yet"),
        pytest.param(UNKNOWN, [8192, 8192], None, id="none"),
    ],
)
def test_what_was_before_a_change_is_what_keys_had(contexts: Contexts, lengths: list[int], before: int | None) -> None:
    for length in lengths:
        contexts = observed(contexts, length, 2.0)
    assert contexts.before == before


def test_the_first_length_is_not_before_a_change_that_came_later() -> None:
    contexts = UNKNOWN
    for length in (8192, 8192, 2048, 2048):
        contexts = observed(contexts, length, 2.0)
    assert begun(contexts, 4096) == Contexts(first=4096, now=2048, before=8192, since=2.0)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (8192, Contexts(first=8192, now=8192, before=8192, since=2.0)),
        (4096, CHANGED.__class__(first=4096, now=8192, before=4096, since=2.0)),
    ],
    ids=["the first here", "another one in the store"],
)
def test_the_store_knows_the_first_length(first: int, expected: Contexts) -> None:
    found = observed(observed(UNKNOWN, 8192, 1.0), 8192, 2.0)
    assert begun(found, first) == expected


@given(st.lists(st.sampled_from([2048, 4096, 8192])))
def test_what_counts_was_seen_twice_in_a_row_and_nothing_else_since(lengths: list[int]) -> None:
    contexts, expected = KNOWN, 4096
    for number, length in enumerate(lengths):
        contexts = observed(contexts, length, 2.0)
        if number and lengths[number - 1] == length:
            expected = length
        assert contexts.now == expected
        assert (part(contexts) == "") == (expected == 4096)
        assert contexts.seen == (None if length == expected else length)


@pytest.mark.parametrize("setting", ["", "kv-q8", "ctx=8192"])
def test_the_epoch_is_the_setting_unless_the_length_has_changed(setting: str) -> None:
    assert [epoch(setting, known) for known in (UNKNOWN, KNOWN)] == [setting, setting]
    assert epoch(setting, CHANGED) == f"{setting}\0ctx=8192"


REQUESTS: list[tuple[dict[str, Any], bool]] = [
    ({"model": "tiny"}, True),
    ({"options": None}, True),
    ({"options": {}}, True),
    ({"options": {"seed": 1, "num_predict": 3}}, True),
    ({"options": "odd"}, True),
    ({"options": {"num_ctx": 8192}}, False),
    ({"options": {"num_ctx": None}}, False),
    ({"options": {"num_gpu": 0}}, False),
]


@pytest.mark.parametrize(("document", "expected"), REQUESTS)
def test_a_request_that_says_how_its_model_is_loaded_shows_nothing(document: dict[str, Any], expected: bool) -> None:
    assert leaves_loading_to_ollama(document) == expected


async def upload() -> AsyncIterator[bytes]:
    yield b""


def body(model: Any, **options: Any) -> bytes:
    return json.dumps({"model": model, "options": options}, ensure_ascii=False).encode()


BODIES: list[tuple[object, bool]] = [
    (None, False),
    (b"", False),
    (body("tiny"), False),
    (body("tiny", num_ctx=8192), True),
    (body("TINY:latest", num_ctx=None), True),
    (body("copy", num_ctx=8192), True),
    (body("other", num_ctx=8192), False),
    (body("unheard-of", num_ctx=8192), True),
    (body("tiny", seed=1), False),
    (body("tiny", stop=['"num_ctx"']), False),
    (b'{"model":"tiny","prompt":"x","num_ctx":1}', False),
    (b'{"model":"other","prompt":"%b","options":{"num_ctx":1}}' % (b"x" * 2_000_000), True),
    (body(7, num_ctx=8192), True),
    (b'{"model":"no such name","num_ctx":1}', True),
    (b'{"model":"tiny","options":{"num_ctx":8192}', True),
    (upload(), True),
]
DIGESTS = {"tiny": "d1", "copy": "d1", "other": "d2"}


@pytest.mark.parametrize(("asked", "expected"), BODIES, ids=range(len(BODIES)))
def test_requests_that_may_have_the_model_loaded_with_a_length_of_their_own(asked: object, expected: bool) -> None:
    digests = {model_names.canonical(name): digest for name, digest in DIGESTS.items()}
    assert may_reload(asked, "d1", digests.get) == expected


@given(st.sampled_from([KNOWN, CHANGED, Contexts(first=1, now=2, before=3, since=4.5)]))
def test_what_was_saved_is_read_as_it_was(contexts: Contexts) -> None:
    assert unpacked(packed(contexts)) == contexts


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b'{"first":1,"now":2,"before":3}',
        b'{"first":0,"now":2,"before":3,"since":1}',
        b'{"first":true,"now":2,"before":3,"since":1}',
        b'{"first":1,"now":"2","before":3,"since":1}',
        b'{"first":1,"now":2,"before":3,"since":null}',
        packed(UNKNOWN),
    ],
)
def test_a_damaged_value_says_nothing(value: bytes) -> None:
    assert unpacked(value) == UNKNOWN
