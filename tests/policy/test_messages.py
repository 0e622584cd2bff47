from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest

from ollama_cache_proxy.policy.messages import (
    MAX_LENGTH,
    Description,
    EntryMetadata,
    ResponseHead,
    described,
    first,
    members,
    packed,
    rendered,
    unpacked,
    values,
    without,
)
from tests.support.entries import FULL_ENTRY

LINES = (
    (b"Host", b"a"),
    (b"X-Thing", b"One, TWO"),
    (b"x-thing", b""),
    (b"X-THING", b' three ,, four="x",\t'),
    (b"X-Thing-Too", b"no"),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(b"host", [b"a"], id="one line"),
        pytest.param(b"x-thing", [b"One, TWO", b"", b' three ,, four="x",\t'], id="all lines in order, bytes as sent"),
        pytest.param(b"x-thin", [], id="a prefix is another name"),
        pytest.param(b"absent", [], id="absent"),
    ],
)
def test_values_are_those_of_every_line_whatever_the_case_of_its_name(name, expected):
    assert values(LINES, name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(b"x-thing", b"One, TWO", id="the first of several"),
        pytest.param(b"x-thing-too", b"no", id="the only one"),
        pytest.param(b"absent", None, id="absent"),
    ],
)
def test_first_is_the_first_line_or_none(name, expected):
    assert first(LINES, name) == expected


def test_first_tells_an_empty_value_from_none():
    assert first(((b"A", b""),), b"a") == b""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(LINES, [b"one", b"two", b"three", b'four="x"'], id="over all lines, lower case, trimmed"),
        pytest.param(((b"X-Thing", b""),), [], id="an empty line has none"),
        pytest.param(((b"X-Thing", b" , ,\t,"),), [], id="empty members do not count"),
        pytest.param((), [], id="no line at all"),
    ],
)
def test_members_are_those_of_a_comma_separated_list(fields, expected):
    assert members(fields, b"x-thing") == expected


def test_an_entry_is_a_whole_response_without_fingerprints_unless_it_says_so():
    assert (FULL_ENTRY.pieces, FULL_ENTRY.fingerprints) == (b"", {})


@pytest.mark.parametrize(
    "changes",
    [{}, {"pieces": packed([(0, 1), (12, 3)]), "fingerprints": {"model": "0f"}}],
    ids=["whole", "a stream, with fingerprints"],
)
def test_a_description_says_all_of_an_entry_but_what_was_asked_and_answered(changes):
    entry = replace(FULL_ENTRY, **changes)
    expected = asdict(entry) | {"key": "k", "size": 99, "streamed": bool(changes)}
    for name in ("reason", "fields", "body", "pieces"):
        del expected[name]
    assert asdict(described("k", entry, 99)) == expected
    assert {field.name for field in fields(Description)} == set(expected)


def test_a_description_has_each_of_an_entry_s_metadata_from_the_entry():
    metadata = {field.name: object() for field in fields(EntryMetadata)}
    entry = replace(FULL_ENTRY, **metadata)
    assert {name: getattr(described("k", entry, 1), name) for name in metadata} == metadata


@pytest.mark.parametrize("pieces", [[], [(0, 0)], [(1, 2), (2**32 - 1, 2**32 - 1)]], ids=len)
def test_pieces_come_back(pieces):
    assert list(unpacked(packed(pieces))) == pieces


def test_a_piece_that_came_after_weeks_came_as_late_as_can_be_said():
    assert list(unpacked(packed([(2**40, 1)]))) == [(2**32 - 1, 1)]


def test_lines_without_some_fields_keep_their_order():
    assert without(LINES, b"x-thing") == (LINES[0], LINES[4])
    assert without(LINES, b"host", b"x-thing-too") == LINES[1:4]
    assert without(LINES) == LINES


@pytest.mark.parametrize(
    ("head", "framing", "minor", "expected"),
    [
        (ResponseHead(status=204, reason="", fields=()), (), 1, b"HTTP/1.1 204 \r\n\r\n"),
        (
            ResponseHead(status=200, reason="Fine \udcff", fields=((b"X-A", b"1"), (b"x-a", b""))),
            ((b"Content-Length", b"3"),),
            0,
            b"HTTP/1.0 200 Fine \xff\r\nX-A: 1\r\nx-a: \r\nContent-Length: 3\r\n\r\n",
        ),
    ],
    ids=["nothing", "fields and framing"],
)
def test_a_head_is_a_status_line_its_fields_and_an_empty_line(head, framing, minor, expected):
    assert rendered(head, framing, minor=minor) == expected


def test_the_largest_length_is_that_of_a_signed_number_of_64_bits() -> None:
    assert MAX_LENGTH == 9_223_372_036_854_775_807
