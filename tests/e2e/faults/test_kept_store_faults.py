"""A private store that is kept, row 51: what was cleared stays cleared, whatever is killed or cut off."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.keeping import EMBED, Place, Serving, place_of_a_person
from tests.support.rawhttp import RawAnswer, ask

pytestmark = [
    pytest.mark.row(51),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_factories=["uvloop"]),  # the proxy is a process of its own
]

INTERVAL: Final = 2.0
"""Seconds: what was written before may be lost by no kill (docs/operations.md)."""
SOON: Final = 10.0
"""Seconds after which what was cleared is in no file."""

Delete: TypeAlias = Callable[[Serving], Awaitable[int]]


@pytest.fixture
def place(simulator: Simulator, tmp_path: Path) -> Iterator[Place]:
    with place_of_a_person(simulator.url, tmp_path) as own:
        yield own


async def embedded(serving: Serving, text: str, namespace: str = "") -> RawAnswer:
    body = json.dumps({"model": "all-minilm", "input": text}).encode()
    fields = {"X-Cache-Namespace": namespace} if namespace else None
    return await ask(serving.url, "POST", EMBED, fields=fields, body=body)


def vectors(answer: RawAnswer) -> Any:
    assert answer.status == 200
    return json.loads(answer.body)["embeddings"]


async def clear(serving: Serving) -> int:
    return await _cleared(serving, "POST", "/api/cache/clear")


async def purge(serving: Serving) -> int:
    return await _cleared(serving, "POST", "/api/cache/clear", b'{"model": "all-minilm"}')


async def delete(serving: Serving) -> int:
    listed = json.loads((await ask(serving.url, "GET", "/api/cache/entries")).body)["entries"]
    return sum([await _cleared(serving, "DELETE", f"/api/cache/entries/{entry['key']}") for entry in listed])


async def purge_some(serving: Serving) -> int:
    """Purge what was asked in the namespace `cleared`."""
    return await _cleared(serving, "POST", "/api/cache/clear", b'{"namespace": "cleared"}')


async def _cleared(serving: Serving, method: str, path: str, body: bytes = b"") -> int:
    answer = await ask(serving.url, method, path, body=body)
    assert answer.status == 200, answer.body
    return int(json.loads(answer.body)["cleared"])


WAYS: Final = (clear, purge, delete)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_was_cleared_stays_cleared_when_both_are_killed(
    workers: str, way: Delete, place: Place, measured: Measured
) -> None:
    texts = [f"{canary.PROMPT} {number}" for number in range(5)]
    async with place.serve("--workers", workers) as before:
        await before.ask(*texts)
        await before.hits(*texts)
        assert await way(before) == len(texts)
        await before.kill_all()
    async with place.serve("--workers", workers) as after:
        await after.hits("another")
        answers = await after.ask(*texts)
        measured(51, "revived", answers.count("HIT"))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_was_answered_before_is_known_when_both_are_killed(
    workers: str, place: Place, measured: Measured
) -> None:
    answered: list[tuple[str, Any, float]] = []
    async with place.serve("--workers", workers) as before:
        begun = time.monotonic()
        while time.monotonic() - begun < INTERVAL + 1.0:
            text = f"{canary.PROMPT} {len(answered)}"
            answered.append((text, vectors(await embedded(before, text)), time.monotonic()))
        killed = time.monotonic()
        await before.kill_all()
    async with place.serve("--workers", workers) as after:
        await after.hits("another")
        lost = wrong = 0
        for text, vector, at in answered:
            answer = await embedded(after, text)
            wrong += vectors(answer) != vector
            lost += answer.field("X-Cache") != "HIT" and killed - at > INTERVAL
    assert answered[0][2] < killed - INTERVAL
    measured(51, "lost", lost)
    measured(51, "wrong", wrong)


CUTS: Final = 3
"""Places at which each file is cut for a whole proxy; tests/stores/redis/test_deletions.py has many more."""


async def test_nothing_wrong_or_cleared_is_served_from_files_that_are_cut(place: Place, measured: Measured) -> None:
    asked = [(f"{canary.PROMPT} {number}", "cleared" if number < 3 else "") for number in range(6)]
    async with place.serve() as before:
        right = [vectors(await embedded(before, *one)) for one in asked]
        await before.hits("another")
        assert await purge_some(before) == 3
        await before.kill_all()
    files = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    draw = Random(51)
    revived = wrong = 0
    for path, content in files.items():
        if path.name != "store.json" and path.parent.name != "entries":
            continue
        for _ in range(CUTS):
            for name in {name for name in place.folder.rglob("*") if name.is_file()} - files.keys():
                name.unlink()
            for name, whole in files.items():
                name.parent.mkdir(exist_ok=True)
                name.write_bytes(whole)
            path.write_bytes(content[: draw.randrange(len(content) or 1)])
            async with place.serve() as after:
                await after.hits("another")
                answers = [await embedded(after, *one) for one in asked]
                wrong += [vectors(answer) for answer in answers] != right
                revived += [answer.field("X-Cache") for answer in answers[:3]].count("HIT")
                assert not after.said("Traceback")
                await after.kill_all()
    measured(51, "revived", revived)
    measured(51, "wrong", wrong)


def planted(folder: Path, text: bytes) -> list[str]:
    """Give the files that hold a text; one that goes while it is read does not."""
    found = []
    for path in folder.rglob("*"):
        try:
            content = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue
        found += [path.name] if text in content else []
    return found


async def gone(folder: Path, text: bytes) -> float:
    """Wait until no file holds a text; return how many seconds that took."""
    begun = time.monotonic()
    async with asyncio.timeout(5 * SOON):
        while planted(folder, text):  # noqa: ASYNC110 - it is another process that writes
            await asyncio.sleep(0.05)
    return time.monotonic() - begun


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_cleared_is_soon_in_no_file(way: Delete, place: Place, measured: Measured) -> None:
    async with place.serve() as serving:
        await embedded(serving, canary.PROMPT, namespace="planted-and-cleared")
        await serving.hits("another")
        await place.scrubbed()  # what is removed for the start is not what this is about
        assert planted(place.folder, b"planted-and-cleared")
        assert await way(serving) == 2
        measured(51, "in files", await gone(place.folder, b"planted-and-cleared"))


async def test_what_was_cleared_just_before_the_end_is_in_no_file_after_it(place: Place) -> None:
    async with place.serve() as serving:
        await embedded(serving, canary.PROMPT, namespace="planted-and-cleared")
        await serving.hits("another")
        await place.scrubbed()  # what is removed for the start is not what this is about
        assert planted(place.folder, b"planted-and-cleared")
        await clear(serving)
        await serving.end()
    assert not planted(place.folder, b"planted-and-cleared")


async def test_what_has_expired_is_in_no_file_soon_after_a_start(place: Place, measured: Measured) -> None:
    async with place.serve(OCP_TTL_EMBEDDING="2") as serving:
        await embedded(serving, canary.PROMPT, namespace="planted-and-expired")
        await serving.hits("another")
        assert planted(place.folder, b"planted-and-expired")
        await serving.kill_all()
    await asyncio.sleep(2.5)
    assert planted(place.folder, b"planted-and-expired")
    async with place.serve():
        measured(51, "in files", await gone(place.folder, b"planted-and-expired"))


async def test_a_hot_tier_holds_nothing_that_a_restart_of_the_server_dropped(place: Place, measured: Measured) -> None:
    """The server alone is killed, and loses an answered deletion: all that it loads is dropped."""
    async with place.serve() as first, place.serve() as second:
        await first.hits("one", "two")
        await second.hits("another")
        await embedded(second, canary.PROMPT, "cleared")
        await place.scrubbed()
        (written,) = (place.folder / "entries").glob("*.incr.aof")
        size = written.stat().st_size
        assert await purge_some(second) == 1
        first.kill_server()
        with written.open("r+b") as file:
            file.truncate(size)
        assert await first.command.line(lambda line: "it lacks deletions that were answered" in line)
        answers = [*await first.ask("one"), *await second.ask("another", "two")]
        answers.append((await embedded(first, canary.PROMPT, "cleared")).field("X-Cache"))
        measured(51, "revived", answers.count("HIT"))
        await first.hits("one")
        await second.hits("another", "one")
