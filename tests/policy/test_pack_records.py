from __future__ import annotations

import struct

import pytest

from ollama_cache_proxy.policy.pack_records import MAX_ENTRY, cut, note, record_of, records

KEY, OTHER = "ab" * 32, "cd" * 32
ENTRIES = record_of(KEY, b"one") + record_of(OTHER, b"")


def test_the_bytes_are_those_of_packs_that_exist():
    assert record_of(KEY, b"one") == b"\xab" * 32 + b"\0\0\0\3one"
    assert note({"a": 1}) == bytes(32) + b'\0\0\0\7{"a":1}'


def test_entries_come_out_as_they_went_in():
    assert list(records(ENTRIES)) == [(KEY, b"one"), (OTHER, b"")]
    assert list(records(b"")) == []


def test_entries_that_are_cut_off_anywhere_are_an_error():
    whole = {0, len(record_of(KEY, b"one")), len(ENTRIES)}
    for length in range(len(ENTRIES) + 1):
        if length not in whole:
            with pytest.raises(ValueError, match="not whole"):
                list(records(ENTRIES[:length]))


@pytest.mark.parametrize("length", [MAX_ENTRY + 1, 2**32 - 1])
def test_a_length_that_is_too_large_is_an_error_before_anything_is_read(length):
    head = struct.pack(">32sI", bytes.fromhex(KEY), length)
    for read in (lambda data: list(records(bytes(data))), cut):
        with pytest.raises(ValueError, match="too large"):
            read(bytearray(head))


def test_what_arrives_is_cut_into_whole_records_wherever_it_is_torn():
    sent = note({"model": "m"}) + ENTRIES + note({"cursor": None})
    wanted = [{"model": "m"}, None, None, {"cursor": None}]
    for size in (1, 7, 36, 1000):
        data, found = bytearray(), []
        for begin in range(0, len(sent), size):
            data += sent[begin : begin + size]
            some, used = cut(data)
            del data[:used]
            found += some
        assert [about for _, about in found] == wanted
        assert b"".join(record for record, _ in found) == sent
        assert not data


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"1"])
def test_a_note_that_is_no_object_is_an_error(text):
    with pytest.raises(ValueError):
        cut(bytearray(bytes(32) + struct.pack(">I", len(text)) + text))


def test_an_entry_of_the_largest_size_is_read_and_no_larger_one():
    largest = record_of(KEY, bytes(MAX_ENTRY))
    assert [len(value) for _, value in records(largest)] == [MAX_ENTRY]
    assert cut(bytearray(largest)) == ([(largest, None)], len(largest))
    for read in (lambda data: list(records(bytes(data))), cut):
        with pytest.raises(ValueError, match="too large"):
            read(bytearray(record_of(KEY, bytes(MAX_ENTRY + 1))))


def test_the_largest_entry_is_that_of_the_documentation():
    assert MAX_ENTRY == 8 * 1024 * 1024
