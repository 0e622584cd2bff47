"""Entries in the clear are those of entry_codec, whatever the generation; what is sealed is left to who has the key."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.stores import entry_codec
from ollama_cache_proxy.stores.codecs import SEALED, PlainCodec
from ollama_cache_proxy.stores.sealed_codec import SealedCodec
from tests.support.entries import ENTRY, FULL_ENTRY

KEY = "ab" * 32
PLAIN = PlainCodec()


@pytest.mark.parametrize("entry", [ENTRY, FULL_ENTRY])
@pytest.mark.parametrize("generation", ["0" * 32, "f" * 32])
def test_without_a_seal_key_the_bytes_are_those_of_stores_that_are_in_use(entry, generation):
    value = PLAIN.encode(generation, KEY, entry)
    assert value == entry_codec.encode(KEY, entry)
    assert PLAIN.decode("1" * 32, KEY, value) == entry
    assert PLAIN.described_by(KEY, value) == entry_codec.described_by(KEY, value)
    found = PLAIN.decode_description("1" * 32, KEY, value, len(value))
    assert found is not None
    assert found == entry_codec.decode_description(KEY, value, len(value))
    assert (PLAIN.sealed, PLAIN.fingerprint_key) == (False, None)


def test_what_is_sealed_is_no_entry_without_a_key():
    value = SealedCodec(b"k" * 32).encode("0" * 32, KEY, FULL_ENTRY)
    assert PLAIN.decode("0" * 32, KEY, value) is None
    assert PLAIN.described_by(KEY, value) == 0
    assert PLAIN.decode_description("0" * 32, KEY, value, len(value)) is None


@pytest.mark.parametrize(
    ("value", "foreign"),
    [
        (SealedCodec(b"k" * 32).encode("0" * 32, KEY, FULL_ENTRY), True),
        (SEALED, True),
        (entry_codec.encode(KEY, FULL_ENTRY), False),
        (entry_codec.encode(KEY, FULL_ENTRY)[:50], False),
        (b"OCS2" + bytes(100), False),
        (b"", False),
        (b"x" * 100, False),
        (5, False),
    ],
)
def test_what_is_left_to_a_proxy_with_a_key(value, foreign):
    assert PLAIN.foreign(value) is foreign
