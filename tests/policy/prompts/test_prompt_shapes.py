"""What changes in a place, by two blocks that stood there."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.prompts.prompt_shapes import Shape, shape


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("message 41 of this session", "message 42 of this session", Shape.NUMBER),
        ("message 11 of this session", "message 1 of this session", Shape.NUMBER),
        ("message 9 of this session", "message 10 of this session", Shape.NUMBER),
        ("Today is 2026-03-04. Be brief", "Today is 2026-03-05. Be brief", Shape.DATE),
        ("Today is Monday, be brief", "Today is Tuesday, be brief", Shape.DATE),
        ("It is 2026-03-04T10:11:12Z now", "It is 2026-03-04T10:11:13Z now", Shape.TIME),
        ("the time is 10:11:12 now", "the time is 10:12:59 now", Shape.TIME),
        ("at 1767225600 we began", "at 1767225661 we began", Shape.TIME),
        ("cch=a1b2c; and so on", "cch=09fe3; and so on", Shape.ID),
        ("cc_version=2.1.37.a1b2c; x", "cc_version=2.1.37.09fe3; x", Shape.ID),
        ("id 6f1b1a52-9d1c-4b8e-9b52-0f7b and", "id 7f1b1a52-9d1c-4b8e-9b52-0f7b and", Shape.ID),
        ("the sky is grey today", "the sky is blue today", Shape.TEXT),
        ("the same", "the same", Shape.UNKNOWN),
        ("", "", Shape.UNKNOWN),
    ],
)
def test_what_changes_is_told(before: str, now: str, expected: Shape) -> None:
    for text in (now, "x" * 64 + now, "é" * 70 + now + "é" * 70):
        at = text.encode().index(now.encode())
        assert shape(before.encode(), now.encode(), text.encode(), at) is expected


def test_an_id_that_goes_over_the_end_of_a_block_is_seen_as_a_whole() -> None:
    text = b"x" * 60 + b" 01a2b3c4"
    assert shape(b"x" * 60 + b" 010", text[:64], text, 0) is Shape.ID
    assert shape(b"a2b3c5", text[64:], text, 64) is Shape.ID


def test_blocks_that_are_cut_within_a_character_do_not_fail() -> None:
    assert shape("ä1".encode()[1:], "ä2".encode()[1:], "ä2".encode(), 1) is Shape.NUMBER
