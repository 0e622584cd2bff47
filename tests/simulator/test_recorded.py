"""The recorded responses of real Ollamas, compared with the simulator's: every byte except those that vary."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer
from tests.support.recordings import RECORDINGS, before, begin, recorded_behaviour, send, settled

CASES = [(release, name) for release, cases in RECORDINGS.items() for name in cases]
Answers = dict[tuple[str, str], RawAnswer]


def _quantising(chunks: list[bytes]) -> list[bytes]:
    """Return progress lines with runs of numbers that depend on timing made one."""
    lines: list[bytes] = []
    for chunk in chunks:
        line = re.sub(rb'"completed":\d+', b'"completed":N', chunk)
        if not (lines and lines[-1] == line and b"quantizing" in line):
            lines.append(line)
    return lines


def _compare_heads(answer: RawAnswer, response: dict[str, Any]) -> None:
    assert answer.status_line == response["status_line"]
    recorded = [tuple(field) for field in response["headers"]]
    assert [name for name, _ in answer.fields] == [name for name, _ in recorded]
    for (name, value), (_, expected) in zip(answer.fields, recorded, strict=True):
        # The recorded length counts digits of durations and instants; its own body is the measure.
        if name == "Date":
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", value)
        elif name == "Content-Length" and answer.body:
            assert int(value) == len(answer.body)
        else:
            assert value == expected, name


async def _replay() -> Answers:
    found: Answers = {}
    for release, cases in RECORDINGS.items():
        async with Simulator(recorded_behaviour(release)) as simulator:
            await begin(simulator)
            for name, case in cases.items():
                before(simulator, name)
                found[release, name] = await send(simulator.url, case)
    return found


@pytest.fixture(scope="module")
def answers() -> Answers:
    """All recorded requests, sent in order, since later ones depend on earlier ones."""
    return asyncio.run(_replay())


@pytest.mark.parametrize(("release", "name"), CASES)
def test_as_recorded(release: str, name: str, answers: Answers) -> None:
    answer, response = answers[release, name], RECORDINGS[release][name]["response"]
    _compare_heads(answer, response)
    recorded = [settled(chunk["data"].encode()) for chunk in response.get("chunks") or ()]
    chunks = [settled(chunk) for chunk in answer.chunks]
    if release == "0.24" and name in ("create_quantize", "create_quantize_bad"):
        assert _quantising(chunks) == _quantising(recorded)
        return
    assert chunks == recorded
    if not recorded:
        assert settled(answer.body) == settled((response.get("body") or "").encode())


def test_every_case_is_replayed() -> None:
    assert {release: len(cases) for release, cases in RECORDINGS.items()} == {"0.24": 96, "0.33": 128}
