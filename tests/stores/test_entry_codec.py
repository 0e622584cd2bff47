from __future__ import annotations

import binascii
import struct
from dataclasses import fields, replace
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_cache_proxy.policy.messages import EntryMetadata, StoredResponse, described, packed
from ollama_cache_proxy.stores.entry_codec import MAGIC, decode, decode_description, described_by, encode
from tests.support.entries import ENTRY, FULL_ENTRY

KEY = "ab" * 32
OTHER = "ac" + "ab" * 31
numbers = st.floats(min_value=0, max_value=1e12)
tokens = st.none() | st.integers(min_value=0, max_value=2**53)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
fingerprints = st.dictionaries(texts, st.binary(max_size=4).map(bytes.hex), max_size=3)
wholes = st.builds(
    StoredResponse,
    status=st.integers(min_value=100, max_value=599),
    reason=texts,
    fields=st.lists(st.tuples(st.binary(max_size=10), st.binary(max_size=30)), max_size=5).map(tuple),
    body=st.binary(max_size=300),
    stored_at=numbers,
    lifetime=st.integers(min_value=0, max_value=2**40),
    took=numbers,
    operation=texts,
    model=texts,
    category=texts,
    namespace=texts,
    prompt_tokens=tokens,
    output_tokens=tokens,
    fingerprints=fingerprints,
    scope=texts,
    imported=st.booleans(),
    idle=st.none() | st.integers(min_value=1, max_value=2**40),
)


@st.composite
def streams(draw) -> StoredResponse:
    """A whole response whose body is cut into pieces, empty ones among them."""
    entry = draw(wholes)
    cuts = sorted(draw(st.lists(st.integers(min_value=0, max_value=len(entry.body)), max_size=6)))
    sizes = [end - start for start, end in pairwise([0, *cuts, len(entry.body)])]
    times = draw(st.lists(st.integers(min_value=0, max_value=2**40), min_size=len(sizes), max_size=len(sizes)))
    return replace(entry, pieces=packed(zip(times, sizes, strict=True)))


entries = wholes | streams()


@settings(max_examples=300, deadline=None)
@given(entry=entries, key=st.binary(min_size=32, max_size=32).map(bytes.hex))
def test_an_entry_comes_back_as_it_went(entry, key):
    assert decode(key, encode(key, entry)) == entry


@settings(max_examples=300, deadline=None)
@given(entry=entries, key=st.binary(min_size=32, max_size=32).map(bytes.hex))
def test_an_entry_is_described_by_its_first_bytes(entry, key):
    value = encode(key, entry)
    length = described_by(key, value)
    assert length == len(value) - len(entry.pieces) - len(entry.body)
    assert decode_description(key, value[:length], len(value)) == described(key, entry, len(entry.body))
    assert decode_description(key, value, len(value)) == described(key, entry, len(entry.body))


@pytest.mark.parametrize("length", [44, 60, 100, 1024])
def test_a_prefix_that_is_too_short_says_so(length):
    entry = replace(FULL_ENTRY, fields=((b"Vary", b"x" * 2000),))
    value = encode(KEY, entry)
    needed = described_by(KEY, value[:length])
    assert needed == len(value) - len(FULL_ENTRY.body)
    assert decode_description(KEY, value[:length], len(value)) is None
    assert decode_description(KEY, value[: needed - 1], len(value)) is None
    assert decode_description(KEY, value[:needed], len(value)) is not None


def test_what_an_entry_has_not_takes_no_room():
    assert b"pieces" not in encode(KEY, FULL_ENTRY)
    assert b"marks" not in encode(KEY, FULL_ENTRY)
    assert b"scope" not in encode(KEY, FULL_ENTRY)
    assert b"imported" not in encode(KEY, FULL_ENTRY)
    assert decode(KEY, encode(KEY, FULL_ENTRY)) == replace(FULL_ENTRY, pieces=b"", fingerprints={})


def test_entries_share_what_is_equal_in_them():
    one, other = (decode(key, encode(key, replace(ENTRY, body=body))) for key, body in ((KEY, b"a"), ("b" * 64, b"b")))
    for name in ("fields", "operation", "model", "category", "namespace", "reason", "fingerprints"):
        assert getattr(one, name) is getattr(other, name), name


def test_a_body_of_any_bytes_comes_back():
    entry = replace(FULL_ENTRY, body=bytes(range(256)) * 4096)
    assert decode(KEY, encode(KEY, entry)) == entry


def test_the_form_is_what_the_head_of_the_module_says():
    value = encode(KEY, FULL_ENTRY)
    length = int.from_bytes(value[40:44], "big")
    assert value[:4] == b"OCP1"
    assert int.from_bytes(value[4:8], "big") == binascii.crc32(value[8:])
    assert value[8:40].hex() == KEY
    assert orjson.loads(value[44 : 44 + length])["status"] == 200
    assert value[44 + length :] == FULL_ENTRY.body


ABOUT_FULL = (
    b'"stored_at":1000.25,"lifetime":3600,"took":1.5,"operation":"generate",'
    b'"model":"registry.ollama.ai/library/tiny:latest","category":"batch","namespace":"team","prompt_tokens":7,'
)
FIELDS = b'"fields":[["Content-Type","application/json"],["Vary","Origin"]],'


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        pytest.param(
            ENTRY,
            b"OCP1\x25\x34\x3e\xfc" + b"\xab" * 32 + b'\0\0\0\xbe{"status":200,"reason":"OK","fields":[],"stored_at":0.0,'
            b'"lifetime":60,"took":1.0,"operation":"generate","model":"tiny","category":"","namespace":"",'
            b'"prompt_tokens":null,"output_tokens":null}{}',
            id="with next to nothing",
        ),
        pytest.param(
            FULL_ENTRY,
            b"OCP1\xe8\xc6\xba\x01" + b"\xab" * 32 + b'\0\0\x01!{"status":200,"reason":"OK",'
            + FIELDS + ABOUT_FULL + b'"output_tokens":null}{"response":"hello","done":true}',
            id="whole",
        ),
        pytest.param(
            replace(
                FULL_ENTRY,
                reason="Höflich\udc80",
                output_tokens=5,
                pieces=packed([(5, 12), (70_000, 20)]),
                fingerprints={"prompt": "00ff", "model": "0f"},
            ),
            b"OCP1\xde\xad\x8a2" + b"\xab" * 32 + b'\0\0\x01Z{"status":200,"reason":"H\xc3\x83\xc2\xb6flich\xc2\x80",'
            + FIELDS + ABOUT_FULL + b'"output_tokens":5,"pieces":2,"marks":{"prompt":"00ff","model":"0f"}}'
            b'\0\0\0\x05\0\0\0\x0c\0\x01\x11p\0\0\0\x14{"response":"hello","done":true}',
            id="a stream, with fingerprints",
        ),
        pytest.param(
            replace(FULL_ENTRY, scope="00000001.00000002.00000003..", imported=True),
            b"OCP1\xb1\x14\x91\x9f" + b"\xab" * 32 + b'\0\0\x01X{"status":200,"reason":"OK",'
            + FIELDS + ABOUT_FULL + b'"output_tokens":null,"scope":"00000001.00000002.00000003..","imported":true}'
            b'{"response":"hello","done":true}',
            id="out of a pack",
        ),
        pytest.param(
            replace(FULL_ENTRY, idle=60),
            b"OCP1[\x011\xfa" + b"\xab" * 32 + b'\0\0\x01+{"status":200,"reason":"OK",'
            + FIELDS + ABOUT_FULL + b'"output_tokens":null,"idle":60}{"response":"hello","done":true}',
            id="renewed by hits",
        ),
    ],
)  # fmt: skip
def test_the_bytes_are_those_of_stores_that_are_in_use(entry, value):
    assert encode(KEY, entry) == value
    assert decode(KEY, value) == entry


def test_all_of_an_entry_s_metadata_is_stored_and_checked_by_its_annotated_types():
    full = replace(FULL_ENTRY, body=b"", fingerprints={"prompt": "00ff"}, scope="a.b.c..", imported=True, idle=60)
    stored = orjson.loads(encode(KEY, full)[44:])
    members = {field.name for field in fields(EntryMetadata)} - {"fingerprints"} | {"marks"}
    assert set(stored) == members | {"reason", "fields"}
    for name in stored.keys() - {"reason", "fields"}:
        value = sealed(orjson.dumps(stored | {name: [1]}))
        assert decode_description(KEY, value, len(value)) is None, name


@pytest.mark.parametrize("idle", [0, -1, True, 1.5, "60", None])
def test_an_idle_time_that_is_none_is_not_served(idle):
    stored = orjson.loads(encode(KEY, replace(FULL_ENTRY, body=b"", idle=60))[44:])
    value = sealed(orjson.dumps(stored | {"idle": idle}))
    assert decode(KEY, value) is None
    assert decode_description(KEY, value, len(value)) is None


def test_a_change_of_any_single_bit_is_seen():
    value = encode(KEY, FULL_ENTRY)
    for at in range(len(value)):
        for bit in range(8):
            damaged = bytearray(value)
            damaged[at] ^= 1 << bit
            assert decode(KEY, bytes(damaged)) is None, (at, bit)


def test_a_description_of_a_damaged_value_is_of_the_right_form_or_none():
    entry = replace(FULL_ENTRY, pieces=packed([(5, 12), (7, 20)]), fingerprints={"prompt": "00ff"})
    value = encode(KEY, entry)
    whole = described(KEY, entry, len(entry.body))
    for at in range(described_by(KEY, value)):
        for bit in range(8):
            damaged = bytearray(value)
            damaged[at] ^= 1 << bit
            found = decode_description(KEY, bytes(damaged), len(value))
            forms = None if found is None else [type(getattr(found, field.name)) for field in fields(found)]
            assert forms in (None, [type(getattr(whole, field.name)) for field in fields(whole)]), (at, bit)


def test_a_value_that_is_cut_off_anywhere_is_none():
    value = encode(KEY, FULL_ENTRY)
    for length in range(len(value)):
        assert decode(KEY, value[:length]) is None, length
        assert described_by(KEY, value[:length]) == (0 if length < 44 else len(value) - len(FULL_ENTRY.body))


def test_a_value_with_more_after_it_is_none():
    value = encode(KEY, FULL_ENTRY)
    for more in (b"\0", b"x", b"\n", value):
        assert decode(KEY, value + more) is None


def test_a_value_under_another_key_is_none():
    for other in (OTHER, "no key", "", KEY[:-1]):
        assert decode(other, encode(KEY, FULL_ENTRY)) is None
        assert decode_description(other, encode(KEY, FULL_ENTRY), 10_000) is None
    assert decode(KEY, encode(OTHER, FULL_ENTRY)) is None


def test_the_case_of_a_keys_digits_does_not_count():
    assert decode(KEY.upper(), encode(KEY, FULL_ENTRY)) == FULL_ENTRY
    assert decode_description(KEY.upper(), encode(KEY, FULL_ENTRY), 10_000) is not None


@pytest.mark.parametrize("magic", [b"OCP0", b"OCP2", b"ocp1", b"\0\0\0\0"])
def test_a_value_of_another_version_is_none(magic):
    assert magic != MAGIC
    assert decode(KEY, magic + encode(KEY, FULL_ENTRY)[4:]) is None
    assert decode_description(KEY, magic + encode(KEY, FULL_ENTRY)[4:], 10_000) is None


@pytest.mark.parametrize("value", [b"", b"x", b"OCP1", b"\0" * 44, b"x" * 1000, b"OCP1" + b"\0" * 100])
def test_a_foreign_value_is_none(value):
    assert decode(KEY, value) is None
    assert decode_description(KEY, value, len(value)) is None


@pytest.mark.parametrize("value", [1, "OCP1", [b"OCP1"], ValueError("an error in a list of replies")])
def test_what_is_no_bytes_is_none(value):
    """What speaks Redis' protocol may reply with anything."""
    assert decode(KEY, value) is None


def sealed(text: bytes, *, length: int | None = None, body: bytes = b"body") -> bytes:
    """A value whose CRC is right, whatever it contains."""
    checked = bytes.fromhex(KEY) + struct.pack(">I", len(text) if length is None else length) + text + body
    return MAGIC + struct.pack(">I", binascii.crc32(checked)) + checked


ABOUT = orjson.loads(encode(KEY, replace(FULL_ENTRY, body=b""))[44:])


def about(**changes: object) -> bytes:
    return orjson.dumps(ABOUT | changes)


def test_a_sealed_value_of_the_right_form_is_an_entry():
    assert decode(KEY, sealed(about(), body=FULL_ENTRY.body)) == FULL_ENTRY
    pieces = packed([(0, 1), (9, 3)])
    entry = replace(FULL_ENTRY, body=b"body", pieces=pieces, fingerprints={"a": "ff"})
    value = sealed(about(pieces=2, marks={"a": "ff"}), body=pieces + b"body")
    assert decode(KEY, value) == entry
    assert decode_description(KEY, value, len(value)) == described(KEY, entry, 4)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(sealed(b""), id="no JSON"),
        pytest.param(sealed(b"{"), id="broken JSON"),
        pytest.param(sealed(b"{}"), id="an empty object"),
        pytest.param(sealed(b"[]"), id="an array"),
        pytest.param(sealed(b"5"), id="a number"),
        pytest.param(sealed(b"null"), id="null"),
        pytest.param(sealed(b'"text"'), id="a text"),
        pytest.param(sealed(about(), length=2**32 - 1), id="a length beyond the end"),
        pytest.param(sealed(about(), length=3), id="a length too short"),
        pytest.param(sealed(about(), length=0), id="a length of zero"),
        pytest.param(sealed(about(unknown=1)), id="a member too many"),
        pytest.param(sealed(orjson.dumps({k: v for k, v in ABOUT.items() if k != "model"})), id="a member too few"),
        pytest.param(sealed(orjson.dumps({k: v for k, v in ABOUT.items() if k != "fields"})), id="no fields"),
        pytest.param(sealed(about(fields=None)), id="fields of null"),
        pytest.param(sealed(about(fields=5)), id="fields of a number"),
        pytest.param(sealed(about(fields=[["a"]])), id="a field without a value"),
        pytest.param(sealed(about(fields=[["a", "b", "c"]])), id="a field of three"),
        pytest.param(sealed(about(fields=[[1, 2]])), id="a field of numbers"),
        pytest.param(sealed(about(fields=[["a", "☃"]])), id="a field that is no byte"),
        pytest.param(sealed(about(pieces=None)), id="pieces of null"),
        pytest.param(sealed(about(pieces=[])), id="pieces of a list"),
        pytest.param(sealed(about(pieces=True)), id="pieces of true"),
        pytest.param(sealed(about(pieces=-1)), id="less than no pieces"),
        pytest.param(sealed(about(pieces=1)), id="pieces that are not there"),
        pytest.param(sealed(about(pieces=2**62)), id="more pieces than there can be"),
        pytest.param(sealed(about(marks=None)), id="marks of null"),
        pytest.param(sealed(about(marks=["a"])), id="marks of a list"),
        pytest.param(sealed(about(marks={"a": 1})), id="a mark of a number"),
        pytest.param(sealed(about(marks={"a": None})), id="a mark of null"),
    ],
)
def test_a_sealed_value_of_another_form_is_none(value):
    assert decode(KEY, value) is None
    assert decode_description(KEY, value, len(value)) is None


@pytest.mark.parametrize("pieces", [[(0, 3)], [(0, 3), (0, 2)], [(0, 0)], [(0, 2**32 - 1)]], ids=str)
def test_pieces_that_are_not_those_of_the_body_are_no_entry(pieces):
    value = sealed(about(pieces=len(pieces)), body=packed(pieces) + b"body")
    assert decode(KEY, value) is None


@pytest.mark.parametrize(
    "change",
    [
        {"status": "200"},
        {"stored_at": None},
        {"lifetime": 1.5},
        {"took": [1]},
        {"operation": None},
        {"model": 5},
        {"category": {}},
        {"namespace": []},
        {"prompt_tokens": "7"},
        {"output_tokens": 1.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_description_is_of_the_right_types(change):
    value = sealed(about(**change))
    assert decode_description(KEY, value, len(value)) is None
