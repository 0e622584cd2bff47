from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from ollama_cache_proxy.cli.checks import of_proxy
from ollama_cache_proxy.cli.checks.finding import Level


@pytest.mark.parametrize(
    ("kept", "passed", "level", "said"),
    [
        (0, {}, Level.NOTE, "too few"),
        (10, {"stream": 9}, Level.NOTE, "too few"),
        (100, {"stream": 10}, Level.OK, "10 of 110 requests"),
        (
            10,
            {"stream": 60, "opt-in": 40},
            Level.WARNING,
            "100 of 110 requests since the proxy started bypassed the cache, mostly (60)",
        ),
        (0, {"opt-in": 40}, Level.WARNING, "(opt-in)"),
        (30, {"endpoint": 1000, "no-prompt": 500}, Level.OK, "0 of 30"),
    ],
)
def test_whether_traffic_is_cacheable(kept: int, passed: dict[str, int], level: Level, said: str) -> None:
    finding = of_proxy.judged(kept, Counter(passed))
    assert (finding.level, said in finding.text) == (level, True), finding
    assert bool(finding.fix) == (level is Level.WARNING)


@pytest.mark.parametrize(
    ("figures", "level", "said"),
    [
        ((0, 0, 4096, 0), Level.OK, "0 of 4,096 places for clients are taken, 0 of them by idle ones"),
        ((448, 448, 448, 0), Level.OK, "448 of 448"),
        ((448, 45, 448, 0), Level.OK, "45 of them"),
        ((448, 44, 448, 0), Level.WARNING, "44 of them"),
        ((10, 0, 448, 3), Level.WARNING, "3 clients were refused"),
    ],
)
def test_whether_there_is_room_for_clients(figures: tuple[int, int, int, int], level: Level, said: str) -> None:
    finding = of_proxy.roomy(*figures)
    assert (finding.level, said in finding.text) == (level, True), finding
    assert bool(finding.fix) == (level is Level.WARNING)


@pytest.mark.parametrize(
    ("checked", "wrong", "level", "said"),
    [
        (0, 0, Level.OK, "0 hits checked, 0 wrong, since 2023-11-14"),
        (1, 0, Level.OK, "1 hit checked, 0 wrong, since 2023-11-14"),
        (1234, 2, Level.WARNING, "1,234 hits checked, 2 wrong, since 2023-11-14"),
    ],
)
def test_what_the_audit_found(checked: int, wrong: int, level: Level, said: str) -> None:
    finding = of_proxy.audited(checked, wrong, 1_700_000_000.0)
    assert (finding.level, finding.text) == (level, said)
    assert bool(finding.fix) == bool(wrong)


def line(**row: Any) -> bytes:
    return orjson.dumps(row) + b"\n"


@pytest.mark.parametrize(
    ("pieces", "level"),
    [
        ([(0.0, line(response="a")), (0.9, line(done=True, eval_duration=10**9))], Level.OK),
        ([(0.0, line(response="a")), (0.4, line(done=True, eval_duration=10**9))], Level.PROBLEM),
        ([(0.0, line(response="a") + line(done=True, eval_duration=10**9))], Level.PROBLEM),
        ([(0.0, line(response="a") + line(done=True, eval_duration=10**6))], Level.NOTE),
        ([], Level.NOTE),
        ([(0.0, line(error="broken"))], Level.PROBLEM),
    ],
)
def test_how_a_stream_is_judged(pieces: list[tuple[float, bytes]], level: Level) -> None:
    assert of_proxy.judged_stream(200, pieces, "tiny").level is level


FOUND = {"sentence": "a client: a number changes", "fix": "leave it out"}


@pytest.mark.parametrize(
    ("told", "level", "said"),
    [
        ({"watched": False}, Level.OK, "not looked at"),
        ({"prompts": 0}, Level.OK, "0 prompts so far, 0% of their tokens"),
        ({"prompts": 1, "tokens": 100, "reusedTokens": 25}, Level.OK, "1 prompt so far, 25% of their tokens"),
        ({"findings": [FOUND]}, Level.WARNING, "a number changes"),
    ],
)
def test_what_is_read_again(told: dict[str, Any], level: Level, said: str) -> None:
    nothing: dict[str, Any] = {"watched": True, "prompts": 0, "tokens": 0, "reusedTokens": 0, "findings": []}
    (finding,) = of_proxy.reread({**nothing, **told})
    assert (finding.level, said in finding.text) == (level, True), finding
    assert bool(finding.fix) == (level is Level.WARNING)
