"""The recorded responses of a real Ollama, compared with the simulator's: every byte except those that vary.

The recording began on a server that had just answered an embedding of all-minilm and a completion of tiny, and that was
built without a version number; `_as_recorded` brings a fresh simulator to the same point.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import RawAnswer, ask

RECORDING: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "wire" / "ollama-0.24.json").read_text("utf-8")
)
_VARYING = (
    (re.compile(r'"(created_at|modified_at|expires_at)":"[^"]+"'), r'"\1":"T"'),
    (re.compile(r'"(created|created_at|completed_at)":\d+'), r'"\1":0'),
    (re.compile(r'"(\w+_duration)":\d+'), r'"\1":1'),
    (re.compile(r'"(chatcmpl|cmpl|resp|msg)([-_])[0-9a-f]+"'), r'"\1\g<2>X"'),
)


def _normalised(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text


async def _as_recorded() -> Simulator:
    simulator = Simulator(Behaviour(completion_delay=0, embedding_delay=0, version="0.0.0"))
    await simulator.start()
    for path, body in (
        ("/api/generate", {"model": "tiny", "prompt": "warm", "options": {"num_predict": 1}}),
        ("/api/embed", {"model": "all-minilm", "input": "warm", "keep_alive": "6m"}),
    ):
        answer = await ask(simulator.url, "POST", path, body=json.dumps(body).encode())
        assert answer.status == 200
    return simulator


def _quantising(chunks: list[str]) -> list[str]:
    """Return progress lines with runs of numbers that depend on timing made one."""
    lines: list[str] = []
    for chunk in chunks:
        line = re.sub(r'"completed":\d+', '"completed":N', chunk)
        if not (lines and lines[-1] == line and "quantizing" in line):
            lines.append(line)
    return lines


def _compare_heads(answer: RawAnswer, response: dict[str, Any]) -> None:
    assert answer.status_line == response["status_line"]
    recorded = [tuple(field) for field in response["headers"]]
    assert [name for name, _ in answer.fields] == [name for name, _ in recorded]
    for (name, value), (_, before) in zip(answer.fields, recorded, strict=True):
        # The recorded length counts digits of durations and instants; its own body is the measure.
        if name == "Date":
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", value)
        elif name == "Content-Length" and answer.body:
            assert int(value) == len(answer.body)
        else:
            assert value == before, name


async def _replay() -> dict[str, RawAnswer]:
    simulator = await _as_recorded()
    found: dict[str, RawAnswer] = {}
    for name, case in RECORDING.items():
        request = case["request"]
        body = None if request["body"] is None else request["body"].encode("latin-1")
        found[name] = await ask(
            simulator.url, request["method"], request["path"], fields=request.get("headers"), body=body
        )
    await simulator.stop()
    return found


@pytest.fixture(scope="module")
def answers() -> dict[str, RawAnswer]:
    """All recorded requests, sent in order, since later ones depend on earlier ones."""
    return asyncio.run(_replay())


@pytest.mark.parametrize("name", RECORDING)
def test_as_recorded(name: str, answers: dict[str, RawAnswer]) -> None:
    answer, response = answers[name], RECORDING[name]["response"]
    _compare_heads(answer, response)
    before = [chunk["data"] for chunk in response.get("chunks") or ()]
    chunks = [_normalised(chunk.decode()) for chunk in answer.chunks]
    if name in ("create_quantize", "create_quantize_bad"):
        assert _quantising(chunks) == _quantising(before)
        return
    assert chunks == [_normalised(chunk) for chunk in before]
    if not before:
        assert _normalised(answer.body.decode()) == _normalised(response["body"] or "")


def test_every_case_is_replayed() -> None:
    assert len(RECORDING) == 96
