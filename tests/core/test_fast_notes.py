"""What a note of the fast path takes, and the bytes that it has of a recorded stream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.core.fast_notes import version_of, written
from ollama_cache_proxy.policy.messages import packed
from tests.support.entries import ENTRY


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((b"abc",), b"3\r\nabc\r\n0\r\n\r\n"),
        ((b"a", b"b" * 17), b"1\r\na\r\n11\r\n" + b"b" * 17 + b"\r\n0\r\n\r\n"),
    ],
)
def test_a_recorded_stream_is_framed_chunk_for_chunk(pieces: tuple[bytes, ...], expected: bytes) -> None:
    chunks = packed((number, len(piece)) for number, piece in enumerate(pieces))
    assert written(replace(ENTRY, body=b"".join(pieces), pieces=chunks)) == expected


@pytest.mark.parametrize("change", [{"stored_at": 1.0}, {"took": 77.0}, {"body": b"another"}])
def test_an_entry_that_was_stored_anew_is_another_version(change: dict[str, object]) -> None:
    assert version_of(replace(ENTRY)) == version_of(ENTRY)
    assert version_of(replace(ENTRY, **change)) != version_of(ENTRY)
