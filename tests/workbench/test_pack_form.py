from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from ollama_cache_proxy.policy.pack_records import note, record_of
from ollama_cache_proxy.workbench import pack_form
from ollama_cache_proxy.workbench.pack_form import About, Arriving, BadPackError, Totals

ABOUT = About(
    model="all-minilm:latest",
    digest="4f" * 32,
    version="0.33.3",
    epoch="",
    settings="00000000",
    filters={"model": "all-minilm"},
    made_by="ollama-cache-proxy 0.2.0",
)


def test_a_block_says_what_it_is_and_how_long():
    block = pack_form.text_block(pack_form.PROGRESS, {"a": 1})
    read = pack_form.read_prefix(block[: pack_form.PREFIX_BYTES])
    assert block == b'P\0\0\0\x07\0\0\0\x07{"a":1}'
    assert (read.kind, read.size, read.holds) == (b"P", 7, 7)
    assert pack_form.read_text(block[pack_form.PREFIX_BYTES :]) == {"a": 1}


@pytest.mark.parametrize(
    ("begin", "line"),
    [
        (b"", "is not a pack"),
        (b"PK\3\4abcd", "is not a pack"),
        (b"OCPPACX\1", "is not a pack"),
        (b"OCPPACK", "is not whole"),
        (b"OCP", "is not whole"),
        (b"OCPPACK\2", "is a pack of form 2; this version reads form 1"),
        (b"OCPPACK\0", "is a pack of form 0"),
    ],
)
def test_a_file_that_begins_otherwise_is_no_pack(begin, line):
    with pytest.raises(BadPackError, match=line):
        pack_form.check_begin(begin)
    pack_form.check_begin(b"OCPPACK\1")


@pytest.mark.parametrize(
    ("kind", "size", "holds"),
    [
        (b"X", 1, 1),
        (b"\0", 0, 0),
        (b"E", 2**32 - 1, 10),
        (b"E", 10, 2**32 - 1),
        (b"E", 10, pack_form.MAX_HELD + 1),
        (b"H", 2**31, 2**31),
        (b"T", 10, 11),
        (b"S", 95, 95),
        (b"S", 97, 97),
    ],
)
def test_a_block_that_there_cannot_be_is_refused_before_it_is_read(kind, size, holds):
    with pytest.raises(BadPackError, match="is damaged"):
        pack_form.read_prefix(pack_form.prefix(kind, size, holds))


@pytest.mark.parametrize(
    ("kinds", "sound"),
    [
        ("HT", True),
        ("HEPET", True),
        ("HEPPTS", True),
        ("T", False),
        ("EHT", False),
        ("HHT", False),
        ("HTE", False),
        ("HTT", False),
        ("HS", False),
        ("HTSE", False),
        ("HTSS", False),
    ],
)
def test_blocks_have_an_order(kinds, sound):
    def walk() -> bytes:
        before = b""
        for kind in (kind.encode() for kind in kinds):
            pack_form.check_order(before, kind)
            before = kind
        return before

    if sound:
        assert pack_form.ends(walk())
    else:
        with pytest.raises(BadPackError, match="is damaged"):
            walk()


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'"x"', b"[" * 100_000])
def test_a_block_of_another_thing_than_an_object_is_damaged(text):
    with pytest.raises(BadPackError, match="is damaged"):
        pack_form.read_text(text)


@pytest.mark.parametrize("about", [ABOUT, replace(ABOUT, context=4096)])
def test_what_a_pack_is_of_comes_back(about):
    assert pack_form.about(about.document()) == about


@pytest.mark.parametrize("value", [0, -1, "4096", 4096.0, True, []])
def test_a_head_with_another_thing_for_a_length_is_damaged(value):
    with pytest.raises(BadPackError, match="is damaged"):
        pack_form.about(ABOUT.document() | {"context": value})


@pytest.mark.parametrize("name", ["model", "digest", "version", "epoch", "settings", "madeBy"])
@pytest.mark.parametrize("value", [None, 1, ["x"]])
def test_a_head_without_one_of_its_texts_is_damaged(name, value):
    with pytest.raises(BadPackError, match="is damaged"):
        pack_form.about(ABOUT.document() | {name: value})


def test_totals_add_up_and_come_back():
    totals = Totals(entries=3, held=100)
    page = {"leftOut": {"expired": 2}, "scopes": [["", "", "", 2], ["team", "0a", "", 1]]}
    totals.add_page(page)
    totals.add_page(page)
    assert totals.left_out == {"expired": 4}
    assert totals.document()["scopes"] == [["", "", "", 4], ["team", "0a", "", 2]]
    assert pack_form.totals(totals.document()) == totals


def test_only_so_many_scopes_are_listed():
    """Clients choose namespaces, so there may be any number of them."""
    totals = Totals()
    for number in range(pack_form.MAX_SCOPES + 50):
        totals.add_page({"leftOut": {}, "scopes": [[str(number), "", "", 2]]})
    assert len(totals.scopes) == pack_form.MAX_SCOPES + 1
    assert totals.document()["scopes"][-1] == [100]
    assert pack_form.totals(totals.document()) == totals


@pytest.mark.parametrize(
    "page", [{}, {"leftOut": 1, "scopes": []}, {"leftOut": {}, "scopes": [1]}, {"leftOut": {"x": "y"}}]
)
def test_a_page_that_says_something_else_is_an_error(page):
    with pytest.raises(BadPackError, match="sent something else"):
        Totals().add_page(page)


@pytest.mark.parametrize(
    "change",
    [{"entries": -1}, {"entries": "1"}, {"bytes": 1.5}, {"leftOut": []}, {"leftOut": {"a": None}}, {"scopes": 1}],
)
def test_totals_that_are_no_numbers_are_damaged(change):
    with pytest.raises(BadPackError, match="is damaged"):
        pack_form.totals(Totals().document() | change)


def test_entries_of_a_block_are_counted_and_have_to_be_whole():
    entries = record_of("ab" * 32, b"one") + record_of("cd" * 32, b"")
    assert pack_form.count(entries) == 2
    with pytest.raises(BadPackError, match="is damaged"):
        pack_form.count(entries[:-1])


def test_what_arrives_is_held_until_it_is_whole():
    arriving = Arriving()
    data = record_of("ab" * 32, b"one") + note({"cursor": None})
    assert arriving.feed(data[:50]) == [(data[:39], None)]
    assert arriving.feed(data[50:]) == [(data[39:], {"cursor": None})]
    with pytest.raises(BadPackError, match="sent something else"):
        arriving.feed(b"\xff" * 36)


def test_what_signatures_are_of_stays_the_same():
    assert pack_form.SIGNED == b"ollama-cache-proxy pack\n"
    assert orjson.dumps(ABOUT.document()).startswith(b'{"model":"all-minilm:latest","digest":"4f4f')
