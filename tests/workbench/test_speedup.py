from __future__ import annotations

from ollama_cache_proxy.workbench.sheet import markdown
from ollama_cache_proxy.workbench.speedup import Found, Streamed, document, sheet, stream_sheet
from ollama_cache_proxy.workbench.spread import spread

FOUND = Found(operation="Completion", direct=spread([2.0]), miss=spread([2.1]), hit=spread([0.001]))
UNKEPT = Found(operation="Embedding", direct=spread([0.3]), miss=spread([0.3]), hit=None, note="opt-in")
STREAMED = Streamed(
    first_direct=spread([0.1]),
    first_proxied=spread([0.101]),
    chunk_direct=spread([0.02]),
    chunk_proxied=spread([0.019]),
)


def test_the_table_of_operations() -> None:
    lines = markdown(sheet([FOUND, UNKEPT])).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Operation", "Without cache", "Hit", "Speedup", "Miss"]
    assert cells[2] == [
        "Completion",
        "2.00 s (2.00 s to 2.00 s)",
        "1 ms (1 ms to 1 ms)",
        "2,000x",
        "2.10 s (2.10 s to 2.10 s)",
    ]
    assert cells[3][2:4] == ["–", "–"]


def test_what_the_proxy_adds_to_a_stream_has_a_sign() -> None:
    assert [row[3] for row in stream_sheet(STREAMED).rows] == ["+1 ms", "-1 ms"]


def test_everything_is_there_as_json() -> None:
    told = document([FOUND, UNKEPT], STREAMED, {"rounds": 1})
    assert told["rounds"] == 1
    assert told["operations"][0]["speedup"] == 2000.0
    assert told["operations"][0]["hit"] == {"median": 0.001, "low": 0.001, "high": 0.001, "count": 1}
    assert told["operations"][1]["hit"] is told["operations"][1]["speedup"] is None
    assert told["operations"][1]["note"] == "opt-in"
    assert told["stream"]["firstToken"]["proxied"]["median"] == 0.101
    assert document([FOUND], None, {})["stream"] is None


def test_streams_without_tokens_are_told_as_such() -> None:
    empty = Streamed(first_direct=None, first_proxied=spread([0.1]), chunk_direct=None, chunk_proxied=None)
    assert [row[1:] for row in stream_sheet(empty).rows] == [
        ("not told", "100 ms (100 ms to 100 ms)", "not told"),
        ("not told", "not told", "not told"),
    ]
    told = document([FOUND], empty, {})["stream"]
    assert told["firstToken"]["direct"] is told["perToken"]["direct"] is told["perToken"]["proxied"] is None
