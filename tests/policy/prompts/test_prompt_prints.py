"""How many blocks two texts share, held against the plain way to count them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_cache_proxy.policy.prompts.prompt_prints import BLOCK, PRINT, alike, packed, prints, shared, unpacked

SIZES = (0, 1, 63, 64, 65, 127, 128, 4096, 128 * 64 - 1, 128 * 64, 128 * 64 + 1, 300 * 64 + 7)


def blocks(text: bytes) -> list[bytes]:
    return [text[at : at + BLOCK] for at in range(0, len(text), BLOCK)]


@pytest.mark.parametrize("size", SIZES)
def test_a_text_has_a_fingerprint_for_each_block_and_one_for_the_rest(size: int) -> None:
    text = bytes(number % 251 for number in range(size))
    assert [*unpacked(prints(text))] == [hash(block) for block in blocks(text)]


@given(st.binary(max_size=700), st.binary(max_size=300), st.binary(max_size=300))
def test_texts_share_their_first_equal_blocks(begin: bytes, one: bytes, other: bytes) -> None:
    first, second = blocks(begin + one), blocks(begin + other)
    same = next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    assert shared(prints(begin + one), prints(begin + other)) == same


@given(st.lists(st.binary(max_size=64), max_size=9), st.lists(st.booleans(), max_size=9))
def test_blocks_behind_a_difference_are_counted_where_they_stand(texts: list[bytes], change: list[bool]) -> None:
    one = packed(map(hash, texts))
    changed = [text + b"!" if differs else text for text, differs in zip(texts, change, strict=False)]
    other = packed(map(hash, changed))
    assert alike(one, other) == change[: len(texts)].count(False)
    assert len(other) == PRINT * len(changed)


def test_hashes_are_packed_and_unpacked() -> None:
    assert [*unpacked(packed([1, -1, 2**63 - 1, -(2**63)]))] == [1, -1, 2**63 - 1, -(2**63)]
