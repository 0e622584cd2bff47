from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.listing.items import base64_numbers, decode, encode, is_base64, sound
from tests.support.lists import WHOLE, cut, recorded, some

# Entries


@pytest.mark.parametrize(
    "item",
    [
        some(),
        some(exact=False),
        some(tokens=0, total=0, load=0),
        some(tokens=2**63 - 1, total=2**63 - 1, load=2**63 - 1),
        some(b"[-0,1e-7,1e+21,0.25]"),
        some(b"[1]"),
        some(b'"AACAPw=="'),
        replace(some(b"[ 1]"), frame=b'{"a":"] [0.5]"}'),
        replace(some(), tokens=None, frame=b"{}"),
        replace(some(), clipped=True),
    ],
)
def test_an_item_is_read_as_it_was_written(item):
    assert decode(encode(item)) == item


@pytest.mark.parametrize("name", WHOLE)
def test_recorded_items_are_stored_as_they_are(name):
    items = cut(*recorded(name))
    assert {text: decode(encode(item)) for text, item in items.items()} == items
    assert all(len(encode(item)) < len(item.vector) + 60 for item in items.values())


def test_the_form_of_an_entry_is_pinned():
    """Another form needs another head, so that old entries are read as nothing and not as something else."""
    assert encode(some(b"[-0.5,1e-7]")) == b"item/4 2 3 exact 7 5 0 [-0.5,1e-7]"
    assert encode(some(exact=False)) == b"item/4 1 3 share 7 5 0 [0.5]"
    framed = replace(some(b'"AACAPw=="'), tokens=None, frame=b'{"[":1}')
    assert encode(framed) == b'item/4 1 - exact 7 5 7 {"[":1}"AACAPw=="'
    assert encode(replace(some(), clipped=True)) == b"item/4-clipped 1 3 exact 7 5 0 [0.5]"


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"item/4",
        b"item/4-clipped-clipped 1 3 exact 7 5 0 [0.5]",
        b"item/4-cut 1 3 exact 7 5 0 [0.5]",
        b"item/1 3 exact 7 5 [0.5]",
        b"item/3 1 3 exact 7 5 [0.5]",
        b"item/2 3 exact 7 5 fcf27573 [0.5]",
        b"item/3 3 exact 7 5 [0.5]",
        b"item/4 0 3 exact 7 5 0 [0.5]",
        b"item/4 1 3 exact 7 5 0",
        b"item/4 1 3 exact 7 5 0 ",
        b"item/4 1 3 exact 7 0 [0.5]",
        b"item/4 1 3 7 5 0 [0.5]",
        b"item/4 1 3 true 7 5 0 [0.5]",
        b"item/4 1 -3 exact 7 5 0 [0.5]",
        b"item/4 1 03 exact 7 5 0 [0.5]",
        b"item/4 1 3.0 exact 7 5 0 [0.5]",
        b"item/4 1  exact 7 5 0 [0.5]",
        b"item/4 1 9223372036854775808 exact 7 5 0 [0.5]",
        b"item/4 1 3 exact 9223372036854775808 5 0 [0.5]",
        b"item/4 1 3 exact 7 9223372036854775808 0 [0.5]",
        b"item/4 1 3 exact 7 99999999999999999999 0 [0.5]",
        b" item/4 1 3 exact 7 5 0 [0.5]",
        b"item/4 1 3 exact 7 5 0 [0.5]\n",
        b"item/4 1 3 exact 7 5  0 [0.5]",
        b"item/4 1 3 exact 7 5 0 0.5",
        b"item/4 1 3 exact 7 5 0 [",
        b"item/4 1 3 exact 7 5 5 [0.5]",
        b"item/4 1 3 exact 7 5 9 [0.5]",
        b"item/4 1 - exact 7 5 0 [0.5]",
        b"item/4 1 3 exact 7 5 00 [0.5]",
        b'item/4 1 3 exact 7 5 0 [0.5"',
        b'item/4 1 3 exact 7 5 0 "AAAA]',
        b'{"embedding":[0.5]}',
        b'{"model":"m","embeddings":[[0.5]],"prompt_eval_count":3}',
    ],
)
def test_anything_else_is_no_item(entry):
    assert decode(entry) is None


def test_a_torn_entry_is_no_item():
    entry = encode(some(b"[0.25,-0.5,1e-7]"))
    assert not any(decode(entry[:end]) for end in range(len(entry)))


# Vectors


@pytest.mark.parametrize(
    ("vector", "numbers", "expected"),
    [
        (b"[1]", 1, True),
        (b"[1,2]", 2, True),
        (b"[1,2]", 3, False),
        (b"[3.4e38]", 1, True),
        (b"[3.5e38]", 1, False),
        (b"[1,]", 2, False),
        (b"[.5]", 1, False),
        (b"[null]", 1, False),
        (b'"AACAPw=="', 1, True),
        (b'"AACAPw=="', 2, False),
        (b'"AADAfw=="', 1, False),  # NaN
        (b'"AACAfw=="', 1, False),  # infinity
        (b'"AACA"', 1, False),
    ],
)
def test_a_sound_vector_has_so_many_numbers_of_float32(vector, numbers, expected):
    assert sound([vector], numbers) is expected
    assert sound([memoryview(vector)] * 2, numbers) is expected


@pytest.mark.parametrize(
    ("text", "numbers"), [(b"AACAPw==", 1), (b"AACAPwAAAEA=", 2), (b"", 0), (memoryview(b"AACAPw=="), 1)]
)
def test_base64_has_a_number_for_each_four_bytes(text, numbers):
    assert base64_numbers(text) == numbers


@pytest.mark.parametrize(
    "text", [b"AACAPw", b"AACAPw===", b"AACA Pw==", b"AACA\nPw==", b"AACA", b"AA-APw==", b"=", b"A"]
)
def test_no_other_text_is_base64_of_numbers(text):
    with pytest.raises(ValueError):
        base64_numbers(text)


def test_base64_is_told_from_numbers_by_its_quote():
    assert is_base64(b'"AACAPw=="')
    assert is_base64(memoryview(b'"AACAPw=="'))
    assert not is_base64(b"[1]")
