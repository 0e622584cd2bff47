"""Sealed entries: they come back as they went, and nothing that is not exactly what was sealed comes back."""

from __future__ import annotations

import hmac
import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_cache_proxy.policy.messages import described, packed
from ollama_cache_proxy.stores import entry_codec
from ollama_cache_proxy.stores.codecs import SEALED
from ollama_cache_proxy.stores.sealed_codec import SealedCodec
from tests.stores.test_entry_codec import entries
from tests.support.entries import ENTRY, FULL_ENTRY

KEY = "ab" * 32
OTHER_KEY = "ac" + "ab" * 31
GENERATION = "0123456789abcdef" * 2
OTHER_GENERATION = "1123456789abcdef" * 2
SECRET = bytes(range(32))
CODEC = SealedCodec(SECRET)
STREAM = replace(FULL_ENTRY, pieces=packed([(5, 12), (70_000, 20)]), fingerprints={"prompt": "00ff"})
VALUE = CODEC.encode(GENERATION, KEY, STREAM)
SMALL = CODEC.encode(GENERATION, KEY, ENTRY)
HEAD = 28

keys = st.binary(min_size=32, max_size=32).map(bytes.hex)
generations = st.binary(min_size=16, max_size=16).map(bytes.hex)
secrets = st.binary(min_size=32, max_size=32)


def read(codec: SealedCodec, generation: str, key: str, value: bytes) -> list[object]:
    """What a lookup and a listing would make of a value: an entry, and a description of the first bytes it asks for."""
    needed = codec.described_by(key, value)
    return [
        codec.decode(generation, key, value),
        codec.decode_description(generation, key, value[:needed], len(value)) if needed else None,
    ]


@settings(max_examples=200, deadline=None)
@given(entry=entries, key=keys, generation=generations, secret=secrets)
def test_an_entry_comes_back_as_it_went(entry, key, generation, secret):
    codec = SealedCodec(secret)
    value = codec.encode(generation, key, entry)
    assert SealedCodec(secret).decode(generation, key, value) == entry
    length = codec.described_by(key, value[:HEAD])
    whole = described(key, entry, len(entry.body))
    assert codec.decode_description(generation, key, value[:length], len(value)) == whole
    assert codec.decode_description(generation, key, value, len(value)) == whole
    assert codec.decode_description(generation, key, value[: length - 1], len(value)) is None
    assert len(value) == len(entry_codec.encode(key, entry)) - 44 + HEAD + 2 * 16


def test_the_form_is_what_the_head_of_the_module_says():
    assert VALUE[:4] == SEALED == b"OCS1"
    assert VALUE[4:12] == SMALL[4:12], "the key's name"
    assert VALUE[12:24] != SMALL[12:24], "the nonce"
    text = entry_codec.metadata(STREAM)
    assert int.from_bytes(VALUE[24:28], "big") == len(text) + 16
    assert len(VALUE) == HEAD + len(text) + 16 + len(STREAM.pieces) + len(STREAM.body) + 16


def derived(label: str) -> bytes:
    """A subkey by RFC 5869, without a salt, from HMAC alone."""
    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    return hmac.digest(extracted, f"ollama-cache-proxy seal 1 {label} {GENERATION}".encode() + b"\x01", "sha256")


def test_it_can_be_opened_by_what_the_head_of_the_module_says():
    head, text, body = parts(VALUE)
    bound = head + bytes.fromhex(KEY) + GENERATION.encode()
    assert AESGCM(derived("metadata")).decrypt(head[12:24], text, bound) == entry_codec.metadata(STREAM)
    assert AESGCM(derived("body")).decrypt(head[12:24], body, bound) == STREAM.pieces + STREAM.body


USED = bytes.fromhex(
    "4f43533124256f29d0d42ca76e6e6e6e6e6e6e6e6e6e6e6e000000ceada24baece82e8acf8d46e52d2867f8a3ecf553304f1bdba154ed130"
    "2b9af262ccc5fc17e97d377029cf7c94adc10fb8135b5001753f63758c72323216e169cdf186f8922949785b9bf18b8e49bb29f6562fac2c"
    "67935d8b494d1e971ca626b331760d9cd37f53e4b5954e0efc56772aea259ad5bf4ad7d49c9ed0120fa57beb7309cd211d6508138a57e247"
    "9aa281ab0fc6c31d92b474bdb002545e387e89fd5401ccf216c7bc2bdcdca7ab419f7af7ae58484cb3636b6db08e2e5590e739e608d1d50f"
    "a859b851148082508ab953aa39989f52ab1708505648e596f927d753"
)


def test_sealed_stores_that_are_in_use_stay_readable(monkeypatch):
    assert CODEC.decode(GENERATION, KEY, USED) == ENTRY
    monkeypatch.setattr("os.urandom", lambda count: b"n" * count)
    assert CODEC.encode(GENERATION, KEY, ENTRY) == USED


def test_two_values_of_one_entry_have_nothing_but_head_and_length_in_common():
    other = CODEC.encode(GENERATION, KEY, STREAM)
    assert other[:12] == VALUE[:12]
    assert other[24:28] == VALUE[24:28]
    same = sum(a == b for a, b in zip(other[28:], VALUE[28:], strict=True))
    assert same < len(VALUE) / 8


@pytest.mark.parametrize(
    ("codec", "generation", "key"),
    [
        pytest.param(SealedCodec(bytes(32)), GENERATION, KEY, id="another seal key"),
        pytest.param(CODEC, OTHER_GENERATION, KEY, id="another generation"),
        pytest.param(CODEC, "", KEY, id="no generation"),
        pytest.param(CODEC, GENERATION, OTHER_KEY, id="another key"),
        pytest.param(CODEC, GENERATION, KEY[:-1], id="half a digit less"),
        pytest.param(CODEC, GENERATION, KEY[:-2], id="a byte less"),
        pytest.param(CODEC, GENERATION, "no key", id="no key"),
        pytest.param(CODEC, GENERATION, "", id="an empty key"),
        pytest.param(CODEC, GENERATION[2:], KEY + "30", id="a digit of the generation in the key"),
    ],
)
def test_a_value_that_was_moved_is_none(codec, generation, key):
    assert read(codec, generation, key, VALUE) == [None, None]
    assert read(CODEC, GENERATION, KEY, VALUE)[0] == STREAM


def test_the_case_of_a_keys_digits_does_not_count():
    assert CODEC.decode(GENERATION, KEY.upper(), VALUE) == STREAM


@pytest.mark.parametrize("value", [VALUE, SMALL], ids=["a stream", "small"])
def test_a_change_of_any_single_bit_is_seen(value):
    described_in = CODEC.described_by(KEY, value)
    for at in range(len(value)):
        for bit in range(8):
            damaged = bytearray(value)
            damaged[at] ^= 1 << bit
            entry, description = read(CODEC, GENERATION, KEY, bytes(damaged))
            assert entry is None, (at, bit)
            assert (description is None) == (at < described_in), (at, bit)


def test_a_value_that_is_cut_off_anywhere_is_none():
    for length in range(len(VALUE)):
        assert CODEC.decode(GENERATION, KEY, VALUE[:length]) is None, length
        assert CODEC.decode(GENERATION, KEY, VALUE[length:] if length else b"") is None, length


@pytest.mark.parametrize("more", [b"\0", b"\n", bytes(16), VALUE], ids=["a zero", "a newline", "zeros", "a value"])
def test_a_value_with_more_after_it_is_none(more):
    assert CODEC.decode(GENERATION, KEY, VALUE + more) is None


def parts(value: bytes) -> tuple[bytes, bytes, bytes]:
    """Head, sealed JSON, sealed body."""
    cut = CODEC.described_by(KEY, value)
    return value[:HEAD], value[HEAD:cut], value[cut:]


def test_parts_of_two_values_are_no_entry():
    """Neither two writes of one entry nor JSON and body of one value can be put together in another way."""
    empty = replace(ENTRY, body=entry_codec.metadata(ENTRY))  # both parts are of the same length
    one, other = (CODEC.encode(GENERATION, KEY, empty) for _ in range(2))
    (head, text, body), (other_head, other_text, other_body) = parts(one), parts(other)
    assert len(body) == len(text) == len(entry_codec.metadata(empty)) + 16
    assert CODEC.decode(GENERATION, KEY, head + text + body) == empty
    for mixed in (
        head + text + other_body,
        head + other_text + body,
        other_head + text + body,
        head + body + text,
        head + text + text,
        head + body + body,
    ):
        assert CODEC.decode(GENERATION, KEY, mixed) is None


@settings(max_examples=500, deadline=None)
@given(value=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: VALUE[:HEAD] + tail))
def test_any_other_value_is_none(value):
    assert read(CODEC, GENERATION, KEY, value) == [None, None]


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_value_in_which_anything_was_replaced_is_none(data):
    start = data.draw(st.integers(0, len(VALUE)), label="start")
    end = data.draw(st.integers(start, len(VALUE)), label="end")
    instead = data.draw(st.binary(max_size=40), label="instead")
    changed = VALUE[:start] + instead + VALUE[end:]
    assert CODEC.decode(GENERATION, KEY, changed) == (STREAM if changed == VALUE else None)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 2**31, 2**32 - 1])
def test_a_length_that_is_not_that_of_the_json_is_none(length):
    value = VALUE[:24] + length.to_bytes(4, "big") + VALUE[28:]
    assert read(CODEC, GENERATION, KEY, value) == [None, None]


@pytest.mark.parametrize("value", [1, "OCS1", None, [VALUE], ValueError("an error in a list of replies")])
def test_what_is_no_bytes_is_none(value):
    assert CODEC.decode(GENERATION, KEY, value) is None
    assert CODEC.foreign(value) is False


@pytest.mark.parametrize(
    ("value", "foreign"),
    [
        pytest.param(entry_codec.encode(KEY, FULL_ENTRY), True, id="in the clear"),
        pytest.param(SealedCodec(bytes(32)).encode(GENERATION, KEY, FULL_ENTRY), True, id="another seal key"),
        pytest.param(VALUE, False, id="whole"),
        pytest.param(VALUE[:50], False, id="cut"),
        pytest.param(VALUE[:-1] + b"x", False, id="changed"),
        pytest.param(b"OCS2" + VALUE[4:], False, id="another version"),
        pytest.param(b"", False, id="empty"),
        pytest.param(b"x" * 100, False, id="anything"),
    ],
)
def test_what_another_proxy_may_read_is_told_from_damage(value, foreign):
    assert CODEC.foreign(value) is foreign


def test_an_entry_in_the_clear_is_none():
    value = entry_codec.encode(KEY, FULL_ENTRY)
    assert read(CODEC, GENERATION, KEY, value) == [None, None]


def test_nothing_of_an_entry_shows():
    planted = replace(
        FULL_ENTRY,
        reason="planted",
        fields=((b"X-Planted", b"planted"),),
        body=b"planted" * 50,
        operation="planted",
        model="planted",
        category="planted",
        namespace="planted",
        fingerprints={"planted": "00"},
    )
    assert b"planted" in entry_codec.encode(KEY, planted)
    assert b"planted" not in CODEC.encode(GENERATION, KEY, planted)


def test_the_fingerprint_key_follows_from_the_seal_key_and_is_not_it():
    assert CODEC.fingerprint_key == SealedCodec(SECRET).fingerprint_key
    assert CODEC.fingerprint_key not in (SECRET, SealedCodec(bytes(32)).fingerprint_key)
    assert len(CODEC.fingerprint_key) == 32
    assert CODEC.sealed


def test_many_generations_take_no_more_memory_than_a_few():
    codec = SealedCodec(SECRET)
    values = {f"{number:032x}": codec.encode(f"{number:032x}", KEY, ENTRY) for number in range(20)}
    assert len(codec._subkeys) == 4
    assert all(codec.decode(generation, KEY, value) == ENTRY for generation, value in values.items())
    assert len(codec._subkeys) == 4


def test_it_is_not_imported_by_a_proxy_that_does_not_seal():
    """It takes 7 MB."""
    code = "import sys, ollama_cache_proxy.service.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert "ollama_cache_proxy.service.sealing" in done.stdout.split()
    assert "cryptography.hazmat" not in done.stdout.split()
