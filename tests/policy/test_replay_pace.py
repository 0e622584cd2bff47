from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.replay_pace import Pace, lines

JSON, EVENTS = b"application/x-ndjson", b"text/event-stream"


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (b"", JSON, []),
        (b"{}\n", JSON, [b"{}\n"]),
        (b"{}\n{}\n\n{", JSON, [b"{}\n", b"{}\n", b"\n", b"{"]),
        (b"\n{}\n", JSON, [b"\n", b"{}\n"]),
        (b"\n\ndata: {}\n\n", EVENTS, [b"\n\n", b"data: {}\n\n"]),
        (b"data: {}\n\ndata: [DONE]\n\n", EVENTS, [b"data: {}\n\n", b"data: [DONE]\n\n"]),
        (b"event: a\ndata: {}\n\nevent: b\n", EVENTS, [b"event: a\ndata: {}\n\n", b"event: b\n"]),
    ],
)
def test_a_stream_in_lines_or_events(data: bytes, kind: bytes, expected: list[bytes]) -> None:
    assert list(lines(data, kind)) == expected
    assert b"".join(expected) == data


def test_paces_have_the_names_that_settings_have() -> None:
    assert [pace.value for pace in Pace] == ["at-once", "recorded", "line"]
