"""Each endpoint speaks one dialect, and nothing outside of dialects/ tests which one it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ollama_cache_proxy.policy.dialects import anthropic, ollama, openai, responses, token_counts, transcriptions
from ollama_cache_proxy.policy.dialects.dialect import Dialect, Usage, Vectors, events, last_event, split
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, Endpoint

SOURCE = Path(__file__).parents[3] / "proxy" / "ollama_cache_proxy"
SPOKEN = {
    "/v1/messages": anthropic,
    "/v1/responses": responses,
    "/v1/messages/count_tokens": token_counts,
    "/v1/audio/transcriptions": transcriptions,
}
DECIDING = ("core", "policy", "downstream", "upstream", "stores", "telemetry")


@pytest.mark.parametrize("endpoint", [OTHER, *ENDPOINTS], ids=lambda row: row.operation)
def test_each_endpoint_speaks_its_dialect(endpoint: Endpoint) -> None:
    usual = openai if endpoint.path.startswith("/v1/") else ollama
    assert endpoint.dialect is SPOKEN.get(endpoint.path, usual)


def test_an_endpoint_with_items_has_a_dialect_with_lists() -> None:
    assert [row.operation for row in ENDPOINTS if row.items and row.dialect.LISTS is None] == []


def test_no_path_or_operation_is_asked_for_outside_the_table_and_its_dialects() -> None:
    """`GET /api/tags`, `POST /api/show` and the like, which the proxy sends itself, are requests and no decisions."""
    paths = [row.path for row in ENDPOINTS if row.method == "POST" and row.operation != "show"] + ["/v1/"]
    operations = [row.operation for row in ENDPOINTS if "-" in row.operation]
    pattern = re.compile("|".join(f'"{re.escape(name)}"' for name in (*paths, *operations)))
    for room in DECIDING:
        for path in (SOURCE / room).rglob("*.py"):
            if path.parent.name != "dialects" and path.name != "endpoints.py":
                assert pattern.search(path.read_text("utf-8")) is None, path


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b'event: a\ndata: {"x":1}\n\nevent: b\ndata: {}\n\n', [(b"a", {"x": 1}), (b"b", {})]),
        (b"event: a\ndata: {}\n", []),
        (b"event: a\ndata: []\n\n", []),
        (b"event: a\ndata: {}\ndata: {}\n\n", []),
        (b"data: {}\n\n", []),
        (b"data: {}\ndata: {}\n\n", []),
        (b"event: a\nretry: 1\n\n", []),
        (b"event: a\nevent: b\n\n", []),
        (b"", []),
    ],
)
def test_events_are_read_only_in_the_form_in_which_ollama_writes_them(
    body: bytes, read: list[tuple[bytes, object]]
) -> None:
    assert [found for blocks in split(body, b"\n\n") for found in events(blocks)] == read


@pytest.mark.parametrize(
    ("chunk", "name"),
    [
        (b"event: a\ndata: {}\n\n", b"a"),
        (b"event: a\ndata: {}\n\nevent: b\ndata: {}\n\n", b"b"),
        (b"event: a\ndata: {}\n", b""),
        (b"", b""),
    ],
)
def test_the_name_of_the_last_event_is_known_where_a_chunk_ends_with_it(chunk: bytes, name: bytes) -> None:
    assert last_event(chunk) == name


@pytest.mark.parametrize(
    ("prompt", "cached", "computed"), [(1598, 1595, 3), (5, 0, 5), (5, None, None), (None, 5, None), (0, 0, 0)]
)
def test_computed_tokens_are_known_only_where_cached_ones_are_told(
    prompt: int | None, cached: int | None, computed: int | None
) -> None:
    assert Usage(prompt_tokens=prompt, cached_tokens=cached).computed_tokens == computed


@pytest.mark.parametrize(
    "dialect",
    [anthropic, responses, token_counts, transcriptions],
    ids=["messages", "responses", "count-tokens", "transcriptions"],
)
def test_a_dialect_without_embeddings_finds_no_vectors(dialect: Dialect) -> None:
    assert dialect.vectors({"embedding": [1.0]}, "embedding") == Vectors(found=None, prompt_tokens=None)


@pytest.mark.parametrize(
    ("size", "count", "steps"),
    [
        pytest.param(999, 65, [65], id="a small one in one step"),
        pytest.param(999, 200, [66, 66, 66, 2], id="a large one in steps of so many bytes"),
        pytest.param(99, 2000, [500, 500, 500, 500], id="or of so many parts"),
    ],
)
def test_the_parts_of_a_stream_are_given_step_by_step(size: int, count: int, steps: list[int]) -> None:
    part = b"x" * size
    found = list(split((part + b"\n") * count, b"\n"))
    assert [len(parts) for parts in found] == steps
    assert {text for parts in found for text in parts} == {part}


@pytest.mark.parametrize("count", [65, 200])
def test_a_torn_stream_ends_with_no_parts(count: int) -> None:
    whole = (b"x" * 999 + b"\n") * count
    assert list(split(whole + b"x", b"\n"))[-1] == []
    assert list(split(whole, b"\n"))[-1] != []
